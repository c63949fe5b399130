//! The hand-off of a request to a thread of its own.

mod common;

use std::sync::mpsc;

use criterion::{Criterion, Throughput};
use fastsocketserver::dispatch::{Dispatch, Task, Threads};

const BURST: u64 = 64;

fn main() {
    common::run(hand_off);
}

fn hand_off(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("threads");
    group.bench_function("one, until it runs", |bencher| {
        let mut threads = Threads::default();
        let (sender, receiver) = mpsc::channel();
        bencher.iter(|| {
            let sender = sender.clone();
            let task = Task::new(move || sender.send(()).expect("the bench receives"));
            threads.dispatch(task).expect("a thread");
            receiver.recv().expect("the task runs");
        });
        threads.close();
    });
    group.throughput(Throughput::Elements(BURST));
    group.bench_function("64, until all have ended", |bencher| {
        let mut threads = Threads::default();
        bencher.iter(|| {
            for _ in 0..BURST {
                threads.dispatch(Task::new(|| ())).expect("a thread");
            }
            threads.close();
        });
    });
    group.finish();
}

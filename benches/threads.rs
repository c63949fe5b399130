//! The hand-off of a request to a thread of its own.

use std::sync::mpsc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use fastsocketserver::{Dispatch, Threads};

const BURST: u64 = 64;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    hand_off(&mut criterion);
    criterion.final_summary();
}

fn hand_off(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("threads");
    group.bench_function("one, until it runs", |bencher| {
        let mut threads = Threads::default();
        let (sender, receiver) = mpsc::channel();
        bencher.iter(|| {
            let sender = sender.clone();
            let task = Box::new(move || sender.send(()).expect("the bench receives"));
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
                threads.dispatch(Box::new(|| ())).expect("a thread");
            }
            threads.close();
        });
    });
    group.finish();
}

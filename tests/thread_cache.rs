//! `ThreadCache` and the end of servers, with as much going on at once as there can be.

use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use fastsocketserver::{Request, Server, ThreadCache, Threads, Worker};

mod common;
use common::{DEADLINE, Running, try_ask, wait_for};

type Job = Box<dyn FnOnce() + Send>;

fn cache() -> ThreadCache<Job> {
    ThreadCache::new(|worker: &Worker<Job>| worker.run_each(|job| job()))
}

#[test]
fn every_job_runs_once_whatever_is_closed_meanwhile() {
    const GIVERS: usize = 4;
    const EACH: usize = 2000;
    let cache = Arc::new(cache());
    let runs: Arc<Vec<AtomicUsize>> =
        Arc::new((0..GIVERS * EACH).map(|_| AtomicUsize::new(0)).collect());
    let givers: Vec<_> = (0..GIVERS)
        .map(|giver| {
            let (cache, runs) = (Arc::clone(&cache), Arc::clone(&runs));
            thread::spawn(move || {
                for number in giver * EACH..(giver + 1) * EACH {
                    let runs = Arc::clone(&runs);
                    let job = Box::new(move || {
                        runs[number].fetch_add(1, Ordering::SeqCst);
                    });
                    cache.hand_over(job as Job, 0).expect("a thread");
                    match number % 100 {
                        0 => cache.retire_idle(),
                        50 => cache.close(),
                        _ => {}
                    }
                }
            })
        })
        .collect();
    for giver in givers {
        giver.join().expect("no panic");
    }
    cache.join();
    wait_for("every job to have run", || {
        runs.iter().all(|runs| runs.load(Ordering::SeqCst) > 0).then_some(())
    });
    cache.join();
    assert!(runs.iter().all(|runs| runs.load(Ordering::SeqCst) == 1));
    assert_eq!(cache.idle(), 0);
}

#[test]
fn a_cache_that_was_closed_takes_jobs() {
    let cache = cache();
    for _ in 0..3 {
        let (sender, receiver) = mpsc::channel();
        let job: Job = Box::new(move || sender.send(()).expect("a receiver"));
        cache.hand_over(job, 0).expect("a thread");
        receiver.recv_timeout(DEADLINE).expect("it runs");
        cache.join();
        assert_eq!(cache.idle(), 0);
    }
}

fn echo(request: &mut Request) -> io::Result<()> {
    let mut line = String::new();
    request.read_line(&mut line)?;
    request.write_all(line.as_bytes())
}

#[test]
fn a_server_ends_under_load_with_nothing_lost() {
    for round in 0..20 {
        let limit = round % 4 + 1;
        let threads = Threads::new().max_threads(limit);
        let running = Running::stream(Server::builder(echo).dispatch(threads));
        let address = running.inet();
        let clients: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(move || {
                    let answers = (0..20).map_while(|_| try_ask(address, "a\n").ok());
                    answers.filter(|answer| answer == "a\n").count()
                })
            })
            .collect();
        let handle = running.handle.clone();
        wait_for("some answers", || (handle.stats().finished > 5).then_some(()));
        if round % 2 == 0 {
            assert_eq!(handle.drain(DEADLINE), 0);
            running.join();
        } else {
            running.shut_down();
        }
        let answered: usize =
            clients.into_iter().map(|client| client.join().expect("no panic")).sum();
        let stats = handle.stats();
        assert_eq!((stats.active, stats.failed), (0, 0), "{stats:?}");
        assert_eq!((stats.accepted, stats.finished), (answered as u64, answered as u64));
    }
}

#[test]
fn joining_waits_also_for_threads_that_others_start() {
    for _ in 0..200 {
        let cache = cache();
        let runs = Arc::new(AtomicUsize::new(0));
        for _ in 0..8 {
            let runs = Arc::clone(&runs);
            let job: Job = Box::new(move || {
                thread::yield_now();
                runs.fetch_add(1, Ordering::SeqCst);
            });
            cache.hand_over(job, 0).expect("a thread");
        }
        cache.join();
        assert_eq!(runs.load(Ordering::SeqCst), 8);
    }
}

//! The loop, with a service that plays each part.

use std::collections::VecDeque;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use fastsocketserver::event_loop::{Admission, Progress, Readiness, Selector, Source, run};
use fastsocketserver::{Service, Waker};

/// Answers `ready` from a script, then stops.
struct Scripted {
    listener: TcpListener,
    clients: Vec<TcpStream>,
    script: VecDeque<Progress>,
    selects: usize,
    waited: usize,
    ready: usize,
    troubled: Vec<String>,
}

impl Scripted {
    fn new(script: impl IntoIterator<Item = Progress>) -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").expect("bind"),
            clients: Vec::new(),
            script: script.into_iter().collect(),
            selects: 0,
            waited: 0,
            ready: 0,
            troubled: Vec::new(),
        }
    }

    /// Connects a client, so that the listener stays readable: nobody here accepts.
    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.listener.local_addr().expect("bound")).expect("connect")
    }

    fn run(&mut self, poll_interval: Duration) {
        run(self, &Waker::default(), Some(poll_interval)).expect("ran");
    }
}

impl Service for Scripted {
    type Error = io::Error;

    fn stopping(&mut self) -> io::Result<bool> {
        Ok(self.script.is_empty())
    }

    fn source(&mut self) -> io::Result<Option<Source>> {
        Ok(Some(Source { fd: self.listener.as_raw_fd(), identity: 0 }))
    }

    fn select(
        &mut self,
        selector: &mut Selector,
        timeout: Option<Duration>,
    ) -> io::Result<Readiness> {
        self.selects += 1;
        selector.select(timeout)
    }

    fn ready(&mut self, _certain: bool) -> io::Result<Progress> {
        self.ready += 1;
        let progress = self.script.pop_front().expect("stopped when empty");
        if matches!(progress, Progress::Empty) {
            // Only what comes after the listener was seen empty ends the next wait.
            let client = self.connect();
            self.clients.push(client);
        }
        Ok(progress)
    }

    fn waited(&mut self) -> io::Result<()> {
        self.waited += 1;
        Ok(())
    }

    fn troubled(&mut self, error: &io::Error) -> bool {
        self.troubled.push(error.to_string());
        true
    }
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn a_listener_known_to_be_readable_is_not_waited_for() {
    let mut service = Scripted::new([Progress::More, Progress::More, Progress::More]);
    let _client = service.connect();
    service.run(LONG);
    assert_eq!((service.selects, service.ready, service.waited), (1, 3, 3));
}

#[test]
fn one_that_is_still_readable_is_reported_again_when_only_the_kernel_knows() {
    let mut service = Scripted::new([Progress::Unknown, Progress::Unknown]);
    let _client = service.connect();
    service.run(LONG);
    assert_eq!((service.selects, service.ready), (2, 2));
}

#[test]
fn one_of_which_enough_was_taken_is_waited_for_and_each_request_is_a_round() {
    let mut service = Scripted::new([Progress::More, Progress::Enough, Progress::More]);
    let _client = service.connect();
    service.run(LONG);
    assert_eq!((service.selects, service.ready, service.waited), (2, 3, 3));
}

#[test]
fn an_empty_one_is_waited_for() {
    let mut service = Scripted::new([Progress::Empty, Progress::More]);
    let first = service.connect();
    service.clients.push(first);
    service.run(LONG);
    assert_eq!((service.selects, service.ready), (2, 2));
}

#[test]
fn trouble_is_told_once_and_tried_again_less_and_less_often() {
    let failed = || Progress::Failed(io::Error::from_raw_os_error(24));
    let mut service = Scripted::new([failed(), failed(), failed(), Progress::More]);
    let _client = service.connect();
    let begin = Instant::now();
    service.run(LONG);
    assert!(begin.elapsed() >= Duration::from_millis(5 + 10 + 20));
    assert_eq!((service.troubled.len(), service.ready), (1, 4));
}

#[test]
fn a_new_connection_does_not_cut_a_pause_short() {
    let failed = || Progress::Failed(io::Error::from_raw_os_error(24));
    let mut service = Scripted::new([failed(), failed(), failed(), failed(), Progress::More]);
    let _clients: Vec<TcpStream> = (0..50).map(|_| service.connect()).collect();
    let before = service.selects;
    service.run(LONG);
    // One wait to begin with; each pause costs its own wait, and one to have the listener reported.
    assert!(service.selects - before <= 2 * 4 + 1, "{} waits", service.selects);
}

/// What ends a run: each part is played by hand.
struct Ending<'a> {
    listener: Option<TcpListener>,
    waker: &'a Waker,
    woken: bool,
    on_select: fn(&mut Self),
}

impl<'a> Ending<'a> {
    fn new(waker: &'a Waker, on_select: fn(&mut Self)) -> Self {
        let listener = Some(TcpListener::bind("127.0.0.1:0").expect("bind"));
        Self { listener, waker, woken: false, on_select }
    }
}

impl Service for Ending<'_> {
    type Error = io::Error;

    fn stopping(&mut self) -> io::Result<bool> {
        Ok(self.woken)
    }

    fn source(&mut self) -> io::Result<Option<Source>> {
        Ok(self.listener.as_ref().map(|listener| Source { fd: listener.as_raw_fd(), identity: 0 }))
    }

    fn select(
        &mut self,
        selector: &mut Selector,
        timeout: Option<Duration>,
    ) -> io::Result<Readiness> {
        (self.on_select)(self);
        let readiness = selector.select(timeout)?;
        self.woken = readiness.woken;
        Ok(readiness)
    }

    fn ready(&mut self, _certain: bool) -> io::Result<Progress> {
        Ok(Progress::Unknown)
    }

    fn waited(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn troubled(&mut self, _error: &io::Error) -> bool {
        true
    }
}

#[test]
fn a_waker_ends_a_wait_without_limit_also_when_it_came_first() {
    let waker = Waker::default();
    let mut service = Ending::new(&waker, |service| {
        assert!(service.waker.is_current_thread());
        service.waker.wake().expect("woken");
    });
    run(&mut service, &waker, None).expect("ran");
    assert!(!waker.is_current_thread());
}

#[test]
fn a_service_without_a_source_is_at_its_end() {
    let waker = Waker::default();
    let mut service = Ending::new(&waker, |service| service.listener = None);
    run(&mut service, &waker, Some(Duration::from_millis(1))).expect("ran");
}

/// Says from a script whether it takes a request, and ends with the first that it takes.
struct Gated<'a> {
    listener: TcpListener,
    answers: VecDeque<Admission>,
    answered: Admission,
    waker: Option<&'a Waker>,
    selects: usize,
    is_over: bool,
}

impl<'a> Gated<'a> {
    fn new(answers: impl IntoIterator<Item = Admission>, waker: Option<&'a Waker>) -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").expect("bind"),
            answers: answers.into_iter().collect(),
            answered: Admission::Open,
            waker,
            selects: 0,
            is_over: false,
        }
    }
}

impl Service for Gated<'_> {
    type Error = io::Error;

    fn stopping(&mut self) -> io::Result<bool> {
        Ok(self.is_over)
    }

    fn source(&mut self) -> io::Result<Option<Source>> {
        Ok(Some(Source { fd: self.listener.as_raw_fd(), identity: 0 }))
    }

    fn admission(&mut self) -> io::Result<Admission> {
        self.answered = self.answers.pop_front().unwrap_or(Admission::Open);
        Ok(self.answered)
    }

    fn select(
        &mut self,
        selector: &mut Selector,
        timeout: Option<Duration>,
    ) -> io::Result<Readiness> {
        self.selects += 1;
        if let Some(waker) = self.waker {
            waker.wake()?;
        }
        selector.select(timeout)
    }

    fn ready(&mut self, _certain: bool) -> io::Result<Progress> {
        assert_eq!(self.answered, Admission::Open);
        self.is_over = true;
        Ok(Progress::More)
    }

    fn waited(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn troubled(&mut self, _error: &io::Error) -> bool {
        true
    }
}

#[test]
fn a_service_that_takes_nothing_is_asked_again_when_the_loop_is_woken() {
    let waker = Waker::default();
    let mut service = Gated::new([Admission::Closed; 5], Some(&waker));
    let _client =
        TcpStream::connect(service.listener.local_addr().expect("bound")).expect("connect");
    run(&mut service, &waker, None).expect("ran");
    // Asked before a wait and after it, and the third time the second answer was yes.
    assert_eq!(service.selects, 3);
}

#[test]
fn a_service_that_nobody_wakes_is_asked_again_after_the_time_that_it_says() {
    let waker = Waker::default();
    let answer = Admission::ClosedFor(Duration::from_millis(1));
    let mut service = Gated::new([answer; 5], None);
    let _client =
        TcpStream::connect(service.listener.local_addr().expect("bound")).expect("connect");
    run(&mut service, &waker, None).expect("ran");
    assert_eq!(service.selects, 3);
}

#[test]
fn a_request_that_came_while_none_was_taken_is_still_known_of() {
    let waker = Waker::default();
    // The first wait brings the news, and the second is ended by the waker alone.
    let mut service = Gated::new([Admission::Closed; 3], Some(&waker));
    let _client =
        TcpStream::connect(service.listener.local_addr().expect("bound")).expect("connect");
    run(&mut service, &waker, None).expect("ran");
    assert_eq!(service.selects, 2);
}

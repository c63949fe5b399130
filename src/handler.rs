//! What a Rust program implements to handle requests.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::control::{Outcome, Place};
use crate::replies::Replies;
use crate::request::Request;

/// Handles requests, one call each, blocking as it likes.
///
/// A plain closure is a handler too:
///
/// ```
/// use fastsocketserver::{Handler, Request};
/// use std::io::Write;
///
/// fn assert_handler(_: impl Handler) {}
/// assert_handler(|request: &mut Request| request.write_all(b"hello\n"));
/// ```
///
/// One with parts:
///
/// ```
/// use fastsocketserver::{Address, Handler, Request};
/// use std::io::{self, BufRead, Write};
///
/// struct Greeter {
///     greeting: String,
/// }
///
/// impl Handler for Greeter {
///     fn verify(&self, request: &Request) -> bool {
///         matches!(request.peer(), Some(Address::Inet(peer)) if peer.ip().is_loopback())
///     }
///
///     fn setup(&self, request: &mut Request) -> io::Result<()> {
///         writeln!(request, "{}", self.greeting)
///     }
///
///     fn handle(&self, request: &mut Request) -> io::Result<()> {
///         let mut name = String::new();
///         request.read_line(&mut name)?;
///         writeln!(request, "{}", name.trim())
///     }
///
///     fn error(&self, request: &Request, error: &io::Error) {
///         eprintln!("{:?}: {error}", request.peer());
///     }
/// }
/// ```
///
/// Which thread calls, and how many at once, is the dispatch's affair: hence `Send` and `Sync`. A
/// panic ends the request that it came from, and nothing else; the panic hook has reported it.
pub trait Handler: Send + Sync + 'static {
    /// Whether to handle `request`; one that is refused is closed. Default: yes.
    ///
    /// Called on the loop's thread, before the dispatch: it should not wait.
    fn verify(&self, request: &Request) -> bool {
        let _ = request;
        true
    }

    /// Prepares `request`. Default: nothing happens.
    ///
    /// # Errors
    ///
    /// As [`handle`](Self::handle), which is not called then, nor is [`finish`](Self::finish).
    fn setup(&self, request: &mut Request) -> io::Result<()> {
        let _ = request;
        Ok(())
    }

    /// Handles `request`. Its connection is shut down and closed afterwards.
    ///
    /// # Errors
    ///
    /// Whatever went wrong with this request; it goes to [`error`](Self::error) and ends nothing
    /// else. Nothing is replied to a datagram then.
    fn handle(&self, request: &mut Request) -> io::Result<()>;

    /// Called after [`handle`](Self::handle), also when that returned an error or panicked. Default:
    /// nothing happens.
    ///
    /// # Errors
    ///
    /// As `handle`; if both fail, that of `handle` counts.
    fn finish(&self, request: &mut Request) -> io::Result<()> {
        let _ = request;
        Ok(())
    }

    /// Told of an error that one of the others returned, or that sending a reply met. Default: nothing
    /// happens.
    fn error(&self, request: &Request, error: &io::Error) {
        let _ = (request, error);
    }
}

impl<F> Handler for F
where
    F: Fn(&mut Request) -> io::Result<()> + Send + Sync + 'static,
{
    fn handle(&self, request: &mut Request) -> io::Result<()> {
        self(request)
    }
}

/// Has `handler` handle `request` from beginning to end.
pub(crate) fn handle(handler: &impl Handler, mut request: Request) -> Outcome {
    let outcome = match handle_unanswered(handler, &mut request) {
        Outcome::Finished => match request.send_reply() {
            Ok(()) => Outcome::Finished,
            Err(error) => fail(handler, &request, &error),
        },
        Outcome::Failed => Outcome::Failed,
    };
    request.close();
    outcome
}

/// Has `handler` handle a datagram, the reply to which goes to `replies`, and so does its place.
pub(crate) fn handle_in_batch(
    handler: &impl Handler,
    mut request: Request,
    place: Place,
    replies: &Replies,
) {
    match handle_unanswered(handler, &mut request) {
        Outcome::Finished => replies.push(request, place),
        Outcome::Failed => place.settle(Outcome::Failed),
    }
}

/// As [`handle`], but for a datagram's reply, which is left to be sent.
fn handle_unanswered(handler: &impl Handler, request: &mut Request) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| run_parts(handler, request))) {
        Ok(Ok(())) => Outcome::Finished,
        Ok(Err(error)) => fail(handler, request, &error),
        Err(_) => Outcome::Failed,
    }
}

/// Tells `handler` what has failed for `request`; to panic there changes nothing.
pub(crate) fn fail(handler: &impl Handler, request: &Request, error: &io::Error) -> Outcome {
    let _ = catch_unwind(AssertUnwindSafe(|| handler.error(request, error)));
    Outcome::Failed
}

fn run_parts(handler: &impl Handler, request: &mut Request) -> io::Result<()> {
    handler.setup(request)?;
    let outcome = catch_unwind(AssertUnwindSafe(|| handler.handle(request)));
    let finished = handler.finish(request);
    outcome.unwrap_or_else(|panic| resume_unwind(panic)).and(finished)
}

/// Whether `handler` wants `request`; one that makes it panic is refused.
pub(crate) fn verify(handler: &impl Handler, request: &Request) -> bool {
    catch_unwind(AssertUnwindSafe(|| handler.verify(request))).unwrap_or(false)
}

//! A socket server with blocking handlers: bind, handle, stop.
//!
//! ```no_run
//! use fastsocketserver::{Error, Request, Server, Threads};
//! use std::io::{BufRead, Write};
//!
//! fn main() -> Result<(), Error> {
//!     let upper = |request: &mut Request| {
//!         let mut line = String::new();
//!         request.read_line(&mut line)?;
//!         request.write_all(line.to_uppercase().as_bytes())
//!     };
//!     let builder = Server::builder(upper).dispatch(Threads::new().max_threads(500));
//!     builder.bind(&"127.0.0.1:9999".parse()?)?.serve_forever()
//! }
//! ```
//!
//! Handlers read and write as if they were alone: no `async`, no runtime, no callbacks. One loop, on
//! mio, takes connections and datagrams, and hands each to whoever runs the handler. The same core
//! runs Python's `fastsocketserver` package (feature `python`), a drop-in for the standard library's
//! `socketserver`; without that feature nothing here knows of Python.
//!
//! # Which dispatch when
//!
//! | | runs a handler | take it when | do not when |
//! |---|---|---|---|
//! | [`Inline`] | on the loop's own thread, one at a time | answers take microseconds, or are datagrams (see [`batch_size`](Builder::batch_size)) | a handler waits for its client: one that says nothing stops all |
//! | [`Threads`] | in a thread of its own, which is kept for the next | connections stay open, or handlers wait | thousands of connections stay open: each costs a stack |
//! | [`Fork`] | in a process of its own | one that crashes or leaks shall harm nobody (about 1 ms each) | the program has other threads, or handlers share memory |
//!
//! Another one is a [`Dispatch`] of your own.
//!
//! # Endings
//!
//! A [`Handle`], which can be cloned and sent, steers a server from elsewhere:
//!
//! - [`shutdown`](Handle::shutdown) ends the loop, and waits for the requests that were taken;
//! - [`drain`](Handle::drain) gives them so much time, then closes what is left, and says how much;
//! - [`pause`](Handle::pause) and [`resume`](Handle::resume) leave new requests to the kernel for a
//!   while; [`stats`](Handle::stats) says what has been done.
//!
//! Each wakes the loop: none waits for the poll interval. No signal handler is installed; to end on
//! Ctrl-C, a program waits for that in its own way and calls its handle (`examples/graceful.rs`).
//!
//! # Limits
//!
//! - [`max_threads`](Threads::max_threads) and [`max_children`](Fork::max_children): at that number no
//!   more connections are accepted, and the kernel holds the next
//!   ([`backlog`](ListenOptions::backlog) of them). The loop goes on as soon as a place is free. A
//!   thread or child that cannot be started counts as that limit: the request waits for it.
//! - Want of descriptors or memory pauses accepting for 5 to 50 ms at a time, and is counted
//!   ([`Stats::accept_errors`]).
//! - A line may be as long as the client likes. Where that must not be, read through
//!   [`Read::take`](std::io::Read::take).
//! - A client may say nothing for as long as it likes: set a read timeout on the [`Request`]'s socket,
//!   with the crate `socket2`, as is shown [there](Request).
//! - A datagram is cut at [`max_packet_size`](ListenOptions::max_packet_size), and says so.
//!
//! Windows has no implementation yet.
//!
//! # Errors
//!
//! What goes wrong with one request is told to [`Handler::error`], counted, and ends that request
//! alone; so does a panic. What goes wrong with the server is an [`Error`], which keeps the system's
//! errno.
//!
//! By default, and with a closure for a handler always, [`Handler::error`] says nothing: such errors
//! show in [`Stats::failed`] alone.
//!
//! # The shape of the crate
//!
//! The loop asks its [`Service`] what to do; [`Server`] is one, the Python engine is another.
//!
//! | question | answered by |
//! |---|---|
//! | what has arrived? | a listener: [`Listener`] accepts streams, [`Datagram`] receives |
//! | may another be taken now? | the service: [`Service::admission`], by the dispatch's [`limit`](Dispatch::limit) |
//! | who runs the handler? | a [`Dispatch`]: [`Inline`], [`Threads`], [`Fork`] |
//! | how does one wait who would block? | a [`Wait`]: [`Blocking`] |
//!
//! The way of one request: `server.rs` (or `python/engine.rs`) → `event_loop.rs` (readable) →
//! `listener.rs` or `datagram.rs` (accept, receive) → `handler.rs` (or `python/hooks.rs`) → `dispatch/`
//! (inline, thread, child) → `control.rs` (the place is given back) → back to `event_loop.rs`. A
//! connection's bytes go through [`ReadBuffer`] and [`WriteBuffer`]; datagrams that are received
//! together come in a [`Batch`], and their replies wait for each other in `replies.rs`.
//!
//! # Features
//!
//! - `python`: the native half of the Python package, and `embed`, which makes it known to an
//!   interpreter that a Rust program has started. Off by default.

mod accept_failure;
mod address;
mod batch;
mod control;
mod datagram;
pub mod dispatch;
mod error;
pub mod event_loop;
mod handle;
mod handler;
mod listener;
mod options;
#[cfg(feature = "python")]
mod python;
mod reader;
mod replies;
mod request;
mod server;
mod stats;
mod stream;
mod sys;
mod thread_cache;
mod wait;
mod waker;
mod writer;

pub use accept_failure::AcceptFailure;
pub use address::{Address, AddressError};
pub use batch::Batch;
pub use datagram::{Datagram, Packet};
pub use dispatch::{Dispatch, Fork, Inline, Threads};
pub use error::Error;
pub use event_loop::Service;
pub use handle::Handle;
pub use handler::Handler;
pub use listener::Listener;
pub use options::ListenOptions;
#[cfg(feature = "python")]
pub use python::embed;
pub use reader::Reader;
pub use request::Request;
pub use server::{Builder, Server};
pub use stats::Stats;
pub use stream::{ReadBuffer, WriteBuffer};
pub use sys::Room;
pub use thread_cache::{HandOverError, ThreadCache, Worker};
pub use wait::{Blocking, Direction, Wait};
pub use waker::Waker;
pub use writer::Writer;

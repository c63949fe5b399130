//! A socket server with blocking handlers: bind, handle, stop.
//!
//! The same core runs Python's `fastsocketserver` package (feature `python`), a drop-in for the
//! standard library's `socketserver`. Without that feature nothing here knows of Python.
//!
//! # One loop, three questions
//!
//! There is one poll loop, on mio. It asks its [`Service`] what to do; [`Server`] is one, the Python
//! engine is another.
//!
//! | question | answered by |
//! |---|---|
//! | what has arrived? | a listener: [`Listener`] accepts streams, [`Datagram`] receives |
//! | who runs the handler? | a [`Dispatch`]: [`Inline`], [`Threads`], [`Fork`] |
//! | how does one wait who would block? | a [`Wait`]: [`Blocking`] |
//!
//! # The way of one request
//!
//! `server.rs` (or `python/engine.rs`) → `event_loop.rs` (readable) → `listener.rs` or `datagram.rs`
//! (accept, receive) → `handler.rs` (or `python/hooks.rs`) → `dispatch/` (inline, thread, child) →
//! back to `event_loop.rs`. A connection's bytes go through [`ReadBuffer`] and [`WriteBuffer`].
//!
//! # Features
//!
//! - `python`: the extension module `fastsocketserver._core`. Off by default.

mod accept_failure;
mod address;
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
pub use wait::{Blocking, Wait};
pub use waker::Waker;
pub use writer::Writer;

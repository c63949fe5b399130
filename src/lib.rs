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

mod address;
mod batch;
mod datagram;
pub mod dispatch;
mod error;
pub mod event_loop;
mod handler;
mod listener;
mod options;
#[cfg(feature = "python")]
mod python;
mod replies;
mod server;
mod stream;
mod sys;
mod thread_cache;
mod wait;
mod waker;

pub use address::{Address, AddressError};
pub use batch::Batch;
pub use datagram::{Datagram, Packet};
pub use dispatch::{Dispatch, Fork, Inline, Threads};
pub use error::AcceptFailure;
pub use event_loop::Service;
pub use handler::{Handler, Request};
pub use listener::Listener;
pub use options::ListenOptions;
pub use server::{Builder, Handle, Server};
pub use stream::{ReadBuffer, WriteBuffer};
pub use sys::Room;
pub use thread_cache::{ThreadCache, Worker};
pub use wait::{Blocking, Direction, Wait};
pub use waker::Waker;

//! What a platform must supply, and nothing else.
//!
//! - [`wait_readable`], [`wait_writable`]: wait for one descriptor without a poll object;
//! - [`Nonblocking`]: make calls on a blocking descriptor not block for a while;
//! - [`receive`], [`send`]: one call on a connected descriptor, which may block or not ([`Flow`]);
//! - [`SignalMask`], [`default_stack_size`], [`exit`]: what Python's threads are like here;
//! - [`receive_from`]: take a datagram without waiting;
//! - [`Slots`], [`send_messages`]: several datagrams by one call, or one by one where there is none;
//! - [`PEER_ERRNOS`], [`CAPACITY_ERRNOS`]: how `accept` fails here;
//! - [`is_listening`], [`dropped_packets`]: what the kernel knows of a socket;
//! - [`generation`], [`fork`], [`exit_now`], [`Child`], [`how_child_ended`]: processes, where the
//!   platform has `fork`.
//!
//! This is the only module of the core that knows platforms, and the only one that is `unsafe`.
#![allow(unsafe_code)]

#[cfg(unix)]
mod child;
mod messages;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod mmsg;
mod room;
#[cfg(unix)]
mod unix;

pub(crate) use messages::{Slots, send_messages};
pub use room::Room;

#[cfg(unix)]
pub(crate) use child::Child;
#[cfg(all(unix, feature = "python"))]
pub(crate) use child::how_child_ended;
#[cfg(unix)]
pub(crate) use unix::*;

#[cfg(not(unix))]
compile_error!(
    "this platform has no implementation under src/sys yet: supply the items listed in src/sys/mod.rs"
);

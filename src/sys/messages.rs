//! Several datagrams by one system call, where the platform has one for that.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use socket2::SockAddr;

#[cfg(any(target_os = "linux", target_os = "android"))]
use super::mmsg::{receive_many, send_many};
use super::receive_from;

/// The most datagrams that one call receives or sends.
const MOST: usize = 64;

/// The most bytes that the datagrams of one call have room for, unless a single one needs more.
const MOST_BYTES: usize = 1 << 20;

/// What has been received into a slot, besides the bytes.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) length: usize,
    pub(super) truncated: bool,
    pub(super) peer: SockAddr,
}

/// Room for the datagrams of one call; the memory serves one call after the other.
pub(crate) struct Slots {
    /// Those of each slot, one after the other.
    bytes: Vec<u8>,
    slot_size: usize,
    count: usize,
    received: Vec<Received>,
}

impl Slots {
    /// Room for `count` datagrams of `slot_size` bytes: 1 to 64, and no more than fit into 1 MiB.
    pub(crate) fn new(count: usize, slot_size: usize) -> Self {
        let mut slots = Self { bytes: Vec::new(), slot_size: 0, count: 0, received: Vec::new() };
        slots.resize(count, slot_size);
        slots
    }

    /// Makes the room what [`new`](Self::new) makes it; what was received is gone.
    pub(crate) fn resize(&mut self, count: usize, slot_size: usize) {
        let fitting = MOST_BYTES / slot_size.max(1);
        self.count = count.min(MOST).min(fitting).max(1);
        self.slot_size = slot_size;
        self.bytes.resize(self.count * slot_size, 0);
        self.received.clear();
    }

    /// How many datagrams there is room for.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Receives up to `most` datagrams that are waiting, in order and without waiting, in place of what
    /// is here; returns how many, at least 1. `most` counts as 1 at least.
    ///
    /// # Errors
    ///
    /// As [`receive_from`]; nothing has been received then.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        self.received.clear();
        let most = most.clamp(1, self.count);
        // One takes less by the call for one; and the parts of slots without a byte would be none.
        if most == 1 || self.slot_size == 0 {
            self.received.push(receive_one(socket, &mut self.bytes[..self.slot_size])?);
        } else {
            let rooms = self.bytes.chunks_exact_mut(self.slot_size).take(most);
            receive_many(socket, rooms, &mut self.received)?;
        }
        Ok(self.received.len())
    }

    /// The datagram in the slot `index`: its bytes, whether it was longer, and the sender's address,
    /// of length 0 where it has none. `None` where nothing was received.
    pub(crate) fn get(&self, index: usize) -> Option<(&[u8], bool, &SockAddr)> {
        let Received { length, truncated, peer } = self.received.get(index)?;
        Some((&self.bytes[index * self.slot_size..][..*length], *truncated, peer))
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots")
            .field("count", &self.count)
            .field("slot_size", &self.slot_size)
            .finish_non_exhaustive()
    }
}

/// Sends the first of `messages`, and as many after it as the same call takes, in order; returns how
/// many that were. Waits as the descriptor's mode says.
///
/// # Errors
///
/// What `sendto(2)` reports of the first message; nothing has been sent then.
pub(crate) fn send_messages<'a>(
    socket: BorrowedFd<'_>,
    messages: impl Iterator<Item = (&'a [u8], &'a SockAddr)>,
) -> io::Result<usize> {
    send_many(socket, messages.take(MOST))
}

fn receive_one(socket: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<Received> {
    let (length, truncated, peer) = receive_from(socket, room)?;
    Ok(Received { length, truncated, peer })
}

/// Receives one datagram: there is no call for several.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn receive_many<'a>(
    socket: BorrowedFd<'_>,
    mut rooms: impl Iterator<Item = &'a mut [u8]>,
    received: &mut Vec<Received>,
) -> io::Result<()> {
    if let Some(room) = rooms.next() {
        received.push(receive_one(socket, room)?);
    }
    Ok(())
}

/// Sends one message: there is no call for several.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn send_many<'a>(
    socket: BorrowedFd<'_>,
    mut messages: impl Iterator<Item = (&'a [u8], &'a SockAddr)>,
) -> io::Result<usize> {
    let Some((data, peer)) = messages.next() else { return Ok(0) };
    socket2::SockRef::from(&socket).send_to(data, peer).map(|_| 1)
}

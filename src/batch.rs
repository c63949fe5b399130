//! Datagrams that were received together.

use std::io;
use std::os::fd::BorrowedFd;

use crate::address::Address;
use crate::datagram::Packet;
use crate::sys::Slots;

/// A queue of datagrams that one system call fills, and its memory.
///
/// [`Datagram::receive_batch`](crate::Datagram::receive_batch) fills it. What has been received is
/// gone from the socket: drop a batch only when it is empty, or datagrams are lost.
#[derive(Debug)]
pub struct Batch {
    slots: Slots,
    received: usize,
    /// How many of the received have been taken out.
    taken: usize,
}

impl Batch {
    /// Room for `capacity` datagrams of `max_packet_size` bytes; of a longer one the rest is lost.
    ///
    /// The capacity is 1 to 64, and no more than fit into 1 MiB, but for a single one that needs more:
    /// 16 datagrams of 64 KiB at most, for example.
    #[must_use]
    pub fn new(capacity: usize, max_packet_size: usize) -> Self {
        Self { slots: Slots::new(capacity, max_packet_size), received: 0, taken: 0 }
    }

    /// How many datagrams are received at once, at most.
    ///
    /// ```
    /// use fastsocketserver::Batch;
    ///
    /// assert_eq!(Batch::new(16, 8192).capacity(), 16);
    /// assert_eq!(Batch::new(16, 1 << 19).capacity(), 2);
    /// ```
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots.count()
    }

    /// How many datagrams are left to take.
    #[must_use]
    pub fn len(&self) -> usize {
        self.received - self.taken
    }

    /// Whether all that was received has been taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the datagram that has arrived first.
    pub fn pop(&mut self) -> Option<Packet> {
        let (data, truncated, peer) = self.pop_in_place()?;
        Some(Packet { data: data.to_vec(), truncated, peer })
    }

    /// As [`pop`](Self::pop), without a copy: the bytes, whether there were more, and the sender.
    pub(crate) fn pop_in_place(&mut self) -> Option<(&[u8], bool, Option<Address>)> {
        if self.is_empty() {
            return None;
        }
        let (data, truncated, peer) = self.slots.get(self.taken)?;
        self.taken += 1;
        // An unbound Unix socket has an address of length 0, which has no family.
        let peer = if peer.len() == 0 { None } else { Address::from_sockaddr(peer) };
        Some((data, truncated, peer))
    }

    #[cfg(feature = "python")]
    /// Makes it one of [`new`](Self::new), if nothing is left here.
    pub(crate) fn resize(&mut self, capacity: usize, max_packet_size: usize) {
        if self.is_empty() {
            self.slots.resize(capacity, max_packet_size);
        }
    }

    /// Receives up to `most` datagrams, 1 at least, from `socket` without waiting, whatever its mode,
    /// unless something is left here.
    ///
    /// # Errors
    ///
    /// As [`Datagram::receive_batch`](crate::Datagram::receive_batch).
    pub(crate) fn fill(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<()> {
        if self.is_empty() {
            (self.received, self.taken) = (0, 0);
            self.received = self.slots.receive(socket, most)?;
        }
        Ok(())
    }
}

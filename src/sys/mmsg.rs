//! Linux's system calls for several datagrams: `recvmmsg(2)` and `sendmmsg(2)`.
//!
//! Both stop at the first datagram that fails. If that is not the first of the call, they succeed for
//! those before it. The kernel then keeps an error of receiving for the next call; an error of sending
//! is met again by sending the same datagram again, unless it was left by an earlier one.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};

use super::messages::Received;

/// Receives into each of `rooms` a datagram, as long as one is waiting; what is received is appended
/// to `received`.
///
/// # Errors
///
/// As [`receive_from`](super::receive_from); nothing has been received then.
pub(super) fn receive_many<'a>(
    socket: BorrowedFd<'_>,
    rooms: impl Iterator<Item = &'a mut [u8]>,
    received: &mut Vec<Received>,
) -> io::Result<()> {
    let mut parts: Vec<_> = rooms
        .map(|room| libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() })
        .collect();
    let mut names: Vec<_> = parts.iter().map(|_| SockAddrStorage::zeroed()).collect();
    let mut messages: Vec<_> = parts
        .iter_mut()
        .zip(&mut names)
        .map(|(part, name)| message(part, ptr::from_mut(name).cast(), name.size_of()))
        .collect();
    // SAFETY: each message points to a part and a name of its own. These, and the rooms that the
    // parts point to, outlive the call and are used by nothing else meanwhile; the lengths are theirs.
    let count = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            vlen(&messages),
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        )
    };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    received.extend(messages.iter().take(count).zip(names).map(|(message, name)| Received {
        length: message.msg_len as usize,
        truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        // SAFETY: the kernel has written an address there, and tells how long it is.
        peer: unsafe { SockAddr::new(name, message.msg_hdr.msg_namelen) },
    }));
    Ok(())
}

/// Sends `messages` in order, each to the address beside it; returns how many were sent.
///
/// # Errors
///
/// What `sendto(2)` reports of the first; nothing has been sent then.
pub(super) fn send_many<'a>(
    socket: BorrowedFd<'_>,
    messages: impl Iterator<Item = (&'a [u8], &'a SockAddr)>,
) -> io::Result<usize> {
    let (mut parts, peers): (Vec<_>, Vec<_>) = messages
        .map(|(data, peer)| {
            let base = data.as_ptr().cast_mut().cast();
            (libc::iovec { iov_base: base, iov_len: data.len() }, peer)
        })
        .unzip();
    let mut messages: Vec<_> = parts
        .iter_mut()
        .zip(peers)
        .map(|(part, peer)| message(part, peer.as_ptr().cast_mut().cast(), peer.len()))
        .collect();
    // SAFETY: each message points to a part and an address, which outlive the call, as does the data
    // that the parts point to; the lengths are theirs. The kernel reads all of these, and writes
    // nothing but the messages' lengths.
    let count = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            vlen(&messages),
            libc::MSG_NOSIGNAL as _,
        )
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// How many messages there are, as the calls take it. They take no more than 1024.
fn vlen(messages: &[libc::mmsghdr]) -> libc::c_uint {
    libc::c_uint::try_from(messages.len()).unwrap_or(libc::c_uint::MAX)
}

/// A message of one part, from or to the address at `name`.
fn message(
    part: &mut libc::iovec,
    name: *mut libc::c_void,
    name_length: libc::socklen_t,
) -> libc::mmsghdr {
    // SAFETY: all zeros is a message of no parts, without a name and without control data. C
    // libraries differ in what pads it.
    let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
    message.msg_hdr.msg_name = name;
    message.msg_hdr.msg_namelen = name_length;
    message.msg_hdr.msg_iov = part;
    message.msg_hdr.msg_iovlen = 1;
    message
}

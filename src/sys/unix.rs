//! Linux, macOS and the other Unix systems.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use socket2::{SockAddr, SockRef};

use super::Room;

/// Errors that `accept` reports about a connection that is already gone: take the next one.
///
/// `accept(2)` on Linux passes errors that are pending on the new socket on to the caller and asks
/// that they be treated like `EAGAIN`.
pub(crate) const PEER_ERRNOS: &[i32] = &[
    libc::ECONNABORTED,
    libc::ECONNRESET,
    libc::EINTR,
    libc::EPERM,
    libc::EPROTO,
    libc::ENETDOWN,
    libc::ENOPROTOOPT,
    libc::EHOSTDOWN,
    libc::EHOSTUNREACH,
    libc::ENETUNREACH,
    libc::EOPNOTSUPP,
    libc::ETIMEDOUT,
];

/// Errors that say that this process or system has no room for another connection now.
pub(crate) const CAPACITY_ERRNOS: &[i32] =
    &[libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];

/// Waits until `fd` can be read without blocking, has failed or was hung up.
///
/// `timeout` of `None` waits without limit. Returns `false` once the time is up.
///
/// # Errors
///
/// `EINTR` is passed on, so that the caller can look after its signals; otherwise what `poll(2)`
/// reports.
pub(crate) fn wait_readable(fd: RawFd, timeout: Option<Duration>) -> io::Result<bool> {
    poll_one(fd, libc::POLLIN, timeout)
}

/// Waits until `fd` can be written without blocking; otherwise as [`wait_readable`].
pub(crate) fn wait_writable(fd: RawFd, timeout: Option<Duration>) -> io::Result<bool> {
    poll_one(fd, libc::POLLOUT, timeout)
}

/// A longer wait than an int of milliseconds holds is taken in parts.
const LONGEST_WAIT: Duration = Duration::from_millis(i32::MAX as u64);

fn poll_one(fd: RawFd, events: libc::c_short, timeout: Option<Duration>) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut left = timeout;
    loop {
        let milliseconds = match left {
            None => -1,
            // Rounded up: waking early would make the caller wait again for nothing.
            Some(left) => {
                i32::try_from(left.min(LONGEST_WAIT).as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
            }
        };
        // SAFETY: `entry` is one valid pollfd, and it outlives the call.
        let ready = unsafe { libc::poll(&raw mut entry, 1, milliseconds) };
        if ready < 0 {
            return Err(io::Error::last_os_error());
        }
        if ready > 0 {
            return Ok(true);
        }
        left = match (timeout, deadline) {
            (Some(_), Some(deadline)) => Some(deadline.saturating_duration_since(Instant::now())),
            (unlimited_or_overflowing, _) => unlimited_or_overflowing,
        };
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
    }
}

/// Keeps a descriptor from blocking for as long as this value lives.
///
/// `accept(2)` has no flag like `MSG_DONTWAIT`, and the mode belongs to the open file description,
/// which other processes may share: so it is changed for the one call and put back. That costs three
/// system calls of 0.05 µs each; a `poll(2)` before each `accept` would cost more and leave a race in
/// which a neighbour takes the connection and this process blocks.
#[derive(Debug)]
pub(crate) struct Nonblocking<'fd> {
    fd: BorrowedFd<'fd>,
    was_blocking: bool,
}

impl<'fd> Nonblocking<'fd> {
    pub(crate) fn enter(fd: BorrowedFd<'fd>) -> io::Result<Self> {
        // SAFETY: F_GETFL takes no argument, and `fd` is open.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
        if flags < 0 {
            return Err(io::Error::last_os_error());
        }
        let was_blocking = flags & libc::O_NONBLOCK == 0;
        if was_blocking {
            set_nonblocking(fd, true)?;
        }
        Ok(Self { fd, was_blocking })
    }
}

impl Drop for Nonblocking<'_> {
    fn drop(&mut self) {
        if self.was_blocking {
            // It worked a moment ago on the same open descriptor.
            let _ = set_nonblocking(self.fd, false);
        }
    }
}

fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let mut on = libc::c_int::from(on);
    // SAFETY: FIONBIO reads one int through the pointer, which is valid for the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw mut on) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one datagram into `buffer` without waiting, whatever the descriptor's mode.
///
/// Returns the bytes stored, whether the datagram was longer than `buffer`, and the sender's
/// address, of length 0 where it has none.
///
/// # Errors
///
/// `WouldBlock` when none is waiting; otherwise what `recvfrom(2)` reports.
pub(crate) fn receive_from(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, bool, SockAddr)> {
    // SAFETY: the layouts are the same, and the kernel writes bytes only, never uninitialised ones.
    let room = unsafe { &mut *(&raw mut *buffer as *mut [MaybeUninit<u8>]) };
    // Linux tells the whole length when asked to, which takes less than a message with its flags.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let capacity = room.len();
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        let (length, address) = SockRef::from(&socket).recv_from_with_flags(room, flags)?;
        Ok((length.min(capacity), length > capacity, address))
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let mut parts = [socket2::MaybeUninitSlice::new(room)];
        let (length, flags, address) =
            SockRef::from(&socket).recv_from_vectored_with_flags(&mut parts, libc::MSG_DONTWAIT)?;
        Ok((length, flags.is_truncated(), address))
    }
}

/// Whether a call may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// `WouldBlock` instead, whatever the descriptor's mode.
    #[cfg(feature = "python")]
    Try,
    /// As the descriptor's mode says.
    Wait,
}

impl Flow {
    fn flags(self) -> libc::c_int {
        match self {
            #[cfg(feature = "python")]
            Self::Try => libc::MSG_DONTWAIT,
            Self::Wait => 0,
        }
    }
}

/// Receives into `room`; 0 is the end of the stream. The number need not be an open descriptor.
///
/// # Errors
///
/// What `recv(2)` reports.
pub(crate) fn receive(fd: RawFd, room: &mut Room<'_>, flow: Flow) -> io::Result<usize> {
    // SAFETY: the kernel writes no more than the length it is told, and says how much it wrote.
    unsafe {
        room.put_by(|start, length| {
            let length = libc::recv(fd, start.cast(), length, flow.flags());
            usize::try_from(length).map_err(|_| io::Error::last_os_error())
        })
    }
}

/// Sends from `data`, without `SIGPIPE` where the platform can do without. The number need not be an
/// open descriptor.
///
/// # Errors
///
/// What `send(2)` reports; `BrokenPipe` when the peer has closed.
pub(crate) fn send(fd: RawFd, data: &[u8], flow: Flow) -> io::Result<usize> {
    #[cfg(target_vendor = "apple")]
    const NO_SIGNAL: libc::c_int = 0;
    #[cfg(not(target_vendor = "apple"))]
    const NO_SIGNAL: libc::c_int = libc::MSG_NOSIGNAL;
    // SAFETY: the pointer and the length are those of one slice, which the kernel reads.
    let length =
        unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), flow.flags() | NO_SIGNAL) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// Something that differs from what it was before a fork, in the child.
///
/// Comparing process ids would take a system call each time.
pub(crate) fn generation() -> u32 {
    static GENERATION: AtomicU32 = AtomicU32::new(0);
    static WATCH: Once = Once::new();
    extern "C" fn next() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
    WATCH.call_once(|| {
        // SAFETY: the function touches nothing but an atomic. Where there is no memory for it, there
        // is none for what would have to know either.
        unsafe { libc::pthread_atfork(None, None, Some(next)) };
    });
    GENERATION.load(Ordering::Relaxed)
}

/// A process made by [`fork`]: its id in the parent, `None` in the child itself.
///
/// # Errors
///
/// `EAGAIN` and `ENOMEM`, as `fork(2)` says.
pub(crate) fn fork() -> io::Result<Option<i32>> {
    // SAFETY: the child goes on with the calling thread alone. What it runs is a handler, and the
    // fork dispatch tells its users that other threads' locks stay as they were.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// Ends this process as the end of its last thread does.
#[cfg(feature = "python")]
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: `exit` takes any status and does not return.
    unsafe { libc::exit(status) }
}

/// The calling thread's number, which Python calls its `ident`.
#[cfg(feature = "python")]
pub(crate) fn thread_number() -> u64 {
    // SAFETY: it takes no argument and cannot fail.
    let thread = unsafe { libc::pthread_self() };
    #[allow(clippy::useless_conversion, reason = "a pointer on some platforms")]
    (thread as u64)
}

/// The signals that a thread does not receive; those that it starts begin with the same.
#[cfg(feature = "python")]
#[derive(Clone, Copy)]
pub(crate) struct SignalMask(libc::sigset_t);

#[cfg(feature = "python")]
impl std::fmt::Debug for SignalMask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignalMask").finish_non_exhaustive()
    }
}

#[cfg(feature = "python")]
impl SignalMask {
    /// That of the calling thread.
    pub(crate) fn current() -> Self {
        let mut mask = MaybeUninit::uninit();
        // SAFETY: without a new mask, the call only writes the present one; it cannot fail then.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), mask.as_mut_ptr());
            Self(mask.assume_init())
        }
    }

    /// Every signal that can be blocked.
    pub(crate) fn all() -> Self {
        let mut mask = MaybeUninit::uninit();
        // SAFETY: the call fills the set.
        unsafe {
            libc::sigfillset(mask.as_mut_ptr());
            Self(mask.assume_init())
        }
    }

    /// Makes it the calling thread's.
    pub(crate) fn set(&self) {
        // SAFETY: the set is valid; the call writes nothing.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut())
        };
    }
}

/// Bytes of stack that the C library gives a thread if it is not told otherwise.
#[cfg(feature = "python")]
pub(crate) fn default_stack_size() -> usize {
    // Python's own choice there; the system's 512 KiB are not enough for it.
    #[cfg(target_vendor = "apple")]
    return 16 << 20;
    #[cfg(not(target_vendor = "apple"))]
    {
        let mut attributes = MaybeUninit::uninit();
        let mut size = 0;
        // SAFETY: the first call fills the attributes, the second reads them, the third frees them.
        unsafe {
            libc::pthread_attr_init(attributes.as_mut_ptr());
            libc::pthread_attr_getstacksize(attributes.as_ptr(), &raw mut size);
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
        }
        size
    }
}

/// Ends this process at once: no destructors, no `atexit` functions, no flushing of buffers that
/// belong to the parent.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` takes any status and does not return.
    unsafe { libc::_exit(status) }
}

/// Whether `socket` is one that listens.
///
/// # Errors
///
/// `ENOTSOCK` for what is no socket; otherwise what `getsockopt(2)` reports.
pub(crate) fn is_listening(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut answer = [0];
    read_option(socket, libc::SO_ACCEPTCONN, &mut answer)?;
    Ok(answer != [0])
}

/// How many packets the kernel has dropped for want of room since `socket` was opened.
///
/// # Errors
///
/// `Unsupported` on other platforms than Linux; otherwise what `getsockopt(2)` reports.
pub(crate) fn dropped_packets(socket: BorrowedFd<'_>) -> io::Result<u32> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        /// `SK_MEMINFO_DROPS` of `linux/sock_diag.h`, since 4.12.
        const DROPS: usize = 8;
        let mut counts = [0; DROPS + 1];
        read_option(socket, libc::SO_MEMINFO, &mut counts)?;
        Ok(counts[DROPS])
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = socket;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Reads a socket option of the level `SOL_SOCKET` that is made of 32-bit numbers.
fn read_option(socket: BorrowedFd<'_>, name: libc::c_int, value: &mut [u32]) -> io::Result<()> {
    let Ok(mut length) = libc::socklen_t::try_from(size_of_val(value)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let (fd, start) = (socket.as_raw_fd(), value.as_mut_ptr());
    // SAFETY: the kernel writes no more than the length says, and any bits make a number.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, start.cast(), &raw mut length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

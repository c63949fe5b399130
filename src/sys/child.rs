//! A process that this one has forked.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A child, until it is reaped.
///
/// Its number may stand for another process as soon as it has been reaped, so that is used and
/// forgotten under one lock.
#[derive(Debug)]
pub(crate) struct Child {
    /// `None` once it has been reaped.
    pid: Mutex<Option<libc::pid_t>>,
    end: Option<OwnedFd>,
}

impl Child {
    /// The child that `fork` has just named.
    pub(crate) fn new(pid: i32) -> Self {
        Self { pid: Mutex::new(Some(pid)), end: watch(pid).ok() }
    }

    /// What becomes readable when it has ended, where the platform has such a thing.
    pub(crate) fn end(&self) -> Option<BorrowedFd<'_>> {
        self.end.as_ref().map(AsFd::as_fd)
    }

    /// Reaps it if it has ended, and says whether that was with status 0.
    ///
    /// One that somebody else has reaped counts as ended so.
    pub(crate) fn try_reap(&self) -> Option<bool> {
        let mut pid = self.pid();
        let mut status = 0;
        if let Some(number) = *pid {
            // SAFETY: `status` is a valid int for the call to write to.
            let reaped = unsafe { libc::waitpid(number, &raw mut status, libc::WNOHANG) };
            if reaped == 0 {
                return None;
            }
            *pid = None;
        }
        Some(status == 0)
    }

    /// Waits until it has ended, without reaping it: it can be killed meanwhile.
    pub(crate) fn wait(&self) {
        let Some(pid) = *self.pid() else { return };
        let Ok(pid) = libc::id_t::try_from(pid) else { return };
        loop {
            let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::uninit();
            let flags = libc::WEXITED | libc::WNOWAIT;
            // SAFETY: the call writes to `info` or fails; nothing is read from there.
            let outcome = unsafe { libc::waitid(libc::P_PID, pid, info.as_mut_ptr(), flags) };
            if outcome == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return;
            }
        }
    }

    /// Ends it, whatever it is doing.
    pub(crate) fn kill(&self) {
        if let Some(pid) = *self.pid() {
            // SAFETY: the number is that of a child of this process that has not been reaped.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }

    fn pid(&self) -> MutexGuard<'_, Option<libc::pid_t>> {
        self.pid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the child `pid` has ended with status 0, without reaping it; `None` if it has not ended, or
/// somebody has reaped it.
#[cfg(feature = "python")]
pub(crate) fn how_child_ended(pid: i32) -> Option<bool> {
    let number = libc::id_t::try_from(pid).ok()?;
    // SAFETY: of plain numbers alone, for which all zeros are as good as any.
    let mut info = unsafe { std::mem::zeroed::<libc::siginfo_t>() };
    let flags = libc::WEXITED | libc::WNOWAIT | libc::WNOHANG;
    // SAFETY: `info` is valid for the call to write to.
    let outcome = unsafe { libc::waitid(libc::P_PID, number, &raw mut info, flags) };
    // SAFETY: the call has written what it does for a child, or left the zeros.
    let (ended, status) = unsafe { (info.si_pid(), info.si_status()) };
    (outcome == 0 && ended == pid).then_some(info.si_code == libc::CLD_EXITED && status == 0)
}

/// Something that becomes readable when the child `pid` has ended: Linux has that since 5.3.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn watch(pid: i32) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;

    // SAFETY: the call takes two numbers. It closes the new descriptor in programs that are started.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(fd) {
        // SAFETY: the descriptor is new, and nobody else's.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn watch(_pid: i32) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

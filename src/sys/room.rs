//! Memory for what is received.

use std::fmt;
use std::mem::MaybeUninit;
use std::slice;

/// A piece of memory, filled from its beginning.
///
/// Nothing has to be written there before: setting 8 KiB to zero for each line of 30 bytes touches
/// memory that is in no cache, and keeps it from being given back.
///
/// ```
/// use fastsocketserver::Room;
/// use std::mem::MaybeUninit;
///
/// let mut memory = [MaybeUninit::uninit(); 4];
/// let mut room = Room::new(&mut memory);
/// assert_eq!(room.put(b"hello"), 4);
/// assert_eq!((room.filled(), room.left()), (&b"hell"[..], 0));
/// ```
pub struct Room<'a> {
    bytes: &'a mut [MaybeUninit<u8>],
    /// So many are initialised, and count.
    filled: usize,
}

impl<'a> Room<'a> {
    /// An empty room over `bytes`, whatever they are.
    #[must_use]
    pub fn new(bytes: &'a mut [MaybeUninit<u8>]) -> Self {
        Self { bytes, filled: 0 }
    }

    /// An empty room over `bytes`.
    #[must_use]
    pub fn over(bytes: &'a mut [u8]) -> Self {
        // SAFETY: the layouts are the same, and nothing uninitialised is ever written there.
        Self::new(unsafe { &mut *(&raw mut *bytes as *mut [MaybeUninit<u8>]) })
    }

    /// How many more bytes there is room for.
    #[must_use]
    pub fn left(&self) -> usize {
        self.bytes.len() - self.filled
    }

    /// The bytes that were put here.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        // SAFETY: so many are initialised.
        unsafe { slice::from_raw_parts(self.bytes.as_ptr().cast(), self.filled) }
    }

    /// Puts `data` behind what is here, as far as it fits; returns how many bytes that were.
    pub fn put(&mut self, data: &[u8]) -> usize {
        let length = data.len().min(self.left());
        for (place, byte) in self.bytes[self.filled..].iter_mut().zip(&data[..length]) {
            place.write(*byte);
        }
        self.filled += length;
        length
    }

    /// Has `fill` fill no more than the next `length` bytes.
    pub fn within<T>(&mut self, length: usize, fill: impl FnOnce(&mut Room<'_>) -> T) -> T {
        let length = length.min(self.left());
        let mut part = Room::new(&mut self.bytes[self.filled..][..length]);
        let outcome = fill(&mut part);
        self.filled += part.filled;
        outcome
    }

    /// Has `write` write behind what is here, at the pointer and no further than the length.
    ///
    /// # Safety
    ///
    /// `write` returns how many bytes it has written from the pointer on.
    pub(super) unsafe fn put_by<E>(
        &mut self,
        write: impl FnOnce(*mut u8, usize) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let rest = &mut self.bytes[self.filled..];
        let length = write(rest.as_mut_ptr().cast(), rest.len())?;
        self.filled += length;
        Ok(length)
    }
}

impl fmt::Debug for Room<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("filled", &self.filled).finish_non_exhaustive()
    }
}

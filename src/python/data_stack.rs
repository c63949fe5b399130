//! Keeps the pieces of memory that the interpreter's frames are in.
//!
//! From 3.11 on each thread state and each greenlet has a data stack of its own, which begins with a
//! chunk of 16 KiB: mapped for the first function that is called there, unmapped at the end. With the
//! page faults, that takes longer than the handler of a short request.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, OnceLock};

use pyo3::ffi::{PyObject_GetArenaAllocator, PyObject_SetArenaAllocator, PyObjectArenaAllocator};
use pyo3::prelude::*;

/// The interpreter's `DATA_STACK_CHUNK_SIZE`. Nothing else is allocated as arenas are and has this size.
const CHUNK_SIZE: usize = 16 * 1024;

/// How many chunks are kept, 1 MiB.
const MAX_SPARE: usize = 64;

struct Chunk(NonNull<c_void>);

// SAFETY: it is memory that nobody uses.
unsafe impl Send for Chunk {}

static SPARE: Mutex<Vec<Chunk>> = Mutex::new(Vec::new());

/// What the interpreter allocates arenas and chunks with.
struct Allocator(PyObjectArenaAllocator);

// SAFETY: it is never changed, and called only where the interpreter would have called it.
unsafe impl Send for Allocator {}
// SAFETY: as above.
unsafe impl Sync for Allocator {}

static ALLOCATOR: OnceLock<Allocator> = OnceLock::new();

/// Has the interpreter use chunks again from now on, all over the process.
pub(super) fn keep_chunks(py: Python<'_>) {
    if py.version_info() < (3, 11) || ALLOCATOR.get().is_some() {
        return;
    }
    let mut allocator = PyObjectArenaAllocator { ctx: ptr::null_mut(), alloc: None, free: None };
    // SAFETY: attached; it fills the structure in.
    unsafe { PyObject_GetArenaAllocator(&raw mut allocator) };
    if ALLOCATOR.set(Allocator(allocator)).is_ok() {
        allocator.alloc = Some(allocate);
        allocator.free = Some(free);
        // SAFETY: attached; it copies the structure. What was allocated before is freed as before.
        unsafe { PyObject_SetArenaAllocator(&raw mut allocator) };
    }
}

extern "C" fn allocate(ctx: *mut c_void, size: usize) -> *mut c_void {
    if size == CHUNK_SIZE {
        // A fork may leave it locked for good: then there are none.
        if let Some(Chunk(chunk)) = SPARE.try_lock().ok().and_then(|mut spare| spare.pop()) {
            return chunk.as_ptr();
        }
    }
    match ALLOCATOR.get().and_then(|allocator| allocator.0.alloc) {
        Some(allocate) => allocate(ctx, size),
        None => ptr::null_mut(),
    }
}

extern "C" fn free(ctx: *mut c_void, memory: *mut c_void, size: usize) {
    if size == CHUNK_SIZE {
        if let (Ok(mut spare), Some(chunk)) = (SPARE.try_lock(), NonNull::new(memory)) {
            if spare.len() < MAX_SPARE {
                spare.push(Chunk(chunk));
                return;
            }
        }
    }
    if let Some(free) = ALLOCATOR.get().and_then(|allocator| allocator.0.free) {
        free(ctx, memory, size);
    }
}

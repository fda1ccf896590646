//! How often this process asks for memory: an allocator that counts the calls of every thread and leaves the work to the one
//! that the runtime has, too. Those of another process are counted from outside, see [`crate::counter`].
//!
//! A counter that all threads share would be a cost of its own, so each thread counts for itself and adds to the sum from time
//! to time; what it has not added yet is too little to show in the mean of some thousand messages.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

/// After how many calls a thread adds its count to the sum.
const FLUSH_EVERY: u64 = 64;

static SUM: AtomicU64 = AtomicU64::new(0);

/// Whether this process counts at all.
static COUNTS: AtomicBool = AtomicBool::new(true);

thread_local! {
    static UNFLUSHED: Cell<u64> = const { Cell::new(0) };
}

/// The allocator of this process.
pub(crate) struct Counting;

/// How many calls there were so far.
pub(crate) fn so_far() -> u64 {
    SUM.load(Relaxed) + UNFLUSHED.get()
}

/// From now on nothing is counted: this process is a floor, which is to have no more to do than what it is the floor of.
pub(crate) fn exempt_this_process() {
    COUNTS.store(false, Relaxed);
}

fn count() {
    // Without a destructor, so these are there for as long as the thread is.
    if !COUNTS.load(Relaxed) {
        return;
    }
    let calls = UNFLUSHED.get() + 1;
    if calls == FLUSH_EVERY {
        SUM.fetch_add(calls, Relaxed);
        UNFLUSHED.set(0);
    } else {
        UNFLUSHED.set(calls);
    }
}

// SAFETY: every call goes to the system's allocator with what it was called with, and its answer is given back as it is. To
// count neither allocates nor panics.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`, and every block is the system's.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and every block is the system's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn what_is_allocated_is_counted() {
        let before = so_far();
        (0..1000).for_each(|n| drop(black_box(Box::new(n))));
        let counted = so_far() - before;
        assert!(counted >= 1000, "{counted}");
    }
}

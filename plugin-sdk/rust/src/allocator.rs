//! The allocator of a plugin: quick for the small blocks that parsing and writing messages is made of.
//!
//! The allocator that `std` brings for Wasm keeps memory tight and pays for it with every call; a transformer that reads and
//! writes JSON spends a fifth of its time there. This one keeps blocks of up to 16 KiB in lists by size, one for each size
//! that there is: to allocate is to take the first, to free is to put it back. The blocks are cut from one arena of 1 MiB,
//! which bounds what a list can keep from the others; when it is used up, and for all that is larger, the allocator of `std`
//! does what it always did.
//!
//! It is there by the feature `allocator`, which is on by default. A plugin that brings an allocator of its own turns it off:
//! `gristmill-plugin = { …, default-features = false }`.

// Natively, the tests alone use it.
#![cfg_attr(not(target_family = "wasm"), allow(dead_code))]

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::UnsafeCell,
    ptr,
};

/// All blocks are multiples of this, and so aligned.
const GRAIN: usize = 16;

/// Up to this size, in bytes, there is a list for every multiple of [`GRAIN`]; above it, for every power of two.
const FINE_BYTES: usize = 1024;

/// The largest block of the arena, in bytes.
const MAX_BYTES: usize = 16 * 1024;

/// How much memory the lists share, in bytes.
const ARENA_BYTES: usize = 1024 * 1024;

/// The lists up to [`FINE_BYTES`]; the first is that of blocks of one grain.
const FINE_LISTS: usize = FINE_BYTES / GRAIN;

const LISTS: usize = FINE_LISTS + (MAX_BYTES / FINE_BYTES).ilog2() as usize;

/// Small blocks from lists, all others from the allocator `A`.
pub(crate) struct SmallBlocks<A> {
    others: A,
    state: UnsafeCell<State>,
}

struct State {
    /// The first free block of each list.
    free: [*mut Free; LISTS],
    /// Where the arena begins: null while there is none.
    arena: *mut u8,
    /// How much of the arena has been cut off, in bytes; all of it when there cannot be one.
    used: usize,
}

/// What stands in a block that is free.
struct Free {
    next: *mut Free,
}

/// The list of blocks for a size, and how large they are, in bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct List {
    index: usize,
    bytes: usize,
}

impl List {
    /// Nothing for what is too large, or has to be aligned to more than a block is.
    #[inline]
    fn of(size: usize, align: usize) -> Option<Self> {
        if align > GRAIN {
            None
        } else if size <= FINE_BYTES {
            // Nobody asks for no bytes at all, but it is cheap to be ready for it.
            let grains = size.div_ceil(GRAIN).max(1);
            Some(Self { index: grains - 1, bytes: grains * GRAIN })
        } else if size <= MAX_BYTES {
            let bytes = size.next_power_of_two();
            let index = FINE_LISTS + (bytes / FINE_BYTES).ilog2() as usize - 1;
            Some(Self { index, bytes })
        } else {
            None
        }
    }
}

impl<A> SmallBlocks<A> {
    /// Without memory; the arena is asked for with the first small block.
    pub(crate) const fn over(others: A) -> Self {
        let state = State { free: [ptr::null_mut(); LISTS], arena: ptr::null_mut(), used: 0 };
        Self { others, state: UnsafeCell::new(state) }
    }
}

// SAFETY: a guest has one thread, so there is never a second one that could see the state. With Wasm threads (the feature
// `atomics`) and natively this is no allocator for all threads, and the type is not `Sync`.
#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
#[allow(unsafe_code)]
unsafe impl<A: Sync> Sync for SmallBlocks<A> {}

#[allow(unsafe_code)]
impl State {
    fn is_in_arena(&self, block: *mut u8) -> bool {
        !self.arena.is_null() && block.addr().wrapping_sub(self.arena.addr()) < ARENA_BYTES
    }

    /// The first block of the list, or null.
    #[inline]
    fn take(&mut self, list: List) -> *mut u8 {
        let Some(first) = self.free.get_mut(list.index) else { return ptr::null_mut() };
        let block = *first;
        if !block.is_null() {
            // SAFETY: what is in a list was put there by `put`, which wrote a `Free` into it, and nobody has used it since.
            *first = unsafe { (*block).next };
        }
        block.cast()
    }

    /// Puts a block back into its list.
    ///
    /// # Safety
    /// The block is of this list and nobody uses it any more.
    #[inline]
    unsafe fn put(&mut self, block: *mut u8, list: List) {
        if let Some(first) = self.free.get_mut(list.index) {
            let block: *mut Free = block.cast();
            // SAFETY: a block is at least one grain, which a `Free` has room and the right alignment in, and it is ours.
            unsafe { block.write(Free { next: *first }) };
            *first = block;
        }
    }

    /// A new block from the arena, or null when that is used up.
    #[cold]
    #[inline(never)]
    fn cut(&mut self, list: List, others: &impl GlobalAlloc) -> *mut u8 {
        if self.arena.is_null() && self.used == 0 {
            // SAFETY: the layout is not empty.
            self.arena = unsafe { others.alloc(ARENA) };
            if self.arena.is_null() {
                // So it is not asked for again.
                self.used = ARENA_BYTES;
            }
        }
        if ARENA_BYTES - self.used < list.bytes {
            return ptr::null_mut();
        }
        // SAFETY: so much is left of the arena, which is there: else all of it is used.
        let block = unsafe { self.arena.add(self.used) };
        self.used += list.bytes;
        block
    }
}

/// Constants of sizes that are powers of two make a layout.
const ARENA: Layout = match Layout::from_size_align(ARENA_BYTES, GRAIN) {
    Ok(layout) => layout,
    Err(_) => Layout::new::<()>(),
};

// SAFETY: a block is either the other allocator's, and all that is done to it is done by that; or it is a piece of the arena
// that was cut off once and is since then either in use or in the list of its size. Pieces do not overlap, begin at multiples
// of the arena's alignment, and are as large as their list's blocks, which are not smaller than what was asked for.
#[allow(unsafe_code)]
unsafe impl<A: GlobalAlloc> GlobalAlloc for SmallBlocks<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(list) = List::of(layout.size(), layout.align()) {
            // SAFETY: there is one thread, and nothing below comes back here: the reference is the only one.
            let state = unsafe { &mut *self.state.get() };
            let mut block = state.take(list);
            if block.is_null() {
                block = state.cut(list, &self.others);
            }
            if !block.is_null() {
                return block;
            }
        }
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { self.others.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        let state = unsafe { &mut *self.state.get() };
        match List::of(layout.size(), layout.align()) {
            Some(list) if state.is_in_arena(block) => {
                // SAFETY: it was allocated with this layout, so it is of this list, and its user gives it back.
                unsafe { state.put(block, list) }
            }
            // SAFETY: it is the other allocator's; the caller keeps the contract of `dealloc`.
            _ => unsafe { self.others.dealloc(block, layout) },
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as in `alloc`; the reference ends before anything else is called.
        if !unsafe { &*self.state.get() }.is_in_arena(block) {
            // SAFETY: it is the other allocator's; the caller keeps the contract of `realloc`.
            return unsafe { self.others.realloc(block, layout, size) };
        }
        if List::of(layout.size(), layout.align()) == List::of(size, layout.align()) {
            return block;
        }
        // SAFETY: the caller promises that the new size makes a layout.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the new layout is not empty, as the caller promises; what was in the old block fits into both as far as it
        // is copied; and the old block is given back as what it was.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
#[allow(unsafe_code, clippy::unwrap_used)]
mod tests {
    use std::{alloc::System, cell::Cell};

    use super::*;

    /// Counts what is left to it, and can be out of memory.
    #[derive(Default)]
    struct Others {
        blocks: Cell<usize>,
        is_full: Cell<bool>,
    }

    unsafe impl GlobalAlloc for Others {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if self.is_full.get() {
                return ptr::null_mut();
            }
            self.blocks.set(self.blocks.get() + 1);
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            self.blocks.set(self.blocks.get() - 1);
            unsafe { System.dealloc(block, layout) }
        }
    }

    impl<A> SmallBlocks<A> {
        fn used(&self) -> usize {
            unsafe { &*self.state.get() }.used
        }
    }

    impl Drop for Others {
        fn drop(&mut self) {
            // All but the arena, which a plugin keeps as long as it is there.
            assert!(self.blocks.get() <= 1, "{} blocks leak", self.blocks.get());
        }
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn every_size_has_a_list_whose_blocks_it_fits_into() {
        let mut lists = Vec::new();
        for size in 0..=MAX_BYTES {
            let list = List::of(size, 8).unwrap();
            assert!(list.bytes >= size && list.index < LISTS && list.bytes.is_multiple_of(GRAIN), "{size}");
            if lists.last() != Some(&(list.index, list.bytes)) {
                lists.push((list.index, list.bytes));
            }
        }
        // Each list once, in order, with blocks of one size.
        assert!(lists.iter().enumerate().all(|(n, (index, _))| n == *index) && lists.len() == LISTS);
        assert!(List::of(MAX_BYTES + 1, 8).is_none() && List::of(8, 32).is_none());
    }

    #[test]
    fn what_is_freed_is_given_again_and_nothing_else_is() {
        let allocator = SmallBlocks::over(Others::default());
        unsafe {
            let first = allocator.alloc(layout(20, 4));
            let second = allocator.alloc(layout(20, 4));
            assert_ne!(first, second);
            allocator.dealloc(first, layout(20, 4));
            assert_eq!(allocator.alloc(layout(30, 16)), first);
            assert_ne!(allocator.alloc(layout(40, 4)), first);
        }
        assert_eq!(allocator.used(), 32 + 32 + 48);
    }

    #[test]
    fn what_grows_within_its_block_stays_and_what_outgrows_it_moves_with_its_content() {
        let allocator = SmallBlocks::over(Others::default());
        unsafe {
            let block = allocator.alloc(layout(17, 1));
            block.write_bytes(7, 17);
            assert_eq!(allocator.realloc(block, layout(17, 1), 32), block);
            let mut now = block;
            let mut size = 32;
            for new in [33, 1024, 1025, MAX_BYTES, MAX_BYTES + 1, 100_000] {
                now = allocator.realloc(now, layout(size, 1), new);
                size = new;
                assert!((0..17).all(|n| now.add(n).read() == 7), "{new}");
            }
            // From the other allocator nothing comes back into the arena.
            now = allocator.realloc(now, layout(size, 1), 17);
            assert!((0..17).all(|n| now.add(n).read() == 7));
            allocator.dealloc(now, layout(17, 1));
        }
    }

    #[test]
    fn a_full_arena_and_what_is_too_large_for_it_are_left_to_the_other_allocator() {
        let allocator = SmallBlocks::over(Others::default());
        let page = layout(MAX_BYTES, 16);
        let pages = ARENA_BYTES / MAX_BYTES;
        unsafe {
            let blocks: Vec<_> = (0..=pages).map(|_| allocator.alloc(page)).collect();
            assert_eq!((allocator.used(), allocator.others.blocks.get()), (ARENA_BYTES, 2));
            for block in &blocks {
                allocator.dealloc(*block, page);
            }
            assert_eq!(allocator.others.blocks.get(), 1);
            // The lists have them all again.
            let again: Vec<_> = (0..pages).map(|_| allocator.alloc(page)).collect();
            assert_eq!(allocator.others.blocks.get(), 1);
            assert!(again.iter().all(|block| blocks.contains(block)));
            let aligned = allocator.alloc(layout(64, 64));
            assert!(aligned.addr().is_multiple_of(64));
            allocator.dealloc(aligned, layout(64, 64));
        }
    }

    #[test]
    fn without_room_for_the_arena_the_other_allocator_has_all() {
        let others = Others::default();
        others.is_full.set(true);
        let allocator = SmallBlocks::over(others);
        unsafe {
            assert!(allocator.alloc(layout(8, 8)).is_null());
            allocator.others.is_full.set(false);
            let block = allocator.alloc(layout(8, 8));
            assert_eq!(allocator.others.blocks.get(), 1);
            let block = allocator.realloc(block, layout(8, 8), 4000);
            allocator.dealloc(block, layout(4000, 8));
        }
        assert_eq!(allocator.others.blocks.get(), 0);
    }

    #[test]
    fn blocks_in_use_never_touch_each_other() {
        let allocator = SmallBlocks::over(Others::default());
        let mut random = 0x9e37_79b9_u64;
        let mut below = |limit: u64| {
            // Knuth's linear congruential generator, MMIX.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from((random >> 33) % limit).unwrap()
        };
        let mut in_use: Vec<(*mut u8, Layout, u8)> = Vec::new();
        let check = |(block, layout, mark): &(*mut u8, Layout, u8)| unsafe {
            assert!((0..layout.size()).all(|n| block.add(n).read() == *mark), "{layout:?} was written over");
        };
        let steps = if cfg!(miri) { 300 } else { 20_000 };
        for step in 0..steps {
            let mark = u8::try_from(step % 251).unwrap();
            let new = layout(below(if step % 20 == 0 { 40_000 } else { 600 }) + 1, 1 << below(6));
            unsafe {
                match below(5) {
                    0 | 1 if !in_use.is_empty() => {
                        let gone = in_use.swap_remove(below(in_use.len() as u64));
                        check(&gone);
                        allocator.dealloc(gone.0, gone.1);
                    }
                    2 if !in_use.is_empty() => {
                        let (block, old, was) = in_use.swap_remove(below(in_use.len() as u64));
                        let block = allocator.realloc(block, old, new.size());
                        let kept = old.size().min(new.size());
                        check(&(block, layout(kept, 1), was));
                        block.write_bytes(mark, new.size());
                        in_use.push((block, layout(new.size(), old.align()), mark));
                    }
                    _ => {
                        let block = allocator.alloc(new);
                        assert!(block.addr().is_multiple_of(new.align()));
                        block.write_bytes(mark, new.size());
                        in_use.push((block, new, mark));
                    }
                }
            }
        }
        in_use.iter().for_each(check);
        for (block, layout, _) in in_use {
            unsafe { allocator.dealloc(block, layout) };
        }
    }
}

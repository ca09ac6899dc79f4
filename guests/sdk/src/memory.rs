//! The memory of a call. An instance lives for one call, so almost nothing needs to be freed: an allocation is
//! one addition, and the memory goes with the instance.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[global_allocator]
static MEMORY: OneCall = OneCall { next: AtomicUsize::new(0) };

const PAGE_BYTES: usize = 64 << 10;

/// Gives memory from the end of the data upwards. Takes back only what was given last.
struct OneCall {
    /// Where free memory begins; 0 before the first allocation.
    next: AtomicUsize,
}

unsafe extern "C" {
    /// Set by the linker: the first byte behind the stack and the data.
    static __heap_base: u8;
}

impl OneCall {
    fn next(&self) -> usize {
        match self.next.load(Relaxed) {
            0 => &raw const __heap_base as usize,
            next => next,
        }
    }

    /// Makes everything up to `end` usable. Fails when the host gives no more memory.
    fn reach(&self, end: usize) -> bool {
        let have = core::arch::wasm32::memory_size(0) * PAGE_BYTES;
        if end <= have {
            return true;
        }
        let pages = (end - have).div_ceil(PAGE_BYTES);
        // Half as much again, so that a large view does not grow page by page; only what is missing if that fails.
        [pages + have / PAGE_BYTES / 2, pages]
            .into_iter()
            .any(|pages| core::arch::wasm32::memory_grow(0, pages) != usize::MAX)
    }
}

// SAFETY: what is given lies within the memory and behind everything given before that was not taken back, and
// a guest has one thread.
unsafe impl GlobalAlloc for OneCall {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let aligned = self.next().checked_next_multiple_of(layout.align());
        let end = aligned.and_then(|start| start.checked_add(layout.size()));
        let (Some(start), Some(end)) = (aligned, end) else { return std::ptr::null_mut() };
        if !self.reach(end) {
            return std::ptr::null_mut();
        }
        self.next.store(end, Relaxed);
        start as *mut u8
    }

    unsafe fn dealloc(&self, given: *mut u8, layout: Layout) {
        if given as usize + layout.size() == self.next() {
            self.next.store(given as usize, Relaxed);
        }
    }

    unsafe fn realloc(&self, given: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let is_last = given as usize + layout.size() == self.next();
        if is_last {
            let Some(end) = (given as usize).checked_add(size) else { return std::ptr::null_mut() };
            if !self.reach(end) {
                return std::ptr::null_mut();
            }
            self.next.store(end, Relaxed);
            return given;
        }
        if size <= layout.size() {
            return given;
        }
        // SAFETY: the size is not zero, since it is more than that of the old layout.
        let moved = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !moved.is_null() {
            // SAFETY: both are at least as long, and the new one lies behind the old one.
            unsafe { std::ptr::copy_nonoverlapping(given, moved, layout.size()) };
        }
        moved
    }
}

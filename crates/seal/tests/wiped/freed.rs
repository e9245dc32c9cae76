//! An allocator that keeps a copy of every block as it is freed, and a search through the copies.

// An allocator cannot be written in safe code. What is unsafe here is this file alone, and it is linked into tests only.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::{BTreeMap, HashMap},
    ptr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
    },
};

/// The system's allocator; while [`Turn::freed_during`] runs, blocks are copied before they go back to it.
///
/// Blocks start as zeros, so that all that is found in one was written to it by its owner. `realloc` is the trait's
/// own, which allocates, copies and frees: what a growing vector leaves behind is seen.
pub struct Keeping;

static RUNNING: AtomicBool = AtomicBool::new(false);
static COPIES: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static USED: AtomicUsize = AtomicUsize::new(0);
const CAPACITY: usize = 256 << 20;
/// Zeros between two copies, so that no secret is found across them.
const GAP: usize = 16;

// SAFETY: allocation and deallocation are the system's, with the layouts they are called with.
unsafe impl GlobalAlloc for Keeping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller guarantees.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if RUNNING.load(Ordering::SeqCst) {
            let at = USED.fetch_add(layout.size() + GAP, Ordering::SeqCst);
            if at + layout.size() <= CAPACITY {
                // SAFETY: the block is the caller's for its whole size until the next line; the copies' region is
                // disjoint from it, large enough, and this part of it was reserved for this block alone.
                unsafe {
                    ptr::copy_nonoverlapping(
                        block,
                        COPIES.load(Ordering::SeqCst).add(at),
                        layout.size(),
                    );
                }
            }
        }
        // SAFETY: as the caller guarantees.
        unsafe { System.dealloc(block, layout) }
    }
}

/// A test's turn: it is alone from taking this to dropping it, as others may free what it looks for.
pub struct Turn(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Turn {
    /// Waits for it. To be taken first, so that it is dropped last.
    pub fn take() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        Self(TURN.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What `work` returned, and every block that was freed while it ran (by any thread), one after the other.
    pub fn freed_during<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<u8>) {
        let copies = region();
        let dirty = USED.swap(0, Ordering::SeqCst);
        // SAFETY: `dirty` bytes of the region were written in an earlier turn, and nobody writes now.
        unsafe { ptr::write_bytes(copies, 0, dirty) };
        RUNNING.store(true, Ordering::SeqCst);
        let result = work();
        RUNNING.store(false, Ordering::SeqCst);
        let used = USED.load(Ordering::SeqCst);
        assert!(
            used <= CAPACITY,
            "{used} bytes were freed: too many to keep"
        );
        // SAFETY: `used` bytes of the region are initialised, for it began as zeros. No thread but the harness's could be
        // in the middle of a copy, and nobody looks for what that frees.
        let freed = unsafe { std::slice::from_raw_parts(copies, used) }.to_vec();
        (result, freed)
    }
}

/// Where copies go: pages that cost nothing before they are written, and are never given back.
fn region() -> *mut u8 {
    if COPIES.load(Ordering::SeqCst).is_null() {
        let layout = Layout::from_size_align(CAPACITY, 4096).unwrap();
        // SAFETY: the layout has a size.
        COPIES.store(unsafe { System.alloc_zeroed(layout) }, Ordering::SeqCst);
    }
    let region = COPIES.load(Ordering::SeqCst);
    assert!(!region.is_null());
    region
}

/// Bytes that must not be found, and in pieces of what size they are looked for.
pub struct Secret {
    name: &'static str,
    pieces: Vec<Vec<u8>>,
}

impl Secret {
    /// Bytes of which any 16 that begin at a multiple of 16 give the secret away.
    pub fn bytes(name: &'static str, bytes: &[u8]) -> Self {
        Self::in_pieces(name, bytes, 16)
    }

    /// Uniform words: two of them at a time.
    pub fn words(name: &'static str, words: &[u64]) -> Self {
        Self::in_pieces(name, &little_endian(words), 16)
    }

    /// Words that are small modulo q, or small integers: sixteen at a time, as two are like any other two.
    pub fn small(name: &'static str, words: &[u64]) -> Self {
        Self::in_pieces(name, &little_endian(words), 128)
    }

    fn in_pieces(name: &'static str, bytes: &[u8], size: usize) -> Self {
        let pieces: Vec<Vec<u8>> = bytes.chunks_exact(size).map(<[u8]>::to_vec).collect();
        assert!(!pieces.is_empty(), "{name} is too short to look for");
        for piece in &pieces {
            assert!(piece.iter().any(|byte| *byte != 0), "{name} has zeros");
        }
        Self { name, pieces }
    }
}

pub fn little_endian(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// How many pieces of each secret are in `freed`, at any byte; secrets that are not found are left out.
pub fn found(freed: &[u8], secrets: &[Secret]) -> BTreeMap<&'static str, usize> {
    let mut by_start: HashMap<&[u8], Vec<(&'static str, &[u8])>> = HashMap::new();
    // Which first two bytes there are: most places are passed over at a glance.
    let mut begins = vec![false; 1 << 16];
    let first_two = |bytes: &[u8]| usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    for secret in secrets {
        for piece in &secret.pieces {
            let named = (secret.name, piece.as_slice());
            by_start.entry(&piece[..16]).or_default().push(named);
            begins[first_two(piece)] = true;
        }
    }
    let mut found = BTreeMap::new();
    for (at, start) in freed.windows(16).enumerate() {
        if !begins[first_two(start)] || start == [0; 16] {
            continue;
        }
        for (name, piece) in by_start.get(start).into_iter().flatten() {
            if freed[at..].starts_with(piece) {
                *found.entry(*name).or_default() += 1;
            }
        }
    }
    found
}

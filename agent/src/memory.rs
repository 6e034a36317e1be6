//! Keeps memory close to what is in use.

/// Larger blocks are mapped one by one, and given back to the system when they are freed.
const MAPPED_FROM: i32 = 512 << 10;
/// Heaps that threads share: what is smaller is allocated too seldom for them to get in each other's way.
const HEAPS_MAX: i32 = 1;

/// Tells the C library's allocator to give memory back. It would learn from the first large block that such blocks come
/// and go, keep them in a heap for each thread from then on, and hold twice what the agent uses (`mallopt(3)`,
/// `M_MMAP_THRESHOLD`). To be called before other threads begin.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn give_back_early() {
    // SAFETY: mallopt takes plain numbers, and no other thread runs yet. It returns 0 when it knows no such parameter,
    // which does no harm.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS_MAX);
    }
}

/// Other allocators are left as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back_early() {}

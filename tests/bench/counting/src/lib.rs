//! Counts how often a process asks for memory, without a change to the process: loaded before the C library (`LD_PRELOAD`), it
//! takes the calls of the allocator, adds each to a counter in a file that is shared with whoever measures, and leaves the
//! work to the C library. The name of the file is in [`COUNTER`]; without it, nothing is counted.
//!
//! Only with glibc, whose own functions can be called beside those that stand in for them. Elsewhere the library is empty.
#![cfg(all(target_os = "linux", target_env = "gnu"))]
// Each function here has the place of one of the C library, so it is called with whatever C programs call that with.
#![allow(unsafe_code)]

use std::{
    env,
    ffi::{c_int, c_void},
    fs::File,
    io,
    path::Path,
    ptr,
    sync::atomic::{
        AtomicPtr, AtomicU64,
        Ordering::{Relaxed, Release},
    },
};

use rustix::{
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap},
};

/// The environment variable with the name of the file in whose first eight bytes it is counted, in the machine's order.
pub const COUNTER: &str = "GRISTMILL_BENCH_COUNTER";

/// Where is counted; null as long as nothing is.
static CALLS: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

// The names under which glibc has its functions, whoever stands in for them.
unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(block: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
}

/// What the loader calls when the library is there, before the program begins.
#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = {
    extern "C" fn begin() {
        // A process that cannot be counted is noticed by its count, which stays at nothing.
        if let Some(file) = env::var_os(COUNTER) {
            let _ = count_in(Path::new(&file));
        }
    }
    begin
};

/// From now on counts in this file, which has room for the number.
fn count_in(file: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(file)?;
    if file.metadata()?.len() < size_of::<AtomicU64>() as u64 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping, at a place that the system chooses, of a file that has as many bytes. It stays for as long as
    // the process.
    let place = unsafe { mmap(ptr::null_mut(), size_of::<AtomicU64>(), rights, flags, &file, 0) }?;
    CALLS.store(place.cast(), Release);
    Ok(())
}

fn count() {
    // SAFETY: null, or a mapping that stays, whose beginning is aligned to a page and which nobody uses but as this number.
    if let Some(calls) = unsafe { CALLS.load(Relaxed).as_ref() } {
        calls.fetch_add(1, Relaxed);
    }
}

/// malloc(3).
///
/// # Safety
/// As of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    count();
    // SAFETY: with what it was called with.
    unsafe { __libc_malloc(size) }
}

/// calloc(3).
///
/// # Safety
/// As of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calloc(count_of: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: with what it was called with.
    unsafe { __libc_calloc(count_of, size) }
}

/// realloc(3).
///
/// # Safety
/// As of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    count();
    // SAFETY: with what it was called with; every block is the C library's.
    unsafe { __libc_realloc(block, size) }
}

/// `aligned_alloc(3)`.
///
/// # Safety
/// As of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: with what it was called with; glibc has one function for both.
    unsafe { __libc_memalign(alignment, size) }
}

/// `posix_memalign(3)`.
///
/// # Safety
/// As of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(block: *mut *mut c_void, alignment: usize, size: usize) -> c_int {
    count();
    if !alignment.is_power_of_two() || !alignment.is_multiple_of(size_of::<*mut c_void>()) {
        return Errno::INVAL.raw_os_error();
    }
    // SAFETY: a power of two.
    let made = unsafe { __libc_memalign(alignment, size) };
    if made.is_null() {
        return Errno::NOMEM.raw_os_error();
    }
    // SAFETY: whoever calls it has room there for a pointer.
    unsafe { block.write(made) };
    0
}

#[cfg(test)]
mod tests {
    use std::{fs, hint::black_box};

    use super::*;

    #[test]
    fn every_call_of_the_allocator_is_counted() {
        #[repr(align(128))]
        struct Aligned([u8; 128]);

        let file = tempfile::NamedTempFile::new().unwrap();
        count_in(file.path()).unwrap_err();
        fs::write(file.path(), [0; 8]).unwrap();
        count_in(file.path()).unwrap();
        let counted = |work: &dyn Fn()| {
            let so_far = || CALLS.load(Relaxed);
            // SAFETY: it was mapped right above.
            let so_far = || unsafe { so_far().as_ref() }.unwrap().load(Relaxed);
            let before = so_far();
            (0..100).for_each(|_| work());
            so_far() - before
        };
        assert_eq!(counted(&|| ()), 0);
        assert_eq!(counted(&|| drop(black_box(Box::new(1)))), 100);
        assert_eq!(counted(&|| drop(black_box(vec![0_u8; 10]))), 100);
        let aligned = || assert_eq!(black_box(Box::new(Aligned([1; 128]))).0.len(), 128);
        assert_eq!(counted(&aligned), 100);
        let grows = || {
            let mut bytes = black_box(Vec::<u8>::with_capacity(10));
            bytes.reserve_exact(100);
            black_box(&bytes);
        };
        assert_eq!(counted(&grows), 200);
        // What the other process sees.
        let seen = u64::from_ne_bytes(fs::read(file.path()).unwrap().try_into().unwrap());
        assert!((500..1_000).contains(&seen), "{seen}");
    }
}

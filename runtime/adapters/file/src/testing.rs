//! What the tests of source and sink share.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{
        fd::BorrowedFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The syncs of folders, by device and inode number: tests that run side by side have folders of their own.
static SYNCS: Mutex<BTreeMap<(u64, u64), Syncs>> = Mutex::new(BTreeMap::new());

/// The syncs of one folder.
#[derive(Debug, Default)]
struct Syncs {
    tried: usize,
    failing: bool,
}

/// Called before a folder is synced.
pub(crate) fn on_sync(folder: BorrowedFd<'_>) -> io::Result<()> {
    let stat = rustix::fs::fstat(folder)?;
    let mut all = lock();
    let syncs = all.entry((stat.st_dev, stat.st_ino)).or_default();
    syncs.tried += 1;
    if syncs.failing { Err(rustix::io::Errno::IO.into()) } else { Ok(()) }
}

/// How often a folder was synced, in vain or not.
pub(crate) fn syncs(folder: &Path) -> usize {
    lock().entry(key(folder)).or_default().tried
}

/// From now on the syncs of a folder fail, as on a bad disk; or no more.
pub(crate) fn fail_syncs(folder: &Path, failing: bool) {
    lock().entry(key(folder)).or_default().failing = failing;
}

fn key(folder: &Path) -> (u64, u64) {
    let metadata = fs::metadata(folder).unwrap();
    (metadata.dev(), metadata.ino())
}

fn lock() -> MutexGuard<'static, BTreeMap<(u64, u64), Syncs>> {
    SYNCS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs on a thread without root's privileges, for which permissions mean something; `folder` is its own then.
pub(crate) fn unprivileged(folder: &Path, test: impl FnOnce() + Send) {
    const NOBODY: u32 = 65_534;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(folder, Some(NOBODY), None).unwrap();
    }
    std::thread::scope(|scope| {
        let test = scope.spawn(move || {
            if is_root {
                // Of this thread alone, and of those that it begins.
                let nobody = rustix::process::Uid::from_raw(NOBODY);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            test();
        });
        test.join().unwrap();
    });
}

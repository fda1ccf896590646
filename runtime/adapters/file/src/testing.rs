//! What the tests of source and sink share.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{
        fd::BorrowedFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gristmill_core::config::{Node, Span, SubstitutedPart, Substitution, Value};
use serde_json::Value as Json;

/// Wherever this stands in the configuration of a test, it came from the environment.
pub(crate) const SECRET: &str = "hunter2";

/// A configuration of a test, with [`SECRET`] as `${env:SECRET}` gives it.
pub(crate) fn config(json: &Json) -> Node {
    let mut node = Node::from_json(json, &Span::nowhere("test"));
    substitute(&mut node);
    node
}

fn substitute(node: &mut Node) {
    match &mut node.value {
        Value::String(text) if text.contains(SECRET) => {
            let secret = || SubstitutedPart::Value { written: "${env:SECRET}".into(), value: SECRET.into() };
            let mut parts = Vec::new();
            for (index, literal) in text.split(SECRET).enumerate() {
                parts.extend((index > 0).then(secret));
                parts.push(SubstitutedPart::Written(literal.into()));
            }
            node.substitution = Some(Arc::new(Substitution { parts }));
        }
        Value::List(items) => items.iter_mut().for_each(substitute),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| substitute(&mut entry.value)),
        _ => {}
    }
}

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

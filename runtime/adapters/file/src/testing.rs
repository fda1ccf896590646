//! What the tests of source and sink share.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

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

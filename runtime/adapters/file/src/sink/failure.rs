//! What an error of the system means for a message: whether to try again, and what the operator can do.

use std::io;

use gristmill_core::{ErrorClass, Failure};
use rustix::io::Errno;

use super::folder::{FolderError, Stage};

/// The failure of a message that could not be written. `what` says what was tried, e.g. ``writing `a.json` ``.
pub(crate) fn failure(error: &io::Error, what: &str) -> Failure {
    use ErrorClass::{SinkRejected, SinkUnavailable};
    if let Some(folder) = error.get_ref().and_then(|inner| inner.downcast_ref::<FolderError>()) {
        return of_folder(folder, what);
    }
    let (class, mend) = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC) => (SinkUnavailable, "the disk is full: make room"),
        Some(Errno::DQUOT) => (SinkUnavailable, "the quota is used up: make room or raise it"),
        Some(Errno::FBIG) => {
            (SinkUnavailable, "the file may not grow further: rotate it earlier, or raise the limit")
        }
        Some(Errno::ROFS) => (SinkUnavailable, "the file system is read-only: mount it for writing"),
        Some(Errno::IO) => (SinkUnavailable, "the disk has failed: see the system's log"),
        Some(Errno::ACCESS | Errno::PERM) => {
            (SinkUnavailable, "the process may not write there: mend owner or permissions")
        }
        Some(Errno::MFILE | Errno::NFILE) => (SinkUnavailable, "too many files are open: raise the limit"),
        Some(Errno::NOENT | Errno::STALE) => (SinkUnavailable, "the folder has gone: make it again"),
        Some(Errno::NAMETOOLONG) => {
            (SinkRejected, "the name is longer than the file system takes: shorten `name`")
        }
        Some(Errno::ISDIR) => (SinkRejected, "a folder has that name: choose another `name`"),
        Some(Errno::LOOP | Errno::NOTDIR) => {
            (SinkRejected, "a part of the name is a symbolic link, which is not followed, or not a folder")
        }
        Some(Errno::ILSEQ | Errno::INVAL) => (SinkRejected, "the file system does not take that name"),
        Some(Errno::XDEV) => (SinkRejected, "a subfolder is on another file system"),
        _ => (SinkUnavailable, "see the system's log"),
    };
    Failure::new(class, format!("{what}: {error}; {mend}"))
}

/// The folder itself: whatever the error is, no message is to blame.
fn of_folder(folder: &FolderError, what: &str) -> Failure {
    let errno = folder.error.raw_os_error().map(Errno::from_raw_os_error);
    let mend = match (errno, folder.stage) {
        (Some(Errno::NOENT), Stage::Make) => "no folder can be made there: name another `directory`",
        (Some(Errno::NOENT), Stage::Open { made: false }) => {
            "make it, mend `directory`, or say `create_directory: true`"
        }
        (Some(Errno::NOENT), Stage::Open { made: true }) => {
            "it was removed this moment, or a link that leads nowhere is in its place"
        }
        (Some(Errno::NOTDIR | Errno::EXIST), _) => {
            "it or what is above it is not a folder: mend `directory`, or move that away"
        }
        (Some(Errno::LOOP), _) => "links on the way to it lead in a circle: mend them or `directory`",
        (Some(Errno::NAMETOOLONG), _) => "the path is longer than the file system takes: shorten `directory`",
        _ => return unavailable(&folder.error, &format!("{what}: {}", folder.what())),
    };
    Failure::new(ErrorClass::SinkUnavailable, format!("{what}: {folder}; {mend}"))
}

/// The same for what is no message's doing, whatever the error is: the folder itself, the file that all append to.
pub(crate) fn unavailable(error: &io::Error, what: &str) -> Failure {
    let failure = failure(error, what);
    if failure.class() == ErrorClass::SinkUnavailable {
        failure
    } else {
        Failure::new(ErrorClass::SinkUnavailable, failure.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_room_or_a_permission_would_mend_is_tried_again_and_what_the_name_is_to_blame_for_is_not() {
        let of = |errno: Errno| failure(&errno.into(), "writing");
        for errno in
            [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::ROFS, Errno::FBIG, Errno::ACCESS, Errno::MFILE]
        {
            let failure = of(errno);
            assert!(failure.class() == ErrorClass::SinkUnavailable && failure.is_retryable(), "{failure}");
        }
        for errno in [Errno::NAMETOOLONG, Errno::LOOP, Errno::ISDIR] {
            let failure = of(errno);
            assert!(failure.class() == ErrorClass::SinkRejected && !failure.is_retryable(), "{failure}");
        }
        assert!(unavailable(&Errno::LOOP.into(), "x").is_retryable());
    }
}

//! The work folder: who has claimed which file, and what a dead owner left behind.
//!
//! ```text
//! <directory>/.gristmill/
//!     lock                    held for the moment in which an owner is made or a dead one is cleared
//!     <owner>/owner           locked (flock) for as long as the owner lives: the system unlocks it when a process dies
//!     <owner>/files/<name>    claimed files
//!     <owner>/progress/<n>    how far the file with inode number n has come
//! ```
//!
//! A claim is a rename, so no two owners ever have one file. Nothing here needs to be synced: after a loss of power a file is
//! in one place or the other, and stale progress repeats messages but loses none.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File, OpenOptions},
    hash::{BuildHasher, RandomState},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{fs::FlockOperation, io::Errno};

use super::progress::Progress;
use crate::fsys::{name_text, rename_new};

/// The name of the work folder inside the source's folder.
pub(crate) const WORK_FOLDER: &str = ".gristmill";

/// One owner's part of the work folder. Given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Owner {
    folder: PathBuf,
    _alive: File,
}

/// A file that a dead owner left, now this owner's.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub(crate) name: OsString,
    pub(crate) progress: Option<Progress>,
}

/// What the clearing of dead owners came to.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    /// Files that are now this owner's, by name.
    pub(crate) adopted: Vec<Adopted>,
    /// Half-read files that match no pattern of this owner.
    pub(crate) orphans: Vec<PathBuf>,
}

impl Owner {
    /// A new owner in the work folder of `directory`. `who` goes into the owner file, for people.
    pub(crate) fn new(directory: &Path, who: &str) -> io::Result<Self> {
        let work = work_folder(directory)?;
        let _moment = lock_work_folder(&work, FlockOperation::LockExclusive)?;
        loop {
            // A random state is seeded anew for each process and counted up within it.
            let folder = work.join(format!("{:016x}", RandomState::new().hash_one(std::process::id())));
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => return Self::settle_in(folder, who),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn settle_in(folder: PathBuf, who: &str) -> io::Result<Self> {
        let mut alive = File::create(folder.join("owner"))?;
        rustix::fs::flock(&alive, FlockOperation::NonBlockingLockExclusive)?;
        writeln!(alive, "process {}, {who}", std::process::id())?;
        fs::create_dir(folder.join("files"))?;
        fs::create_dir(folder.join("progress"))?;
        Ok(Self { folder, _alive: alive })
    }

    /// Whether the owner's folder is still there.
    pub(crate) fn is_there(&self) -> bool {
        self.folder.join("files").is_dir()
    }

    /// Where a claimed file of this name is.
    pub(crate) fn file(&self, name: &OsStr) -> PathBuf {
        self.folder.join("files").join(name)
    }

    /// Where the progress of the file with this inode number is.
    pub(crate) fn progress(&self, inode: u64) -> PathBuf {
        self.folder.join("progress").join(inode.to_string())
    }

    /// Puts back the files of which nothing is settled: for whoever comes next, as if they had not been claimed.
    pub(crate) fn put_back_unbegun(&self, directory: &Path) {
        for entry in entries(&self.folder.join("files")).unwrap_or_default() {
            let begun = entry.metadata().is_ok_and(|metadata| self.progress(metadata.ino()).exists());
            if !begun && let Err(error) = rename_new(&entry.path(), &directory.join(entry.file_name())) {
                // It stays claimed; the next start takes it from there.
                tracing::debug!(file = name_text(&entry.file_name()), %error, "a claimed file could not be put back");
            }
        }
    }

    /// Takes over what dead owners left: files whose name is wanted become this owner's, with their progress; others that
    /// were not begun go back to where they came from. Does nothing when another process is at it.
    pub(crate) fn recover(&self, directory: &Path, wanted: impl Fn(&OsStr) -> bool) -> io::Result<Recovery> {
        let work = work_folder(directory)?;
        let mut recovery = Recovery::default();
        let _moment = match lock_work_folder(&work, FlockOperation::NonBlockingLockExclusive) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(recovery),
            lock => lock?,
        };
        for entry in fs::read_dir(&work)? {
            let entry = entry?;
            let folder = entry.path();
            if !entry.file_type()?.is_dir() || folder == self.folder {
                continue;
            }
            let Some(_dead) = lock_if_dead(&folder)? else { continue };
            self.take_from(directory, &folder, &wanted, &mut recovery)?;
            remove_if_empty(&folder);
        }
        recovery.adopted.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(recovery)
    }

    fn take_from(
        &self,
        directory: &Path,
        dead: &Path,
        wanted: &impl Fn(&OsStr) -> bool,
        recovery: &mut Recovery,
    ) -> io::Result<()> {
        let mut left = Vec::new();
        for entry in entries(&dead.join("files"))? {
            let (name, path) = (entry.file_name(), entry.path());
            let inode = entry.metadata()?.ino();
            let old_progress = dead.join("progress").join(inode.to_string());
            let progress = Progress::read(&old_progress, inode);
            if wanted(&name) {
                // First a second name for the progress, then the file, then the first name away: whenever the process dies,
                // the file has its progress beside it.
                let new_progress = self.progress(inode);
                if progress.is_some() {
                    let _ = fs::remove_file(&new_progress);
                    fs::hard_link(&old_progress, &new_progress)
                        .or_else(|_| fs::copy(&old_progress, &new_progress).map(drop))?;
                }
                match rename_new(&path, &self.file(&name)) {
                    Ok(()) => recovery.adopted.push(Adopted { name, progress }),
                    // A file of that name is in work here: this one's turn comes later.
                    Err(_) => {
                        let _ = fs::remove_file(&new_progress);
                        left.push(inode);
                    }
                }
            } else if progress.is_some() || rename_new(&path, &directory.join(&name)).is_err() {
                recovery.orphans.push(path);
                left.push(inode);
            }
        }
        for entry in entries(&dead.join("progress"))? {
            let name = entry.file_name();
            if !left.iter().any(|inode| name.to_str() == Some(&inode.to_string())) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        remove_if_empty(&self.folder);
    }
}

/// The work folder, made when it is missing. A link in its place is refused: claimed files would leave the folder.
fn work_folder(directory: &Path) -> io::Result<PathBuf> {
    let work = directory.join(WORK_FOLDER);
    match DirBuilder::new().mode(0o700).create(&work) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => result?,
    }
    if fs::symlink_metadata(&work)?.is_dir() {
        Ok(work)
    } else {
        let text = format!("`{WORK_FOLDER}` in it is in the way: it must be a folder");
        Err(io::Error::new(io::ErrorKind::NotADirectory, text))
    }
}

fn lock_work_folder(work: &Path, how: FlockOperation) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(work.join("lock"))?;
    loop {
        match rustix::fs::flock(&file, how) {
            Err(Errno::INTR) => {}
            result => return Ok(result.map(|()| file)?),
        }
    }
}

/// The lock of an owner that does not hold it any more. Two sources of one process are told apart as well: the lock is of
/// the open file, not of the process.
fn lock_if_dead(folder: &Path) -> io::Result<Option<File>> {
    // Made when it is missing: the owner died between making its folder and its file.
    let owner = match OpenOptions::new().create(true).append(true).open(folder.join("owner")) {
        Ok(file) => file,
        // It went away in good order this moment.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match rustix::fs::flock(&owner, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(owner)),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Removes an owner's folder unless it still holds files.
fn remove_if_empty(folder: &Path) {
    // The files first: while there is one, the owner's file must stay, or nobody could tell that the owner is dead.
    match fs::remove_dir(folder.join("files")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return,
        _ => {}
    }
    let _ = fs::remove_dir_all(folder.join("progress"));
    let _ = fs::remove_file(folder.join("owner"));
    let _ = fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(owner: &Owner, directory: &Path, name: &str) -> u64 {
        let from = directory.join(name);
        fs::write(&from, name).unwrap();
        let inode = fs::metadata(&from).unwrap().ino();
        rename_new(&from, &owner.file(OsStr::new(name))).unwrap();
        inode
    }

    /// As after kill -9: the lock is gone, the folder is not.
    fn kill(owner: Owner) {
        rustix::fs::flock(&owner._alive, FlockOperation::Unlock).unwrap();
        std::mem::forget(owner);
    }

    #[test]
    fn what_a_dead_owner_left_is_adopted_with_its_progress_once() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        let first = Owner::new(directory, "first").unwrap();
        let inode = claim(&first, directory, "a.xml");
        claim(&first, directory, "b.xml");
        let progress = Progress { inode, offset: 7, line: 2, settled: vec![(9, 12)], finished: false };
        progress.note(&first.progress(inode)).unwrap();

        let second = Owner::new(directory, "second").unwrap();
        assert!(second.recover(directory, |_| true).unwrap().adopted.is_empty(), "the first one lives");
        kill(first);
        let recovery = second.recover(directory, |_| true).unwrap();
        let adopted: Vec<_> = recovery.adopted.into_iter().map(|a| (a.name, a.progress)).collect();
        assert_eq!(adopted, [("a.xml".into(), Some(progress)), ("b.xml".into(), None)]);
        assert!(second.file(OsStr::new("a.xml")).exists() && second.progress(inode).exists());

        let third = Owner::new(directory, "third").unwrap();
        assert!(third.recover(directory, |_| true).unwrap().adopted.is_empty());
        let owners = fs::read_dir(directory.join(WORK_FOLDER)).unwrap().count();
        assert_eq!(owners, 3, "the lock and two owners: the dead one's folder is gone");
    }

    #[test]
    fn what_is_not_wanted_goes_back_unless_it_was_begun() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        let first = Owner::new(directory, "first").unwrap();
        let begun = claim(&first, directory, "begun");
        claim(&first, directory, "not-begun");
        Progress { inode: begun, offset: 1, line: 2, settled: vec![], finished: false }
            .note(&first.progress(begun))
            .unwrap();
        kill(first);
        let second = Owner::new(directory, "second").unwrap();
        let recovery = second.recover(directory, |_| false).unwrap();
        assert!(directory.join("not-begun").exists());
        assert_eq!(recovery.orphans.len(), 1);
        let recovery = second.recover(directory, |name| name == "begun").unwrap();
        assert_eq!(recovery.adopted.len(), 1);
        assert!(recovery.adopted[0].progress.is_some());
    }

    #[test]
    fn an_owner_that_holds_nothing_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(Owner::new(folder.path(), "test").unwrap());
        let left: Vec<_> =
            fs::read_dir(folder.path().join(WORK_FOLDER)).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
    }

    #[test]
    fn a_link_in_the_place_of_the_work_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), folder.path().join(WORK_FOLDER)).unwrap();
        let error = Owner::new(folder.path(), "test").unwrap_err();
        assert!(error.to_string().contains("must be a folder"), "{error}");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}

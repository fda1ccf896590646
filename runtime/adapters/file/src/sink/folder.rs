//! The folder as an open handle. Everything is done relative to it, one plain part of a name at a time and without following
//! links: so no name, and no link that someone plants while a name is walked, leads elsewhere.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags},
    io::Errno,
};

use crate::fsys::RESERVED_PREFIX;

/// A folder that is written to.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Whether it is made when it is missing.
    create: bool,
    open: Mutex<Option<Arc<OwnedFd>>>,
}

impl Folder {
    pub(crate) fn new(path: PathBuf, create: bool) -> Self {
        Self { path, create, open: Mutex::new(None) }
    }

    /// The handle; opened anew when another folder has this path by now.
    pub(crate) fn get(&self) -> io::Result<Arc<OwnedFd>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = &*open
            && let (Ok(there), Ok(held)) = (fs::metadata(&self.path), rustix::fs::fstat(handle))
            && (there.dev(), there.ino()) == (held.st_dev, held.st_ino)
        {
            return Ok(Arc::clone(handle));
        }
        if self.create && !self.path.is_dir() {
            fs::create_dir_all(&self.path)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The configured path itself may lead over links: the operator chose it.
        let handle = Arc::new(rustix::fs::openat(CWD, &self.path, flags, Mode::empty())?);
        *open = Some(Arc::clone(&handle));
        Ok(handle)
    }

    /// For messages and for telling folders apart.
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }
}

/// The handle of a subfolder, which is made when it is missing.
pub(crate) fn enter(top: &Arc<OwnedFd>, folders: &[String]) -> io::Result<Arc<OwnedFd>> {
    let mut here = Arc::clone(top);
    for folder in folders {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = match rustix::fs::openat(&*here, folder, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&*here, folder, Mode::from_raw_mode(0o777)) {
                    Ok(()) => sync(&here)?,
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                rustix::fs::openat(&*here, folder, flags, Mode::empty())
            }
            next => next,
        };
        here = Arc::new(next?);
    }
    Ok(here)
}

/// Syncs the names in a folder.
pub(crate) fn sync(folder: &OwnedFd) -> io::Result<()> {
    match rustix::fs::fsync(folder) {
        // File systems that cannot (some network ones) have made the name safe by themselves, or never will.
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        synced => Ok(synced?),
    }
}

/// Opens a file of the folder. A link is not followed (`ELOOP`), a FIFO does not block, and what is not a regular file is
/// refused.
pub(crate) fn open_file(folder: &OwnedFd, name: &str, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o666))?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Renames, and fails with `AlreadyExists` rather than replace.
pub(crate) fn rename_new(from: impl AsFd, old: &str, to: impl AsFd, new: &str) -> io::Result<()> {
    match rustix::fs::renameat_with(&from, old, &to, new, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            rustix::fs::linkat(&from, old, &to, new, AtFlags::empty())?;
            Ok(rustix::fs::unlinkat(&from, old, AtFlags::empty())?)
        }
        result => Ok(result?),
    }
}

/// Begins the names of temporary files.
pub(crate) fn temporary_prefix() -> String {
    format!("{RESERVED_PREFIX}-tmp-")
}

/// Removes temporary files whose writer is dead: a living one holds a lock on each.
pub(crate) fn remove_dead_temporaries(folder: &OwnedFd) -> io::Result<usize> {
    let mut removed = 0;
    let prefix = temporary_prefix();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let may_be_file = matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown);
        if !name.starts_with(&prefix) || !may_be_file {
            continue;
        }
        let Ok(file) = open_file(folder, name, OFlags::RDONLY) else { continue };
        let dead = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if dead && rustix::fs::unlinkat(folder, name, AtFlags::empty()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

//! The folder as an open handle. Everything is done relative to it, one plain part of a name at a time and without following
//! links: so no name, and no link that someone plants while a name is walked, leads elsewhere.

use std::{
    error::Error,
    fmt,
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

use crate::{
    configured::ConfiguredPath,
    fsys::{Permissions, RESERVED_PREFIX, make_folders, sync_folder, sync_name_of},
};

/// A folder that is written to.
#[derive(Debug)]
pub(crate) struct Folder {
    path: ConfiguredPath,
    /// Whether it is made when it is missing.
    create: bool,
    /// Of it, and of what is made in it.
    permissions: Permissions,
    open: Mutex<Option<Arc<OwnedFd>>>,
    /// Without links, as of when it was last opened.
    real: Mutex<PathBuf>,
}

/// Why the folder itself is not open: no message's doing.
#[derive(Debug)]
pub(crate) struct FolderError {
    /// The folder, as it may be shown.
    folder: String,
    pub(crate) stage: Stage,
    pub(crate) error: io::Error,
}

/// How far the opening came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is missing and cannot be made.
    Make,
    /// It cannot be opened. It was there or was made, where `made` says that it would be.
    Open { made: bool },
}

/// A subfolder, and the way to it.
#[derive(Debug, Clone)]
pub(crate) struct Entered {
    pub(crate) folder: Arc<OwnedFd>,
    /// Those above it, the outermost first.
    above: Vec<Arc<OwnedFd>>,
}

impl Folder {
    pub(crate) fn new(path: ConfiguredPath, create: bool, permissions: Permissions) -> Self {
        Self { real: Mutex::new(path.path().to_owned()), path, create, permissions, open: Mutex::new(None) }
    }

    /// The handle; opened anew when another folder has this path by now. The error holds a [`FolderError`].
    pub(crate) fn get(&self) -> io::Result<Arc<OwnedFd>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = &*open
            && let (Ok(there), Ok(held)) = (fs::metadata(self.path.path()), rustix::fs::fstat(handle))
            && (there.dev(), there.ino()) == (held.st_dev, held.st_ino)
        {
            return Ok(Arc::clone(handle));
        }
        let path = self.path.path();
        let failed = |stage| {
            move |error: io::Error| {
                let folder = self.path.to_string();
                io::Error::new(error.kind(), FolderError { folder, stage, error })
            }
        };
        if self.create && !path.is_dir() {
            make_folders(path, self.permissions).map_err(failed(Stage::Make))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The configured path itself may lead over links: the operator chose it.
        let opening = failed(Stage::Open { made: self.create });
        let handle = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(io::Error::from);
        let handle = Arc::new(handle.map_err(&opening)?);
        if self.create {
            // Also when it was there: whoever made it may not have come so far.
            sync_name_of(path).map_err(&opening)?;
        }
        if let Ok(real) = fs::canonicalize(path) {
            *self.real.lock().unwrap_or_else(PoisonError::into_inner) = real;
        }
        *open = Some(Arc::clone(&handle));
        Ok(handle)
    }

    /// The permissions of what is made in it.
    pub(crate) fn permissions(&self) -> Permissions {
        self.permissions
    }

    /// For messages.
    pub(crate) fn path(&self) -> &ConfiguredPath {
        &self.path
    }

    /// For telling folders apart: a link to a folder is the same folder. Does not block.
    pub(crate) fn real_path(&self) -> PathBuf {
        self.real.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl FolderError {
    /// What could not be done, without the reason.
    pub(crate) fn what(&self) -> String {
        let what = match self.stage {
            Stage::Make => "made",
            Stage::Open { .. } => "opened",
        };
        format!("the folder `{}` cannot be {what}", self.folder)
    }
}

impl fmt::Display for FolderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what(), self.error)
    }
}

impl Error for FolderError {}

impl Entered {
    /// Every folder whose names must be on disk for a file in this one to be found again.
    pub(crate) fn way(&self) -> impl Iterator<Item = &Arc<OwnedFd>> {
        self.above.iter().chain([&self.folder])
    }

    /// Syncs the names on the whole way.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.way().try_for_each(sync_folder)
    }
}

/// Enters a subfolder, which is made when it is missing. Nothing in it is safe before the whole way is synced: not only by
/// who makes a folder, for that may fail, or be another.
pub(crate) fn enter(top: &Arc<OwnedFd>, folders: &[String], permissions: Permissions) -> io::Result<Entered> {
    let mode = permissions.of_folder();
    let mut above = Vec::with_capacity(folders.len());
    let mut here = Arc::clone(top);
    for folder in folders {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = match rustix::fs::openat(&*here, folder, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                let made = match rustix::fs::mkdirat(&*here, folder, mode) {
                    Ok(()) => true,
                    Err(Errno::EXIST) => false,
                    Err(error) => return Err(error.into()),
                };
                let next = rustix::fs::openat(&*here, folder, flags, Mode::empty());
                if let (true, Ok(next)) = (made, &next) {
                    permissions.enforce(next, mode)?;
                }
                next
            }
            next => next,
        };
        above.push(std::mem::replace(&mut here, Arc::new(next?)));
    }
    Ok(Entered { folder: here, above })
}

/// Opens a file of the folder. A link is not followed (`ELOOP`), a FIFO does not block, and what is not a regular file is
/// refused.
pub(crate) fn open_file(folder: &OwnedFd, name: &str, flags: OFlags) -> io::Result<File> {
    open_with_mode(folder, name, flags, Mode::empty())
}

/// The same, and makes the file.
pub(crate) fn make_file(
    folder: &OwnedFd,
    name: &str,
    flags: OFlags,
    permissions: Permissions,
) -> io::Result<File> {
    let mode = permissions.of_file();
    let file = open_with_mode(folder, name, flags | OFlags::CREATE, mode)?;
    permissions.enforce(&file, mode)?;
    Ok(file)
}

fn open_with_mode(folder: &OwnedFd, name: &str, flags: OFlags, mode: Mode) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(folder, name, flags, mode)?);
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

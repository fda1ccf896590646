//! One file a message. A file is written under a temporary name, synced, and renamed: whoever looks sees it whole or not at
//! all, and when the message is confirmed, both the file and its name are on disk.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use gristmill_core::{
    ErrorClass, Failure,
    sink::{Outgoing, Sink, Slot},
};
use rustix::{
    fs::{AtFlags, FlockOperation, OFlags},
    io::Errno,
};

use super::{
    failure::{failure, unavailable},
    folder::{self, Entered, Folder},
    group::{Commit, GroupCommit},
    name::SafeName,
};
use crate::{
    config::IfExists,
    fsys::{MAX_NUMBER, Permissions, numbered, sync_folder},
};

/// Where the name of a file comes from.
#[derive(Debug, Clone)]
pub(crate) enum Naming {
    Fixed(SafeName),
    /// Rendered for each message.
    Rendered {
        slot: Slot,
        subdirectories: bool,
        /// What is shown in its place, where a part of it came from outside of the flow file.
        written: Option<Arc<str>>,
    },
    /// Made of the message's id, with this extension or that of its content type.
    Id {
        extension: Option<&'static str>,
    },
}

/// The sink.
#[derive(Debug)]
pub(crate) struct OneFileSink {
    pub(crate) naming: Naming,
    pub(crate) if_exists: IfExists,
    pub(crate) files: Arc<GroupCommit<Files>>,
}

/// Writes groups of files.
#[derive(Debug)]
pub(crate) struct Files {
    folder: Folder,
}

/// A file to be written.
#[derive(Debug)]
pub(crate) struct FileItem {
    name: SafeName,
    body: Bytes,
    if_exists: IfExists,
}

/// A file that is whole, under its temporary name.
struct Temporary<'a> {
    folder: &'a OwnedFd,
    name: String,
    // Its lock tells others that the writer lives.
    _file: File,
    placed: bool,
}

// === impl Naming ===

impl Naming {
    pub(crate) fn name(&self, outgoing: Outgoing<'_>) -> Result<SafeName, Failure> {
        match self {
            Self::Fixed(name) => Ok(name.clone()),
            Self::Rendered { slot, subdirectories, written } => {
                SafeName::of_message(outgoing.text(*slot), *subdirectories, written.clone())
            }
            Self::Id { extension } => Ok(SafeName::of_id(outgoing.message, *extension)),
        }
    }
}

// === impl OneFileSink ===

#[async_trait]
impl Sink for OneFileSink {
    async fn send(&self, outgoing: Outgoing<'_>) -> Result<(), Failure> {
        let name = self.naming.name(outgoing)?;
        let body = outgoing.message.body().clone();
        self.files.submit(FileItem { name, body, if_exists: self.if_exists }).await
    }
}

// === impl Files ===

impl Files {
    pub(crate) fn new(folder: Folder) -> Self {
        Self { folder }
    }

    /// Opens the folder, and removes what a dead process left half-written in it.
    pub(crate) fn open(&self) -> Result<(), Failure> {
        let path = self.folder.path();
        let top = self.folder.get().map_err(|error| failure(&error, "file sink"))?;
        match folder::remove_dead_temporaries(&top) {
            Ok(0) => {}
            Ok(removed) => {
                tracing::info!(folder = %path, removed, "removed half-written files of a process that ended")
            }
            Err(error) => tracing::warn!(folder = %path, %error, "half-written files cannot be looked for"),
        }
        Ok(())
    }

    /// Writes one file and gives it its name, which is not yet synced. Gives the folder to sync, with the way to it.
    fn write(&self, top: &Arc<OwnedFd>, item: &FileItem) -> io::Result<Written> {
        let entered = folder::enter(top, &item.name.folders, self.folder.permissions())?;
        let target = &entered.folder;
        let name = item.name.name.as_str();
        // Without this look the file would be written only to be thrown away.
        if matches!(item.if_exists, IfExists::Fail | IfExists::Skip) && exists(target, name)? {
            return taken(entered, name, item);
        }
        let mut temporary = Temporary::write(top, &item.body, self.folder.permissions())?;
        match item.if_exists {
            IfExists::Replace => {
                rustix::fs::renameat(&**top, &temporary.name, target, name)?;
                temporary.placed = true;
            }
            IfExists::Fail | IfExists::Skip => match temporary.place(target, name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return taken(entered, name, item);
                }
                placed => placed?,
            },
            IfExists::Number => {
                let mut number = 0;
                loop {
                    let numbered = numbered(name.as_ref(), number);
                    match temporary.place(target, &numbered.to_string_lossy()) {
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < MAX_NUMBER => {
                            number += 1;
                        }
                        placed => break placed?,
                    }
                }
            }
        }
        Ok(Written::Sync(entered))
    }
}

/// A folder in which files got their names, and whether that is on disk.
type SyncedFolder = (Arc<OwnedFd>, Result<(), Failure>);

/// What became of a file.
enum Written {
    /// It has its name once the way to this folder is synced.
    Sync(Entered),
    /// Another file has the name.
    Taken,
}

/// A file of that name is there.
fn taken(entered: Entered, name: &str, item: &FileItem) -> io::Result<Written> {
    if item.if_exists == IfExists::Skip {
        // It may be this message's own, of an earlier attempt that failed when the folder was synced.
        return Ok(Written::Sync(entered));
    }
    // An earlier attempt may have come this far and not known: the same bytes are the same message. Synced again, for
    // that attempt may have failed at just that.
    let file = match folder::open_file(&entered.folder, name, OFlags::RDONLY) {
        Ok(file) => file,
        Err(_) => return Ok(Written::Taken),
    };
    if holds(&file, &item.body)? {
        file.sync_all()?;
        Ok(Written::Sync(entered))
    } else {
        Ok(Written::Taken)
    }
}

fn exists(folder: &OwnedFd, name: &str) -> io::Result<bool> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a file holds just these bytes.
fn holds(mut file: &File, body: &[u8]) -> io::Result<bool> {
    if file.metadata()?.len() != body.len() as u64 {
        return Ok(false);
    }
    let mut rest = body;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = file.read(&mut buffer)?;
        let read = buffer.get(..read).unwrap_or_default();
        match rest.strip_prefix(read) {
            Some(_) if read.is_empty() => return Ok(rest.is_empty()),
            Some(left) => rest = left,
            None => return Ok(false),
        }
    }
}

impl Commit for Files {
    type Item = FileItem;
    // A sync for each of them, and one for the folder.
    const MAX_GROUP: usize = 64;

    fn commit(&self, items: Vec<FileItem>) -> Vec<Result<(), Failure>> {
        let path = self.folder.path();
        let top = match self.folder.get() {
            Ok(top) => top,
            Err(error) => {
                let failure = failure(&error, "file sink");
                return items.iter().map(|_| Err(failure.clone())).collect();
            }
        };
        // Files first, each synced; then each folder once, for all of them.
        let mut folders: BTreeMap<(u64, u64), SyncedFolder> = BTreeMap::new();
        let mut results = Vec::with_capacity(items.len());
        for item in &items {
            let what = format!("file sink: writing `{path}/{}`", item.name);
            results.push(match self.write(&top, item) {
                Ok(Written::Taken) => Err(Failure::new(
                    ErrorClass::SinkRejected,
                    format!(
                        "{what}: a file of that name is there, with other content; choose a `name` that is different for \
                         each message, or another `if_exists`"
                    ),
                )),
                Ok(Written::Sync(entered)) => {
                    let keys = entered.way().map(|folder| {
                        let stat = rustix::fs::fstat(folder)?;
                        let key = (stat.st_dev, stat.st_ino);
                        folders.entry(key).or_insert_with(|| (Arc::clone(folder), Ok(())));
                        Ok(key)
                    });
                    keys.collect::<io::Result<Vec<_>>>().map_err(|error| failure(&error, &what))
                }
                Err(error) => Err(failure(&error, &what)),
            });
        }
        for (folder, synced) in folders.values_mut() {
            *synced = sync_folder(folder)
                .map_err(|error| unavailable(&error, &format!("file sink: syncing the folder `{path}`")));
        }
        results
            .into_iter()
            .map(|keys| {
                keys?.iter().filter_map(|key| folders.get(key)).try_for_each(|(_, synced)| synced.clone())
            })
            .collect()
    }
}

// === impl Temporary ===

impl<'a> Temporary<'a> {
    /// Writes and syncs. On an error nothing is left.
    fn write(folder: &'a OwnedFd, body: &[u8], permissions: Permissions) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let (name, file) = loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}{}-{count}", folder::temporary_prefix(), std::process::id());
            match folder::make_file(folder, &name, OFlags::WRONLY | OFlags::EXCL, permissions) {
                // Left by a process that had the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                file => break (name, file?),
            }
        };
        let temporary = Self { folder, name, _file: file, placed: false };
        // The lock is for those who clean up; without one, at worst they clean up too early, and the rename fails.
        let _ = rustix::fs::flock(&temporary._file, FlockOperation::NonBlockingLockExclusive);
        let mut file = &temporary._file;
        file.write_all(body)?;
        file.sync_all()?;
        Ok(temporary)
    }

    fn place(&mut self, folder: &OwnedFd, name: &str) -> io::Result<()> {
        folder::rename_new(self.folder, &self.name, folder, name)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.placed {
            let _ = rustix::fs::unlinkat(self.folder, &self.name, AtFlags::empty());
        }
    }
}

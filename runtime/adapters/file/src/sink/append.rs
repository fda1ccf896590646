//! One line a message, at the end of a file that all flows and all versions in this process share.
//!
//! What is confirmed is on disk: a group of lines is written, then synced, then confirmed. What could not be written whole is
//! cut off again; what a crash left half-written is cut off when the file is next opened, for only a line that ends was ever
//! confirmed. A lock on the file keeps other processes of the runtime from it.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use gristmill_core::{
    Clock, ErrorClass, Failure, Timestamp,
    sink::{Outgoing, Sink},
};
use rustix::{
    fs::{AtFlags, FlockOperation, OFlags},
    io::Errno,
};

use super::{
    failure::{failure, unavailable},
    folder::{self, Entered, Folder},
    group::{Commit, GroupCommit},
    line::line_of,
    name::SafeName,
    one_file::Naming,
    rotation,
};
use crate::{
    config::{Newline, Rotate},
    fsys::{self, Permissions, sync_folder, with_suffix},
};

/// How many files one sink keeps open, when names are rendered for each message.
const MAX_OPEN: usize = 64;

/// How much is gathered before it is handed to the system, in bytes. A line that is larger is handed over as it is.
const WRITE_BYTES: usize = 1024 * 1024;

/// How long the file may still be held by a handle of this process that is being closed.
const LOCK_TRIES: u32 = 20;
const LOCK_TRY: Duration = Duration::from_millis(5);

/// The real path of a folder, and a name in it: what tells files apart.
type RealName = (PathBuf, SafeName);

/// The files that are open for appending, shared by all sinks of the process.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    clock: Arc<dyn Clock>,
    files: Mutex<HashMap<RealName, Weak<GroupCommit<Appender>>>>,
}

/// The sink.
#[derive(Debug)]
pub(crate) struct AppendSink {
    pub(crate) naming: Naming,
    pub(crate) newline: Newline,
    pub(crate) rotate: Option<Rotate>,
    pub(crate) folder: Arc<Folder>,
    pub(crate) files: Arc<OpenFiles>,
    /// The files used last, the latest at the end; they stay open.
    pub(crate) recent: Mutex<VecDeque<(SafeName, Arc<GroupCommit<Appender>>)>>,
}

/// Appends groups of lines to one file.
#[derive(Debug)]
pub(crate) struct Appender {
    folder: Arc<Folder>,
    name: SafeName,
    clock: Arc<dyn Clock>,
    open: Mutex<Option<OpenFile>>,
    /// The date that the last file set aside was given, in milliseconds: the next gets a later one, so that their names
    /// sort in the order in which they were written, however fast that goes and wherever the clock jumps.
    last_aside: AtomicU64,
}

/// A line to be appended.
#[derive(Debug)]
pub(crate) struct LineItem {
    line: Bytes,
    rotate: Option<Rotate>,
}

/// The file at the end of which lines are written.
#[derive(Debug)]
struct OpenFile {
    file: File,
    folder: Arc<OwnedFd>,
    /// What is whole and synced, in bytes.
    length: u64,
    begun: Timestamp,
}

// === impl OpenFiles ===

impl OpenFiles {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, files: Mutex::default() }
    }

    /// The one appender of a file.
    fn appender(&self, folder: &Arc<Folder>, name: &SafeName) -> Arc<GroupCommit<Appender>> {
        let path = folder.real_path();
        let mut files = lock(&self.files);
        if let Some(appender) = files.get(&(path.clone(), name.clone())).and_then(Weak::upgrade) {
            return appender;
        }
        files.retain(|_, file| file.strong_count() > 0);
        let appender = GroupCommit::new(Appender {
            folder: Arc::clone(folder),
            name: name.clone(),
            clock: Arc::clone(&self.clock),
            open: Mutex::new(None),
            last_aside: AtomicU64::new(0),
        });
        files.insert((path, name.clone()), Arc::downgrade(&appender));
        appender
    }
}

// === impl AppendSink ===

impl AppendSink {
    fn appender(&self, name: &SafeName) -> Arc<GroupCommit<Appender>> {
        let mut recent = lock(&self.recent);
        match recent.iter().rposition(|(known, _)| known == name) {
            // The usual case: one name, or the same one again.
            Some(at) if at + 1 == recent.len() => {}
            Some(at) => {
                if let Some(entry) = recent.remove(at) {
                    recent.push_back(entry);
                }
            }
            None => {
                if recent.len() >= MAX_OPEN {
                    recent.pop_front();
                }
                recent.push_back((name.clone(), self.files.appender(&self.folder, name)));
            }
        }
        match recent.back() {
            Some((_, appender)) => Arc::clone(appender),
            None => self.files.appender(&self.folder, name),
        }
    }

    /// Looks whether the file can be written, and cuts a torn tail, when the name is known before any message is.
    pub(crate) fn open(&self) -> Result<(), Failure> {
        self.folder.get().map_err(|error| failure(&error, "file sink"))?;
        if let Naming::Fixed(name) = &self.naming {
            self.appender(name).commit().look()?;
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for AppendSink {
    async fn send(&self, outgoing: Outgoing<'_>) -> Result<(), Failure> {
        let line = line_of(outgoing.message.body(), self.newline)?;
        let item = LineItem { line, rotate: self.rotate.clone() };
        let appender = match &self.naming {
            Naming::Fixed(name) => self.appender(name),
            naming => self.appender(&naming.name(outgoing)?),
        };
        appender.submit(item).await
    }
}

// === impl Appender ===

impl Commit for Appender {
    type Item = LineItem;
    // One sync for all of them.
    const MAX_GROUP: usize = 4_096;

    fn commit(&self, items: Vec<LineItem>) -> Vec<Result<(), Failure>> {
        let mut open = lock(&self.open);
        let mut results = Vec::with_capacity(items.len());
        let mut items = items.as_slice();
        while !items.is_empty() {
            let (written, outcome) = self.append(&mut open, items);
            // An error after which something was cut off: what follows is not written before it. The order stays, and
            // nothing of what follows could be read as the end of what failed.
            let failed = outcome.is_err();
            results.extend((0..written).map(|_| outcome.clone()));
            items = items.get(written..).unwrap_or_default();
            if failed {
                results.extend(items.iter().map(|_| outcome.clone()));
                break;
            }
        }
        results
    }
}

impl Appender {
    /// What can be seen before the first line.
    fn look(&self) -> Result<(), Failure> {
        let mut open = lock(&self.open);
        let what = self.what();
        let there = self
            .folder
            .get()
            .and_then(|top| match stat(&top, &self.name, self.folder.permissions()) {
                Err(Errno::NOENT) => Ok(false),
                found => Ok(found.map(|_| true)?),
            })
            .map_err(|error| unavailable(&error, &what))?;
        if !there {
            return Ok(());
        }
        match self.ensure_open(&mut open) {
            // Another process is about to end, perhaps: each message will tell whether it has.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(unavailable(&error, &what)),
            Ok(_) => Ok(()),
        }
    }

    /// Appends and syncs as many of the items as go into one file. Gives how many, and what became of them.
    fn append(&self, open: &mut Option<OpenFile>, items: &[LineItem]) -> (usize, Result<(), Failure>) {
        let count = items.len();
        let all = |error: io::Error| (count, Err(unavailable(&error, &self.what())));
        let file = match self.ensure_open(open) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let text = format!(
                    "{}: another process appends to this file; give each process a `name` of its own",
                    self.what()
                );
                return (count, Err(Failure::new(ErrorClass::SinkUnavailable, text)));
            }
            // A link planted in the way, a folder of that name: the message may have chosen the name.
            Err(error) => return (count, Err(failure(&error, &self.what()))),
        };
        let now = self.clock.now();
        if let Some(item) = items.first()
            && let Some(rotate) = &item.rotate
            && rotation::is_due(rotate, file.length, item.line.len() as u64 + 1, file.begun, now)
        {
            let rotated = self.rotate(file, rotate, now);
            *open = None;
            // Nothing is written yet; the next round opens a new file.
            return match rotated {
                Ok(()) => (0, Ok(())),
                Err(error) => all(error),
            };
        }
        match file.write(items, now) {
            Ok(written) => (written, Ok(())),
            Err(error) => {
                if let Err(cut) = file.file.set_len(file.length) {
                    tracing::warn!(
                        file = %self.name, error = %cut,
                        "what was written of lines that failed cannot be cut off; it is when the file is next opened"
                    );
                    *open = None;
                }
                all(error)
            }
        }
    }

    /// The file, opened when it is not, or when another file has its name by now.
    fn ensure_open<'a>(&self, open: &'a mut Option<OpenFile>) -> io::Result<&'a mut OpenFile> {
        let top = self.folder.get()?;
        let entered = folder::enter(&top, &self.name.folders, self.folder.permissions())?;
        let current = open.take().filter(|open| open.is_named(&entered.folder, &self.name.name));
        let current = match current {
            Some(current) => current,
            None => self.open_anew(entered)?,
        };
        Ok(open.insert(current))
    }

    fn open_anew(&self, entered: Entered) -> io::Result<OpenFile> {
        let (folder, permissions) = (&entered.folder, self.folder.permissions());
        let name = self.name.name.as_str();
        let existing = match folder::open_file(folder, name, OFlags::RDWR) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            file => Some(file?),
        };
        let is_new = existing.is_none();
        let mut file = match existing {
            Some(file) => file,
            None => folder::make_file(folder, name, OFlags::RDWR, permissions)?,
        };
        lock_file(&file)?;
        let begun = if is_new {
            self.clock.now()
        } else {
            let metadata = file.metadata()?;
            metadata.created().or_else(|_| metadata.modified())?.into()
        };
        let length = cut_torn_tail(&mut file, folder, &self.name, permissions)?;
        // Also of a file that was there: an earlier attempt may have made it, and failed at just this.
        entered.sync()?;
        file.seek(SeekFrom::Start(length))?;
        Ok(OpenFile { file, folder: entered.folder, length, begun })
    }

    fn rotate(&self, file: &OpenFile, rotate: &Rotate, now: Timestamp) -> io::Result<()> {
        let date = now.as_millis().max(self.last_aside.load(Ordering::Relaxed).saturating_add(1));
        self.last_aside.store(date, Ordering::Relaxed);
        let aside = rotation::set_aside(&file.folder, &self.name.name, Timestamp::from_millis(date))?;
        tracing::info!(file = %self.name, aside = self.name.if_shown(&aside), bytes = file.length, "set aside, a new file begins");
        if let Some(keep) = rotate.keep
            && let Err(error) = rotation::prune(&file.folder, &self.name.name, keep)
        {
            tracing::warn!(file = %self.name, %error, "the oldest files that were set aside cannot be deleted");
        }
        sync_folder(&file.folder)
    }

    fn what(&self) -> String {
        format!("file sink: appending to `{}/{}`", self.folder.path(), self.name)
    }
}

// === impl OpenFile ===

impl OpenFile {
    /// Whether the name still stands for this file: it may have been moved or deleted, and what is written then is lost.
    fn is_named(&self, folder: &OwnedFd, name: &str) -> bool {
        let named = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        match (named, self.file.metadata()) {
            (Ok(named), Ok(held)) => (named.st_dev, named.st_ino) == (held.dev(), held.ino()),
            _ => false,
        }
    }

    /// Writes and syncs lines up to the first before which the file is to be set aside. Gives how many.
    fn write(&mut self, items: &[LineItem], now: Timestamp) -> io::Result<usize> {
        self.file.seek(SeekFrom::Start(self.length))?;
        let bytes: usize = items.iter().map(|item| item.line.len() + 1).sum();
        let mut buffer = Vec::with_capacity(bytes.min(WRITE_BYTES));
        let mut end = self.length;
        let mut written = 0;
        for item in items {
            let bytes = item.line.len() as u64 + 1;
            if written > 0
                && item.rotate.as_ref().is_some_and(|r| rotation::is_due(r, end, bytes, self.begun, now))
            {
                break;
            }
            if item.line.len() >= WRITE_BYTES {
                self.file.write_all(&buffer)?;
                buffer.clear();
                self.file.write_all(&item.line)?;
            } else {
                buffer.extend_from_slice(&item.line);
            }
            buffer.push(b'\n');
            if buffer.len() >= WRITE_BYTES {
                self.file.write_all(&buffer)?;
                buffer.clear();
            }
            end += bytes;
            written += 1;
        }
        self.file.write_all(&buffer)?;
        self.file.sync_data()?;
        self.length = end;
        Ok(written)
    }
}

fn stat(top: &Arc<OwnedFd>, name: &SafeName, permissions: Permissions) -> Result<rustix::fs::Stat, Errno> {
    let entered = folder::enter(top, &name.folders, permissions)
        .map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
    rustix::fs::statat(&entered.folder, &name.name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Locks the file, for as long as it is open, against other processes.
fn lock_file(file: &File) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if tries < LOCK_TRIES => {
                tries += 1;
                std::thread::sleep(LOCK_TRY);
            }
            locked => return Ok(locked?),
        }
    }
}

/// Cuts off a half-written last line. Gives the length that is left.
fn cut_torn_tail(
    file: &mut File,
    folder: &OwnedFd,
    name: &SafeName,
    permissions: Permissions,
) -> io::Result<u64> {
    let torn = with_suffix(name.name.as_ref(), ".torn").to_string_lossy().into_owned();
    let cut = fsys::cut_torn_tail(file, || {
        let kept = folder::make_file(folder, &torn, OFlags::WRONLY | OFlags::APPEND, permissions)?;
        sync_folder(folder)?;
        Ok(kept)
    })?;
    if cut.torn > 0 {
        tracing::warn!(
            file = %name,
            offset = cut.whole,
            bytes = cut.torn,
            kept_in = name.if_shown(&torn),
            "the last line has no end: it was half-written when a process died, and is cut off"
        );
    }
    Ok(cut.whole)
}

/// A poisoned lock is taken all the same: a file that was being opened or written is looked at anew.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! A file that has been claimed, until it has been moved to where it belongs.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use gristmill_core::{Clock, Headers, Timestamp};
use tokio::time::Instant;

use super::{
    keep,
    ledger::Ledger,
    lines::LineReader,
    origin::origin,
    settings::{AfterDone, Settings},
};
use crate::fsys::{self, open_no_follow};

/// A claimed file.
#[derive(Debug)]
pub(crate) struct ClaimedFile {
    /// Its name, as it was in the folder.
    pub(crate) name: OsString,
    /// The name as text.
    pub(crate) name_text: String,
    /// The part of message ids before the offset.
    origin: String,
    /// Where it is now.
    pub(crate) path: PathBuf,
    pub(crate) progress_path: PathBuf,
    pub(crate) inode: u64,
    /// Its size when it was claimed.
    pub(crate) size: u64,
    /// Whether its lines are messages; it is one message otherwise.
    pub(crate) by_line: bool,
    /// What the headers of all its messages begin with.
    pub(crate) headers: Headers,
    state: Mutex<State>,
}

/// What changes while the file is worked on.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) ledger: Ledger,
    /// Messages that were offered and have not settled.
    pub(crate) outstanding: usize,
    /// Messages that have settled since the progress was last written.
    pub(crate) unnoted: usize,
    /// Lines to be kept among the rejected ones before they count as settled.
    pub(crate) rejections: Vec<Rejection>,
    /// Why the whole file is to be moved to the failed ones.
    pub(crate) failure: Option<Reason>,
    /// Whether it waits to be flushed.
    pub(crate) queued: bool,
    /// Whether it has gone to where it belongs. Its path is by its name: what is there from now on is another file.
    pub(crate) gone: bool,
}

/// A message of a file, by where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) slot: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The number of the line, from 1.
    pub(crate) line: u64,
}

/// A message that was rejected.
#[derive(Debug, Clone)]
pub(crate) struct Rejection {
    pub(crate) place: Place,
    pub(crate) reason: Reason,
}

/// Why something was rejected.
#[derive(Debug, Clone)]
pub(crate) struct Reason {
    /// The class of the failure, or one word of the source's own.
    pub(crate) class: &'static str,
    pub(crate) text: String,
}

/// A message that was released, to be offered again.
#[derive(Debug)]
pub(crate) struct Retry {
    pub(crate) due: Instant,
    pub(crate) file: Arc<ClaimedFile>,
    pub(crate) place: Place,
}

impl ClaimedFile {
    /// A file that was claimed, with what is known of it.
    pub(crate) fn new(facts: Facts, ledger: Ledger) -> Self {
        Self {
            name_text: fsys::name_text(&facts.name),
            name: facts.name,
            origin: facts.origin,
            path: facts.path,
            progress_path: facts.progress_path,
            inode: facts.inode,
            size: facts.size,
            by_line: facts.by_line,
            headers: facts.headers,
            state: Mutex::new(State {
                ledger,
                outstanding: 0,
                unnoted: 0,
                rejections: Vec::new(),
                failure: None,
                queued: false,
                gone: false,
            }),
        }
    }

    /// A poisoned lock is taken all the same: at worst a message settles twice, which changes nothing.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of the message at this offset.
    pub(crate) fn message_id(&self, offset: u64) -> String {
        let mut id = String::new();
        self.push_message_id(&mut id, offset);
        id
    }

    /// Puts it behind a text.
    pub(crate) fn push_message_id(&self, text: &mut String, offset: u64) {
        text.push_str(&self.origin);
        text.push(':');
        push_number(text, offset);
    }

    /// Reads a message once more, as it was read the first time.
    pub(crate) fn reread(&self, place: Place) -> io::Result<Bytes> {
        let file = open_no_follow(&self.path)?;
        let length = usize::try_from(place.end - place.start).map_err(io::Error::other)?;
        if self.by_line {
            let mut reader = LineReader::new(length, place.start, place.line);
            return Ok(reader.next(&file)?.and_then(|line| line.body).unwrap_or_default());
        }
        let mut body = vec![0; length];
        file.read_exact_at(&mut body, place.start)?;
        Ok(body.into())
    }

    /// Moves the file to where it belongs, now that all of it has settled.
    pub(crate) fn finish(&self, settings: &Settings) -> io::Result<()> {
        let (failure, end) = {
            let state = self.state();
            (state.failure.clone(), state.ledger.position().0)
        };
        let metadata = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(
                    file = self.name_text,
                    "a claimed file was taken away by someone else; it cannot be moved to where it belongs"
                );
                return self.forget();
            }
            Ok(metadata) if metadata.ino() != self.inode => {
                tracing::warn!(
                    file = self.name_text,
                    "a claimed file was replaced by someone else; what is in its place now is left there"
                );
                return self.forget();
            }
            metadata => metadata?,
        };
        let failure = failure.or_else(|| {
            // Someone was still writing. Nothing that was not read may be put among the done files, or deleted.
            (metadata.len() != end).then(|| Reason {
                class: "changed",
                text: format!(
                    "the file was {end} bytes when it was read and is {} bytes now: what was added was not read. Raise \
                     `settle_ms`, or move files in when they are complete",
                    metadata.len()
                ),
            })
        });
        match (&failure, &settings.done) {
            (Some(reason), _) => {
                tracing::warn!(
                    file = self.name_text,
                    class = reason.class,
                    reason = reason.text,
                    "moved to the failed files"
                );
                keep::failed_file(self, settings, reason)?;
            }
            (None, AfterDone::Move(folder)) => {
                keep::move_into(&self.path, folder, &self.name)?;
            }
            (None, AfterDone::Delete) => fs::remove_file(&self.path)?,
        }
        self.forget()
    }

    fn forget(&self) -> io::Result<()> {
        match fs::remove_file(&self.progress_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Puts the file back to where it was claimed from, as if it had not been.
    pub(crate) fn put_back(&self, settings: &Settings) {
        if let Err(error) = fsys::rename_new(&self.path, &settings.directory.path().join(&self.name)) {
            // It stays claimed; the next start takes it from there.
            tracing::debug!(file = self.name_text, %error, "a claimed file could not be put back");
        }
    }
}

/// What is known of a file when it is claimed.
pub(crate) struct Facts {
    pub(crate) name: OsString,
    pub(crate) origin: String,
    pub(crate) path: PathBuf,
    pub(crate) progress_path: PathBuf,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) by_line: bool,
    pub(crate) headers: Headers,
}

impl Facts {
    /// Of an open file.
    pub(crate) fn of(
        name: OsString,
        path: PathBuf,
        progress_path: impl FnOnce(u64) -> PathBuf,
        file: &File,
        by_line: bool,
        settings: &Settings,
    ) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let headers = headers(&name, &metadata, by_line, settings);
        let progress_path = progress_path(metadata.ino());
        let origin = origin(&settings.directory, &fsys::name_text(&name), Some(&metadata));
        let (inode, size) = (metadata.ino(), metadata.len());
        Ok(Self { name, origin, path, progress_path, inode, size, by_line, headers })
    }
}

/// Puts a number behind a text.
pub(crate) fn push_number(text: &mut String, number: u64) {
    // Writing to a string cannot fail.
    let _ = write!(text, "{number}");
}

fn headers(name: &OsString, metadata: &fs::Metadata, by_line: bool, settings: &Settings) -> Headers {
    let name = fsys::name_text(name);
    let mut headers = Headers::new();
    let mut set = |header: &str, value: &str| {
        // The values are free of control characters, but for a folder's name, of which that cannot be said.
        if let Err(error) = headers.append(header, value) {
            tracing::debug!(%error, "left out");
        }
    };
    if let Some(content_type) =
        settings.content_type.as_deref().or_else(|| crate::content_type::of_name(&name, by_line))
    {
        set(gristmill_core::message::CONTENT_TYPE, content_type);
    }
    set("file-path", &settings.directory.written_path_of(&name));
    set("file-name", &name);
    if let Ok(modified) = metadata.modified() {
        set("file-modified", &Timestamp::from(modified).to_rfc3339());
    }
    if !by_line {
        set("file-size", &metadata.len().to_string());
    }
    headers
}

impl Settings {
    /// The time now, as text.
    pub(crate) fn now_text(&self) -> String {
        Clock::now(&*self.clock).to_rfc3339()
    }
}

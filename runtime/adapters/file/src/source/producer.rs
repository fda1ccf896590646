//! The blocking half of the source: lists, claims and reads, a batch at a time, off the async threads.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use gristmill_core::source::SourceError;
use rustix::io::Errno;
use tokio::time::Instant;

use super::{
    claimed::{ClaimedFile, Facts, Place, Reason, Rejection, Retry},
    keep,
    ledger::Ledger,
    lines::LineReader,
    listing::{Candidate, Listing},
    origin::origin,
    progress::Progress,
    settings::{Reading, Settings},
    shared::Shared,
    work::Owner,
};
use crate::{
    config::EmptyLines,
    fsys::{name_text, open_no_follow, rename_new},
};

/// A batch ends when it holds this many bytes, …
const BATCH_BYTES: usize = 256 * 1024;
/// … or this many messages, …
const BATCH_MESSAGES: usize = 1_024;
/// … or this many files.
const BATCH_FILES: usize = 64;

/// A message that is ready to be offered.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) file: Arc<ClaimedFile>,
    pub(crate) place: Place,
    pub(crate) body: Bytes,
    pub(crate) redelivered: bool,
}

/// What a batch came to.
#[derive(Debug)]
pub(crate) struct Produced {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) wait: Wait,
}

/// When to ask for the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// At once.
    No,
    /// When something has settled: too much of a file is unsettled to read on.
    Settlement,
    /// At this moment, or when the folder changes.
    Until(Instant),
}

/// Lists, claims and reads.
#[derive(Debug, Default)]
pub(crate) struct Producer {
    listing: Listing,
    open: Option<OpenLines>,
    adopted: VecDeque<(OsString, Option<Progress>)>,
    /// When dead owners are looked for again.
    recover_at: Option<Instant>,
}

/// A file that is being read line by line.
#[derive(Debug)]
struct OpenLines {
    file: Arc<ClaimedFile>,
    input: File,
    reader: LineReader,
    empty_lines: EmptyLines,
}

/// A batch in the making.
#[derive(Debug, Default)]
struct Batch {
    pieces: Vec<Piece>,
    bytes: usize,
    rejected: usize,
    files: usize,
}

impl Producer {
    /// The next batch: what is to be offered again, if there is any; else from the file that is open, then the next ones.
    pub(crate) fn produce(
        &mut self,
        shared: &Shared,
        due: Vec<Retry>,
        now: Instant,
    ) -> Result<Produced, SourceError> {
        let settings = shared.settings();
        let mut batch = Batch::default();
        if !due.is_empty() {
            due.into_iter().for_each(|retry| reread(shared, retry, &mut batch));
            return Ok(Produced { pieces: batch.pieces, wait: Wait::No });
        }
        let owner = shared.renew_owner().map_err(|error| settings.cannot_read(&error))?;
        let Some(owner) = owner else {
            return Ok(Produced { pieces: Vec::new(), wait: Wait::Until(now + settings.poll) });
        };
        let mut earliest = None;
        let mut looked = false;
        while !batch.is_full() {
            if let Some(mut open) = self.open.take() {
                match open.read(shared, &mut batch) {
                    Ok(ReadOn::Later) => self.open = Some(open),
                    Ok(ReadOn::Full) => {
                        self.open = Some(open);
                        return Ok(Produced { pieces: batch.pieces, wait: Wait::Settlement });
                    }
                    Ok(ReadOn::End) => shared.hurry(&open.file),
                    Err(error) => {
                        // Unreadable in the middle: a bad disk. What was read goes on; the rest must not be lost.
                        let mut state = open.file.state();
                        state.failure = Some(Reason {
                            class: "unreadable",
                            text: format!("reading failed after line {}: {error}", open.reader_line()),
                        });
                        state.ledger.read_to_end();
                        drop(state);
                        shared.hurry(&open.file);
                    }
                }
            } else if let Some((name, progress)) = self.adopted.pop_front() {
                self.begin(shared, &settings, &owner, name, progress, None, &mut batch);
            } else if let Some(candidate) = self.listing.pop() {
                self.claim(shared, &settings, &owner, candidate, &mut batch);
            } else if looked {
                break;
            } else {
                looked = true;
                earliest = self.look(&settings, &owner, now)?;
            }
        }
        let wait = if batch.is_full() || !batch.pieces.is_empty() || batch.files > 0 {
            Wait::No
        } else {
            let poll = now + settings.poll;
            Wait::Until(earliest.map_or(poll, |at: Instant| at.min(poll)))
        };
        Ok(Produced { pieces: batch.pieces, wait })
    }

    /// One that has already looked.
    #[cfg(test)]
    pub(crate) fn with_listing(listing: Listing) -> Self {
        Self { listing, ..Self::default() }
    }

    /// The files that were claimed and not read to the end.
    pub(crate) fn close(&mut self) -> Option<Arc<ClaimedFile>> {
        self.open.take().map(|open| open.file)
    }

    /// Looks for what dead owners left, and into the folder.
    fn look(
        &mut self,
        settings: &Settings,
        owner: &Owner,
        now: Instant,
    ) -> Result<Option<Instant>, SourceError> {
        let cannot = |error: io::Error| settings.cannot_read(&error);
        if self.recover_at.is_none_or(|at| at <= now) {
            self.recover_at = Some(now + settings.poll);
            let recovery =
                owner.recover(settings.directory.path(), |name| settings.wants(name)).map_err(cannot)?;
            for orphan in recovery.orphans {
                if self.listing.warn_once(&orphan.as_os_str().to_owned()) {
                    tracing::warn!(
                        file = name_text(orphan.file_name().unwrap_or_default()),
                        directory = settings.directory.written(),
                        "a half-read file was left here by a flow that took it, and matches no flow's pattern now. \
                         Move it back into the folder to have it read from its start, or remove it"
                    );
                }
            }
            for adopted in recovery.adopted {
                tracing::info!(
                    file = name_text(&adopted.name),
                    offset = adopted.progress.as_ref().map_or(0, |progress| progress.offset),
                    "taken over from a process that ended: goes on where acknowledged work ended"
                );
                self.adopted.push_back((adopted.name, adopted.progress));
            }
        }
        self.listing.scan(settings, now).map_err(cannot)
    }

    /// Claims a file by rename, and begins it.
    fn claim(
        &mut self,
        shared: &Shared,
        settings: &Settings,
        owner: &Owner,
        candidate: Candidate,
        batch: &mut Batch,
    ) {
        let from = settings.directory.path().join(&candidate.name);
        let to = owner.file(&candidate.name);
        match rename_new(&from, &to) {
            Ok(()) => {
                let name = candidate.name.clone();
                self.begin(shared, settings, owner, name, None, Some(candidate), batch);
            }
            // Another process was quicker, or it was taken away; or a file of this name is still in work.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {}
            Err(error) => {
                if self.listing.warn_once(&candidate.name) {
                    tracing::warn!(
                        file = name_text(&candidate.name), directory = settings.directory.written(), %error,
                        "left where it is: it cannot be claimed. The process needs write permission to the folder"
                    );
                }
            }
        }
    }

    /// Begins with a file that has been claimed.
    #[allow(
        clippy::too_many_arguments,
        reason = "one call each from claiming and adopting; a struct would only rename it"
    )]
    fn begin(
        &mut self,
        shared: &Shared,
        settings: &Settings,
        owner: &Owner,
        name: OsString,
        progress: Option<Progress>,
        seen: Option<Candidate>,
        batch: &mut Batch,
    ) {
        let path = owner.file(&name);
        // A file that was begun by line goes on by line, whatever the settings say now.
        let by_line = progress.is_some() || matches!(settings.read, Reading::Lines { .. });
        let opened = open_no_follow(&path).and_then(|input| {
            let facts = Facts::of(
                name.clone(),
                path.clone(),
                |inode| owner.progress(inode),
                &input,
                by_line,
                settings,
            )?;
            Ok((input, facts))
        });
        let (mut input, facts) = match opened {
            Ok((input, facts)) if input.metadata().is_ok_and(|m| m.is_file()) => (input, facts),
            Ok(_) => return self.unclaim(settings, &path, &name, "it is not a regular file"),
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                return self.unclaim(settings, &path, &name, "it is a symbolic link");
            }
            Err(error) => return unreadable(settings, owner, &path, name, &error, batch),
        };
        if let Some(seen) = seen.filter(|_| !settings.settle.is_zero()) {
            let unchanged = input
                .metadata()
                .and_then(|m| Ok((m.len(), m.modified()?)))
                .is_ok_and(|now| now == (seen.size, seen.modified));
            if !unchanged {
                self.listing.unsettle(&name);
                let _ = rename_new(&path, &settings.directory.path().join(&name));
                return;
            }
        }
        batch.files += 1;
        if progress.is_none() {
            // Of another file that had this inode number.
            let _ = fs::remove_file(&facts.progress_path);
        }
        let finished = progress.as_ref().is_some_and(|progress| progress.finished);
        let mut ledger = Ledger::new(progress);
        if finished {
            ledger.read_to_end();
        }
        let file = Arc::new(ClaimedFile::new(facts, ledger));
        if finished {
            return shared.hurry(&file);
        }
        if by_line {
            let (max_line_bytes, empty_lines) = match settings.read {
                Reading::Lines { max_line_bytes, empty_lines } => (max_line_bytes, empty_lines),
                Reading::Whole { max_bytes } => {
                    (usize::try_from(max_bytes).unwrap_or(usize::MAX - 2), EmptyLines::Skip)
                }
            };
            let (offset, line) = file.state().ledger.position();
            let reader = LineReader::new(max_line_bytes, offset, line);
            self.open = Some(OpenLines { file, input, reader, empty_lines });
        } else {
            whole(shared, settings, file, &mut input, batch);
        }
    }

    /// Puts back what turned out to be no file, and says so once.
    fn unclaim(&mut self, settings: &Settings, path: &Path, name: &OsString, why: &str) {
        let _ = rename_new(path, &settings.directory.path().join(name));
        if self.listing.warn_once(name) {
            tracing::warn!(
                file = name_text(name),
                directory = settings.directory.written(),
                "left where it is: {why}"
            );
        }
    }
}

/// A whole file as one message.
fn whole(shared: &Shared, settings: &Settings, file: Arc<ClaimedFile>, input: &mut File, batch: &mut Batch) {
    let max_bytes = match settings.read {
        Reading::Whole { max_bytes } => max_bytes,
        Reading::Lines { .. } => u64::MAX,
    };
    let mut body = Vec::new();
    // One byte more than allowed tells that there is more.
    let read = if file.size > max_bytes {
        Ok(0)
    } else {
        body.reserve_exact(usize::try_from(file.size).unwrap_or(0) + 1);
        input.take(max_bytes.saturating_add(1)).read_to_end(&mut body)
    };
    let refused = match read {
        Err(error) => Some(Reason { class: "unreadable", text: format!("it cannot be read: {error}") }),
        Ok(_) if file.size > max_bytes || body.len() as u64 > max_bytes => {
            settings.observer.refused("file_too_large");
            Some(Reason {
                class: "limit",
                text: format!(
                    "the file has {} bytes; the flow's `limits.body_bytes` is {max_bytes}. Raise it, or read the file by \
                     `lines`",
                    file.size.max(body.len() as u64)
                ),
            })
        }
        Ok(_) => None,
    };
    let mut state = file.state();
    state.ledger.read_to_end();
    if refused.is_some() {
        state.failure = refused;
        drop(state);
        return shared.hurry(&file);
    }
    let end = body.len() as u64;
    let Some(slot) = state.ledger.offer(0, end, 1) else { return };
    drop(state);
    let place = Place { slot, start: 0, end, line: 1 };
    batch.push(Piece { file, place, body: body.into(), redelivered: false });
}

/// Reads a released message once more.
fn reread(shared: &Shared, retry: Retry, batch: &mut Batch) {
    let Retry { file, place, .. } = retry;
    match file.reread(place) {
        Ok(body) => batch.push(Piece { file, place, body, redelivered: true }),
        Err(error) => {
            tracing::warn!(
                message_id = file.message_id(place.start), %error,
                "a released message cannot be read again; it is tried again later"
            );
            shared.retry_later(file, place);
        }
    }
}

/// A claimed file that cannot be opened goes among the failed ones, so that it does not come again and again.
fn unreadable(
    settings: &Settings,
    owner: &Owner,
    path: &Path,
    name: OsString,
    error: &io::Error,
    batch: &mut Batch,
) {
    let reason = Reason {
        class: "unreadable",
        text: format!("it cannot be opened: {error}. Give the process read permission, and move it back"),
    };
    tracing::warn!(file = name_text(&name), reason = reason.text, "moved to the failed files");
    let metadata = fs::symlink_metadata(path).ok();
    let file = ClaimedFile::new(
        Facts {
            origin: origin(&settings.directory, &name_text(&name), metadata.as_ref()),
            name,
            path: path.to_owned(),
            progress_path: owner.progress(0),
            inode: 0,
            size: 0,
            by_line: false,
            headers: gristmill_core::Headers::new(),
        },
        Ledger::new(None),
    );
    match keep::failed_file(&file, settings, &reason) {
        Ok(()) => batch.files += 1,
        Err(error) => {
            tracing::warn!(file = file.name_text, %error, "an unreadable file cannot be moved to the failed files");
            file.put_back(settings);
        }
    }
}

/// How far a reading of lines came.
enum ReadOn {
    /// The batch is full.
    Later,
    /// Too much of the file is unsettled.
    Full,
    /// The file is at its end.
    End,
}

impl OpenLines {
    fn read(&mut self, shared: &Shared, batch: &mut Batch) -> io::Result<ReadOn> {
        while !batch.is_full() {
            if self.file.state().ledger.is_full() {
                return Ok(ReadOn::Full);
            }
            let Some(line) = self.reader.next(&self.input)? else {
                self.file.state().ledger.read_to_end();
                return Ok(ReadOn::End);
            };
            let mut state = self.file.state();
            let empty = line.body.as_ref().is_some_and(Bytes::is_empty);
            if empty && self.empty_lines == EmptyLines::Skip {
                state.ledger.skip(line.end, line.number + 1);
                continue;
            }
            let Some(slot) = state.ledger.offer(line.start, line.end, line.number + 1) else { continue };
            drop(state);
            let place = Place { slot, start: line.start, end: line.end, line: line.number };
            match line.body {
                Some(body) => {
                    batch.push(Piece { file: Arc::clone(&self.file), place, body, redelivered: false });
                }
                None => {
                    batch.rejected += 1;
                    shared.settings().observer.refused("line_too_long");
                    let text = format!(
                        "line {} has {} bytes with its line break, more than `max_line_bytes` or the flow's `limits.body_bytes` allows",
                        line.number,
                        line.end - line.start
                    );
                    let reason = Reason { class: "limit", text };
                    shared.reject_unoffered(&self.file, Rejection { place, reason });
                }
            }
        }
        Ok(ReadOn::Later)
    }

    fn reader_line(&self) -> u64 {
        self.reader.number().saturating_sub(1)
    }
}

impl Batch {
    fn push(&mut self, piece: Piece) {
        self.bytes += piece.body.len();
        self.pieces.push(piece);
    }

    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES
            || self.pieces.len() + self.rejected >= BATCH_MESSAGES
            || self.files >= BATCH_FILES
    }
}

//! A file that is followed: its handle, how far it was read, and whether it is still what it was.

use std::{
    ffi::OsString,
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use gristmill_core::Headers;
use tokio::time::Instant;

use super::{
    checkpoint::Print,
    incarnation::{Content, Incarnation, Piece, Rejection, born},
    settings::Settings,
    shared::Shared,
};
use crate::{
    config::EmptyLines,
    fsys::{name_text, open_no_follow},
    source::{
        claimed::Reason,
        lines::{KEPT_BEFORE, Line, LineReader},
    },
};

/// How much of a file's beginning tells it from others, in bytes.
const HEAD_BYTES: usize = 1_024;

/// A batch ends when it holds this many bytes, …
const BATCH_BYTES: usize = 256 * 1024;
/// … or this many lines.
const BATCH_LINES: usize = 1_024;

/// Lines that were read and not offered yet.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) pieces: Vec<Piece>,
    /// The number of the next line, of all files.
    pub(crate) next_number: u64,
    lines: usize,
    bytes: usize,
}

/// A file that is followed.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) life: Arc<Incarnation>,
    /// The name that it has in the folder, as of the last look.
    pub(crate) name: Option<OsString>,
    /// Whether that is one that is wanted: a file that was renamed is read on, but nothing is expected of it for long.
    pub(crate) is_wanted: bool,
    /// The inode number of the file that had its name before, which is read first.
    pub(crate) predecessor: Option<u64>,
    /// The name that it had as of the look before.
    pub(crate) was_named: Option<OsString>,
    /// Whether it was renamed to a name that is not wanted: it is read until nothing is added to it any more.
    pub(crate) is_leaving: bool,
    /// Whether it is no more: deleted and read to its end.
    pub(crate) is_gone: bool,
    /// Whether it is closed and has to be looked into.
    pub(crate) wants_open: bool,
    open: Option<Open>,
    /// How it was when it was closed: nothing has changed as long as it is so.
    closed_as: Option<Stat>,
    /// Where reading goes on when it is opened again.
    resume: (u64, u64, Print),
}

/// An open file.
#[derive(Debug)]
struct Open {
    input: Arc<File>,
    reader: LineReader,
    /// As of the last read; none when it is to be read all the same.
    stat: Option<Stat>,
    /// When something was last added, or it was opened.
    changed_at: Instant,
    is_at_end: bool,
}

type Stat = (u64, SystemTime);

/// What became of reading.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReadOn {
    /// The batch is full.
    Later,
    /// Too much of the file is unsettled.
    Full,
    /// There is no more for now.
    End,
    /// It was truncated, or written anew.
    Truncated,
}

/// What stands where a file is to be opened again.
#[derive(Debug)]
pub(crate) enum Reopened {
    /// It does, and is open.
    Same,
    /// One with its inode number: it was truncated or written anew, or deleted, and this came after it.
    Another(Metadata),
    /// One that the next look finds.
    Elsewhere,
}

/// What the lines of a file have in common.
struct LineSource {
    input: Arc<File>,
    headers: Headers,
}

/// What was read at once.
#[derive(Debug)]
struct Look {
    /// What the file begins with.
    head: Vec<u8>,
    /// Each with what stands before its end.
    lines: Vec<(Line, Print)>,
    end: ReadOn,
}

fn stat(metadata: &Metadata) -> Stat {
    (metadata.len(), metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH))
}

impl Followed {
    /// A file that is not open yet, to be read from where its life stands.
    pub(crate) fn new(life: Arc<Incarnation>) -> Self {
        let resume = life.state().position();
        Self {
            life,
            name: None,
            is_wanted: false,
            predecessor: None,
            was_named: None,
            is_leaving: false,
            is_gone: false,
            wants_open: false,
            open: None,
            closed_as: None,
            resume,
        }
    }

    /// A file that has just been met under this name.
    pub(crate) fn met(life: Arc<Incarnation>, name: OsString) -> Self {
        Self { wants_open: true, name: Some(name), is_wanted: true, ..Self::new(life) }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether it has to be read on before the file that has its name now.
    pub(crate) fn is_behind(&self) -> bool {
        self.open.as_ref().map_or(self.wants_open, |open| !open.is_at_end)
    }

    /// There may be more to read than there was the last time.
    pub(crate) fn read_anew(&mut self) {
        if let Some(open) = self.open.as_mut() {
            open.is_at_end = false;
        }
    }

    /// Since when nothing has been added to it, if it is open and read to its end.
    pub(crate) fn resting_since(&self) -> Option<Instant> {
        self.open.as_ref().filter(|open| open.is_at_end).map(|open| open.changed_at)
    }

    /// Whether everything that was read of it has settled.
    pub(crate) fn is_settled(&self) -> bool {
        let state = self.life.state();
        let read_to = self.open.as_ref().map_or(self.resume.0, |open| open.reader.offset());
        state.ledger.position().0 >= read_to && state.rejections.is_empty()
    }

    /// Whether a file that is closed has to be looked into, now that it is so in the folder.
    pub(crate) fn has_changed(&self, now: &Metadata) -> bool {
        match self.closed_as {
            Some(closed_as) => closed_as != stat(now),
            None => true,
        }
    }

    /// Opens it again, where it is by now.
    pub(crate) fn reopen(&mut self, path: &Path, settings: &Settings, now: Instant) -> io::Result<Reopened> {
        self.wants_open = false;
        let input = open_no_follow(path)?;
        let metadata = input.metadata()?;
        let (offset, line, anchor) = self.resume;
        let device = self.life.state().device;
        if !metadata.is_file() || (metadata.dev(), metadata.ino()) != (device, self.life.inode) {
            return Ok(Reopened::Elsewhere);
        }
        let is_same = born(&metadata).zip(self.life.born).is_none_or(|(now, then)| now == then)
            && metadata.len() >= offset
            && self.life.state().head.begins(&read_at_most(&input, 0, HEAD_BYTES)?);
        let before = before(&input, offset)?;
        if !is_same || !anchor.ends(&before) {
            return Ok(Reopened::Another(metadata));
        }
        self.open = Some(Open {
            input: Arc::new(input),
            reader: LineReader::after(settings.max_line_bytes, offset, line, before),
            stat: None,
            changed_at: now,
            is_at_end: false,
        });
        Ok(Reopened::Same)
    }

    /// Begins another life of a file that is open, at its beginning.
    pub(crate) fn restart(&mut self, settings: &Settings, now: Instant) -> io::Result<()> {
        let Some(open) = self.open.as_mut() else { return Ok(()) };
        let metadata = open.input.metadata()?;
        let life = Incarnation::begin(self.life.name.clone(), &metadata, 0, &[], settings);
        self.life = Arc::new(life);
        *open = Open {
            input: Arc::clone(&open.input),
            reader: LineReader::new(settings.max_line_bytes, 0, 1),
            stat: None,
            changed_at: now,
            is_at_end: false,
        };
        Ok(())
    }

    /// Closes it until something changes.
    pub(crate) fn close(&mut self) {
        if let Some(open) = self.open.take() {
            let (offset, line) = (open.reader.offset(), open.reader.number());
            self.resume = (offset, line, Print::of(open.reader.before()));
            self.closed_as = open.stat.filter(|_| open.is_at_end);
        }
    }

    /// Whether it was renamed since it was met, deleted, or moved elsewhere: its writer writes, or will write, to another.
    pub(crate) fn is_rotated(&self) -> bool {
        !self.is_wanted || self.name.as_deref().is_some_and(|name| name_text(name) != self.life.name)
    }

    /// Whether the system has no name for it any more.
    pub(crate) fn is_deleted(&self) -> bool {
        let metadata = self.open.as_ref().and_then(|open| open.input.metadata().ok());
        metadata.is_some_and(|metadata| metadata.nlink() == 0)
    }

    /// Reads on, if there is anything new. After an error it is as if nothing had been read.
    pub(crate) fn read(&mut self, shared: &Shared, batch: &mut Batch, now: Instant) -> io::Result<ReadOn> {
        let settings = shared.settings();
        let Some(open) = self.open.as_mut() else { return Ok(ReadOn::End) };
        open.reader.set_max_line_bytes(settings.max_line_bytes);
        let metadata = open.input.metadata()?;
        if metadata.len() < open.reader.read_to() {
            return Ok(ReadOn::Truncated);
        }
        if open.is_at_end && open.stat == Some(stat(&metadata)) {
            return Ok(ReadOn::End);
        }
        let (room, head) = {
            let state = self.life.state();
            (state.ledger.room(), state.head)
        };
        let (offset, number, before) =
            (open.reader.offset(), open.reader.number(), open.reader.before().to_vec());
        let look = match open.look(room, head, batch) {
            Ok(Some(look)) => look,
            Ok(None) => return Ok(ReadOn::Truncated),
            Err(error) => {
                open.reader = LineReader::after(settings.max_line_bytes, offset, number, before);
                return Err(error);
            }
        };
        if open.stat.is_none_or(|then| then != stat(&metadata)) {
            open.changed_at = now;
        }
        open.stat = Some(stat(&metadata));
        open.is_at_end = look.end == ReadOn::End;
        if open.is_at_end {
            open.reader.rest();
        }
        let source = LineSource::new(open, &self.life, &settings);
        if head.length as usize != HEAD_BYTES {
            self.life.state().head = Print::of(&look.head);
        }
        if head.length == 0 && !look.head.is_empty() {
            shared.mark_unsaved();
        }
        for (line, before) in look.lines {
            self.take(line, before, &source, shared, &settings, batch);
        }
        Ok(look.end)
    }

    /// What stands after the last line break of a file that was given up: it is a line after all.
    pub(crate) fn read_tail(&mut self, shared: &Shared, batch: &mut Batch) -> io::Result<()> {
        let settings = shared.settings();
        let Some(open) = self.open.as_mut() else { return Ok(()) };
        let source = LineSource::new(open, &self.life, &settings);
        let mut lines = Vec::new();
        let mut ended = Ok(());
        loop {
            match open.reader.next(&source.input) {
                Ok(Some(line)) => lines.push((line, Print::of(open.reader.before()))),
                Ok(None) => break,
                Err(error) => {
                    ended = Err(error);
                    break;
                }
            }
        }
        for (line, before) in lines {
            self.take(line, before, &source, shared, &settings, batch);
        }
        ended
    }

    fn take(
        &self,
        line: Line,
        before: Print,
        source: &LineSource,
        shared: &Shared,
        settings: &Settings,
        batch: &mut Batch,
    ) {
        batch.lines += 1;
        let mut state = self.life.state();
        let empty = line.body.as_ref().is_some_and(Bytes::is_empty);
        if empty && settings.follow.empty_lines == EmptyLines::Skip {
            state.ledger.skip(line.end, line.number + 1);
            state.note_end(line.end, before);
            return;
        }
        let slot = state.ledger.offer(line.start, line.end, line.number + 1);
        state.note_end(line.end, before);
        drop(state);
        let Some(slot) = slot else { return };
        let number = self.life.counts_lines().then_some(line.number);
        let Some(body) = line.body else {
            settings.observer.refused("line_too_long");
            let text = format!(
                "the line has {} bytes with its line break, more than `max_line_bytes` or the flow's `limits.body_bytes` allows",
                line.end - line.start
            );
            let reason = Reason { class: "limit", text };
            let content = Content::In(Arc::clone(&source.input), line.end);
            let rejection = Rejection { slot, start: line.start, line: number, content, reason };
            return shared.reject_unoffered(&self.life, rejection);
        };
        batch.bytes += body.len();
        batch.pieces.push(Piece {
            file: Arc::clone(&self.life),
            slot,
            start: line.start,
            line: number,
            number: batch.next_number,
            body,
            headers: source.headers.clone(),
        });
        batch.next_number += 1;
    }
}

impl LineSource {
    fn new(open: &Open, life: &Incarnation, settings: &Settings) -> Self {
        Self { input: Arc::clone(&open.input), headers: life.headers(settings) }
    }
}

impl Open {
    /// Reads lines, at most `room` of them and until the batch would be full. `None` when the file was truncated or written
    /// anew since the last time.
    fn look(&mut self, room: usize, head: Print, batch: &Batch) -> io::Result<Option<Look>> {
        let (offset, anchor) = (self.reader.offset(), Print::of(self.reader.before()));
        let mut look =
            Look { head: read_at_most(&self.input, 0, HEAD_BYTES)?, lines: Vec::new(), end: ReadOn::Later };
        let mut bytes = batch.bytes;
        while look.lines.len() + batch.lines < BATCH_LINES && bytes < BATCH_BYTES {
            if look.lines.len() >= room {
                look.end = ReadOn::Full;
                break;
            }
            let Some(line) = self.reader.next_ended(&self.input)? else {
                look.end = ReadOn::End;
                break;
            };
            bytes += line.body.as_ref().map_or(0, Bytes::len);
            look.lines.push((line, Print::of(self.reader.before())));
        }
        // After the lines, for what stands before them still stood there when they were read.
        let is_same = head.begins(&look.head)
            && anchor.ends(&before(&self.input, offset)?)
            && self.input.metadata()?.len() >= self.reader.read_to();
        Ok(is_same.then_some(look))
    }
}

impl Batch {
    /// One that these are in.
    pub(crate) fn new(next_number: u64, pieces: Vec<Piece>) -> Self {
        Self { lines: pieces.len(), pieces, next_number, bytes: 0 }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.lines >= BATCH_LINES
    }

    /// Whether nothing was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines == 0
    }
}

/// What stands before an offset, as much as counts.
pub(crate) fn before(input: &File, offset: u64) -> io::Result<Vec<u8>> {
    let from = offset.saturating_sub(KEPT_BEFORE as u64);
    read_at_most(input, from, usize::try_from(offset - from).unwrap_or(KEPT_BEFORE))
}

fn read_at_most(input: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let mut read = 0;
    while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match input.read_at(rest, offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(read);
    Ok(buffer)
}

//! Where files and lines go that are done or rejected. A name that is taken gets a number; nothing is ever replaced.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
};

use serde::Serialize;

use super::{
    claimed::{ClaimedFile, Reason, Rejection},
    settings::Settings,
};
use crate::{
    configured::ConfiguredPath,
    fsys::{
        MAX_NUMBER, Permissions, append_no_follow, cut_torn_tail, lock_exclusive, make_folders, name_text,
        numbered, open_no_follow, rename_new, sync_folder_at, with_suffix,
    },
};

/// What stands in a `.error` file: one such JSON object a line.
#[derive(Debug, Serialize)]
struct ErrorNote<'a> {
    /// The id of the message.
    message: String,
    /// The name that the file had.
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    offset: u64,
    /// When it was rejected.
    at: String,
    class: &'a str,
    error: &'a str,
}

/// Moves a file into a folder, under its name or the first number that is free.
pub(crate) fn move_into(from: &Path, folder: &ConfiguredPath, name: &OsStr) -> io::Result<OsString> {
    let mut made = false;
    let mut number = 0;
    loop {
        let target = numbered(name, number);
        match rename_new(from, &folder.path().join(&target)) {
            Ok(()) => return Ok(target),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < MAX_NUMBER => number += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !made => {
                make_folder(folder)?;
                made = true;
            }
            Err(error) => return Err(at(folder, error)),
        }
    }
}

/// Moves a file among the failed ones, with the reason beside it in a file of the same name and `.error`.
pub(crate) fn failed_file(file: &ClaimedFile, settings: &Settings, reason: &Reason) -> io::Result<()> {
    let folder = &settings.failed;
    make_folder(folder)?;
    let note = ErrorNote {
        message: file.message_id(0),
        file: &file.name_text,
        line: None,
        offset: 0,
        at: settings.now_text(),
        class: reason.class,
        error: &reason.text,
    };
    let moved = move_with_note(&file.path, folder.path(), &file.name, &line_of(&note)?, rename_new);
    moved.map_err(|error| at(folder, error))
}

/// Moves a file under the first number for which neither its own name nor that of its note is taken. Neither replaces
/// anything, nor follows a link.
fn move_with_note(
    from: &Path,
    folder: &Path,
    name: &OsStr,
    note: &[u8],
    rename: impl Fn(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    for number in 0..=MAX_NUMBER {
        let target = numbered(name, number);
        let note_path = folder.join(with_suffix(&target, ".error"));
        let target = folder.join(target);
        if fs::symlink_metadata(&target).is_ok() {
            continue;
        }
        let mut file = match OpenOptions::new().write(true).create_new(true).open(&note_path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            file => file?,
        };
        // The reason first: a file that failed is never there without it.
        match file.write_all(note).and_then(|()| rename(from, &target)) {
            Ok(()) => return Ok(()),
            Err(error) => {
                fs::remove_file(&note_path)?;
                // Someone put a file of that name there this moment.
                if error.kind() != io::ErrorKind::AlreadyExists {
                    return Err(error);
                }
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// A line to be kept among the rejected ones.
pub(crate) struct RejectedLine<'a> {
    /// The id of the message.
    pub(crate) message: String,
    pub(crate) offset: u64,
    /// The number of the line, where it is known.
    pub(crate) line: Option<u64>,
    pub(crate) content: Content<'a>,
    pub(crate) reason: &'a Reason,
}

/// What a line holds.
pub(crate) enum Content<'a> {
    Bytes(&'a [u8]),
    /// It stands in a file between these offsets, and may be of any length.
    In(&'a File, u64, u64),
}

/// Adds rejected lines of a claimed file to what is kept of them.
pub(crate) fn rejected_of(
    file: &ClaimedFile,
    settings: &Settings,
    rejections: &[Rejection],
) -> io::Result<()> {
    let source = open_no_follow(&file.path)?;
    let lines = rejections.iter().map(|Rejection { place, reason }| RejectedLine {
        message: file.message_id(place.start),
        offset: place.start,
        line: Some(place.line),
        content: Content::In(&source, place.start, place.end),
        reason,
    });
    rejected_lines(&settings.failed, &file.name, &file.name_text, &settings.now_text(), lines)
}

/// Adds rejected lines of the file of this name to `<name>.rejected` among the failed files, and the reasons to
/// `<name>.rejected.error`. When this returns, they are on disk: the lines count as settled then.
pub(crate) fn rejected_lines<'a>(
    folder: &ConfiguredPath,
    file_name: &OsStr,
    file_text: &str,
    now: &str,
    rejected: impl Iterator<Item = RejectedLine<'a>>,
) -> io::Result<()> {
    make_folder(folder)?;
    let name = with_suffix(file_name, ".rejected");
    let (mut lines, lines_before) = append_to(folder, &name)?;
    let (mut notes, notes_before) = append_to(folder, &with_suffix(&name, ".error"))?;
    let wrote = (|| {
        for RejectedLine { message, offset, line, content, reason } in rejected {
            let mut last = LastByte { to: &mut lines, last: None };
            match content {
                Content::Bytes(bytes) => last.write_all(bytes)?,
                // A line may be of any length here: one that is too long is rejected for it.
                Content::In(mut source, start, end) => {
                    source.seek(SeekFrom::Start(start))?;
                    io::copy(&mut source.take(end - start), &mut last)?;
                }
            }
            if last.last != Some(b'\n') {
                lines.write_all(b"\n")?;
            }
            let note = ErrorNote {
                message,
                file: file_text,
                line,
                offset,
                at: now.to_owned(),
                class: reason.class,
                error: &reason.text,
            };
            notes.write_all(&line_of(&note)?)?;
        }
        lines.flush()?;
        notes.flush()?;
        lines.get_ref().sync_data()?;
        notes.get_ref().sync_data()?;
        // Their names: also of files that were there, for whoever made them may not have come so far.
        sync_folder_at(folder.path())
    })();
    // What is left in the buffers after an error must not be tried again when they are dropped, and what was written of it
    // is taken back: all of it is tried again later.
    let ((lines, _), (notes, _)) = (lines.into_parts(), notes.into_parts());
    if wrote.is_err() {
        let _ = lines.set_len(lines_before);
        let _ = notes.set_len(notes_before);
    }
    wrote.map_err(|error| at(folder, error))
}

/// Opens a file for whole lines to be added by nobody else until it is closed. Gives its length as well.
fn append_to(folder: &ConfiguredPath, name: &OsStr) -> io::Result<(BufWriter<File>, u64)> {
    let mut file = append_no_follow(&folder.path().join(name)).map_err(|error| at(folder, error))?;
    // Other owners may keep lines here as well, of a file of the same name. What one takes back after an error must not be
    // what another has synced.
    lock_exclusive(&file).map_err(|error| at(folder, error))?;
    // Left by a process that was killed between two writes. Its lines had not settled: they are offered again.
    let torn = with_suffix(name, ".torn");
    let cut = cut_torn_tail(&mut file, || append_no_follow(&folder.path().join(&torn)))
        .map_err(|error| at(folder, error))?;
    if cut.torn > 0 {
        tracing::warn!(
            file = name_text(name),
            offset = cut.whole,
            bytes = cut.torn,
            kept_in = name_text(&torn),
            "the last line has no end: it was half-written when a process died, and is cut off"
        );
    }
    Ok((BufWriter::new(file), cut.whole))
}

/// Remembers the last byte that went through.
struct LastByte<W> {
    to: W,
    last: Option<u8>,
}

impl<W: Write> Write for LastByte<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.to.write(buffer)?;
        self.last = buffer.get(..written).and_then(|b| b.last()).copied().or(self.last);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn line_of(note: &ErrorNote<'_>) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(note)?;
    line.push(b'\n');
    Ok(line)
}

fn make_folder(folder: &ConfiguredPath) -> io::Result<()> {
    make_folders(folder.path(), Permissions::USUAL).map_err(|error| {
        let text = format!(
            "the folder `{folder}` cannot be made: {error}. Make it, let the process make it, or name another"
        );
        io::Error::new(error.kind(), text)
    })
}

fn at(folder: &ConfiguredPath, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{folder}`: {error}"))
}

#[cfg(test)]
mod tests {
    use gristmill_core::config::{Node, Span, Value};
    use rustix::{fs::FlockOperation, io::Errno};

    use super::*;

    #[test]
    fn one_at_a_time_adds_rejected_lines_and_the_next_sees_them() {
        let folder = tempfile::tempdir().unwrap();
        let name = OsStr::new("a.rejected");
        let node = Node::new(Value::Null, Span::nowhere("test"));
        let failed = ConfiguredPath::new(folder.path(), Path::new(""), &node);
        let (mut first, length) = append_to(&failed, name).unwrap();
        assert_eq!(length, 0);
        let other = File::open(folder.path().join(name)).unwrap();
        let locked = rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(locked, Err(Errno::WOULDBLOCK));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| append_to(&failed, name).unwrap().1);
            first.write_all(b"one\n").unwrap();
            drop(first);
            assert_eq!(second.join().unwrap(), 4, "read while nobody else writes");
        });
    }

    #[test]
    fn a_name_that_is_taken_this_moment_replaces_nothing_and_follows_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("from"), "content").unwrap();
        fs::write(path("precious"), "precious").unwrap();
        std::os::unix::fs::symlink(path("precious"), path("a-1.error")).unwrap();
        let rename = |from: &Path, to: &Path| {
            if to == path("a") {
                fs::write(to, "of someone else").unwrap();
            }
            rename_new(from, to)
        };
        move_with_note(&path("from"), folder.path(), OsStr::new("a"), b"note", rename).unwrap();
        let read = |name: &str| fs::read_to_string(path(name)).unwrap();
        assert_eq!((read("a-2"), read("a-2.error")), ("content".into(), "note".into()));
        assert_eq!((read("a"), read("precious")), ("of someone else".into(), "precious".into()));
        assert!(!path("a.error").exists());
    }

    #[test]
    fn a_file_that_cannot_be_moved_leaves_no_note() {
        let folder = tempfile::tempdir().unwrap();
        let rename = |_: &Path, _: &Path| Err(Errno::NOSPC.into());
        assert!(move_with_note(Path::new("x"), folder.path(), OsStr::new("a"), b"note", rename).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

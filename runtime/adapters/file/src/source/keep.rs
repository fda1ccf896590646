//! Where files and lines go that are done or rejected. A name that is taken gets a number; nothing is ever replaced.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    claimed::{ClaimedFile, Reason, Rejection},
    settings::Settings,
};
use crate::fsys::{
    MAX_NUMBER, append_no_follow, cut_torn_tail, name_text, numbered, open_no_follow, rename_new, with_suffix,
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
pub(crate) fn move_into(from: &Path, folder: &Path, name: &OsStr) -> io::Result<OsString> {
    let mut made = false;
    let mut number = 0;
    loop {
        let target = numbered(name, number);
        match rename_new(from, &folder.join(&target)) {
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
    // The reason first: a file that failed is never there without it.
    let (number, note_path) = write_note(folder, &file.name, &note)?;
    let moved = match rename_new(&file.path, &folder.join(numbered(&file.name, number))) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Someone put a file of that name there this moment: another number, and the reason beside it after all.
            fs::remove_file(&note_path)?;
            let target = move_into(&file.path, folder, &file.name)?;
            fs::write(folder.join(with_suffix(&target, ".error")), line_of(&note)?)
        }
        moved => moved,
    };
    moved.map_err(|error| at(folder, error))
}

fn write_note(folder: &Path, name: &OsStr, note: &ErrorNote<'_>) -> io::Result<(u32, PathBuf)> {
    let mut number = 0;
    loop {
        let target = numbered(name, number);
        let path = folder.join(with_suffix(&target, ".error"));
        let taken = fs::symlink_metadata(folder.join(&target)).is_ok();
        match if taken { None } else { Some(OpenOptions::new().write(true).create_new(true).open(&path)) } {
            Some(Ok(mut file)) => {
                return match file.write_all(&line_of(note)?) {
                    Ok(()) => Ok((number, path)),
                    Err(error) => {
                        let _ = fs::remove_file(&path);
                        Err(at(folder, error))
                    }
                };
            }
            Some(Err(error)) if error.kind() != io::ErrorKind::AlreadyExists || number >= MAX_NUMBER => {
                return Err(at(folder, error));
            }
            _ if number >= MAX_NUMBER => return Err(at(folder, io::ErrorKind::AlreadyExists.into())),
            _ => number += 1,
        }
    }
}

/// Adds rejected lines to `<name>.rejected` among the failed files, and the reasons to `<name>.rejected.error`. When this
/// returns, they are on disk: the lines count as settled then.
pub(crate) fn rejected_lines(
    file: &ClaimedFile,
    settings: &Settings,
    rejections: &[Rejection],
) -> io::Result<()> {
    let folder = &settings.failed;
    make_folder(folder)?;
    let name = with_suffix(&file.name, ".rejected");
    let mut source = open_no_follow(&file.path)?;
    let (mut lines, lines_before) = append_to(folder, &name)?;
    let (mut notes, notes_before) = append_to(folder, &with_suffix(&name, ".error"))?;
    let wrote = (|| {
        for Rejection { place, reason } in rejections {
            source.seek(SeekFrom::Start(place.start))?;
            // A line may be of any length here: one that is too long is rejected for it.
            let mut line = Read::by_ref(&mut source).take(place.end - place.start);
            let mut last = LastByte { to: &mut lines, last: None };
            io::copy(&mut line, &mut last)?;
            if last.last != Some(b'\n') {
                lines.write_all(b"\n")?;
            }
            let note = ErrorNote {
                message: file.message_id(place.start),
                file: &file.name_text,
                line: Some(place.line),
                offset: place.start,
                at: settings.now_text(),
                class: reason.class,
                error: &reason.text,
            };
            notes.write_all(&line_of(&note)?)?;
        }
        lines.flush()?;
        notes.flush()?;
        lines.get_ref().sync_data()?;
        notes.get_ref().sync_data()
    })();
    // What is left in the buffers after an error must not be tried again when they are dropped, and what was written of it
    // is taken back: all of it is tried again later.
    let ((lines, _), (notes, _)) = (lines.into_parts(), notes.into_parts());
    if wrote.is_err() {
        let _ = lines.set_len(lines_before).and_then(|()| notes.set_len(notes_before));
    }
    wrote.map_err(|error| at(folder, error))
}

/// Opens a file for whole lines to be added. Gives its length as well.
fn append_to(folder: &Path, name: &OsStr) -> io::Result<(BufWriter<File>, u64)> {
    let mut file = append_no_follow(&folder.join(name)).map_err(|error| at(folder, error))?;
    // Left by a process that was killed between two writes. Its lines had not settled: they are offered again.
    let torn = with_suffix(name, ".torn");
    let cut = cut_torn_tail(&mut file, || append_no_follow(&folder.join(&torn)))
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

pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o777).create(folder).map_err(|error| at(folder, error))
}

fn at(folder: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{}`: {error}", name_text(folder.as_os_str())))
}

//! How far a half-read file has come, as kept on disk: one JSON object a line, of which the last whole one counts. Adding a
//! line is a single short write, which a process that is killed has made or has not; replacing a file is several calls, and
//! slow on file systems that then write its content out at once.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::fsys::write_whole;

/// The largest progress file that is read, in bytes. The window of a file is bounded, and so is what is written.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// From this size on the file is replaced rather than added to, in bytes.
const REPLACE_BYTES: u64 = 64 * 1024;

/// How far a file has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The file that is meant: the name may come again, for another file.
    pub(crate) inode: u64,
    /// Everything before this offset is settled.
    pub(crate) offset: u64,
    /// The number, from 1, of the line that begins at `offset`.
    pub(crate) line: u64,
    /// What is settled beyond, as ranges of offsets, ascending.
    pub(crate) settled: Vec<(u64, u64)>,
    /// All is settled: only the move to where the file belongs is still to be done.
    pub(crate) finished: bool,
}

impl Progress {
    /// The progress at `path`, if there is any of this file. What cannot be read counts as none: the file is then read from
    /// the start, which repeats messages and loses none.
    pub(crate) fn read(path: &Path, inode: u64) -> Option<Self> {
        let size = fs::symlink_metadata(path).ok()?.len();
        if size > MAX_BYTES {
            return None;
        }
        let content = fs::read(path).ok()?;
        // The last one may be cut off, by a loss of power.
        let last = content.rsplit(|b| *b == b'\n').find_map(|line| serde_json::from_slice::<Self>(line).ok());
        if last.is_none() {
            tracing::warn!("the progress of a half-read file is damaged: it is read from the start");
        }
        last.filter(|progress| progress.inode == inode)
    }

    /// Writes it. Not synced: a crash of the process cannot undo it, and a loss of power only makes it older.
    pub(crate) fn note(&self, path: &Path) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        if file.metadata()?.len() + line.len() as u64 > REPLACE_BYTES {
            return write_whole(path, &line);
        }
        file.write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Progress {
        Progress { inode: 1, offset, line: 3, settled: vec![(offset + 2, offset + 10)], finished: false }
    }

    #[test]
    fn the_last_whole_note_of_the_same_file_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1");
        assert_eq!(Progress::read(&path, 1), None);
        at(10).note(&path).unwrap();
        at(20).note(&path).unwrap();
        assert_eq!(Progress::read(&path, 1), Some(at(20)));
        assert_eq!(Progress::read(&path, 2), None);
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() - 3]).unwrap();
        assert_eq!(Progress::read(&path, 1), Some(at(10)));
        fs::write(&path, &text[..10]).unwrap();
        assert_eq!(Progress::read(&path, 1), None);
    }

    #[test]
    fn many_notes_take_bounded_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1");
        for offset in 0..2_000 {
            at(offset).note(&path).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() <= REPLACE_BYTES);
        assert_eq!(Progress::read(&path, 1), Some(at(1_999)));
    }
}

//! How far a half-read file has come, as kept on disk.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::fsys::write_whole;

/// The largest progress file that is read, in bytes. The window of a file is bounded, and so is what is written.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

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
        let progress: Self = serde_json::from_slice(&fs::read(path).ok()?)
            .inspect_err(|error| {
                tracing::warn!(%error, "the progress of a half-read file is damaged: it is read from the start");
            })
            .ok()?;
        (progress.inode == inode).then_some(progress)
    }

    /// Writes it, in one step. Not synced: a crash of the process cannot undo it, and a loss of power only makes it older.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        write_whole(path, &serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_only_for_the_file_it_was_written_for_and_only_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1");
        let progress = Progress { inode: 1, offset: 10, line: 3, settled: vec![(12, 20)], finished: false };
        assert_eq!(Progress::read(&path, 1), None);
        progress.write(&path).unwrap();
        assert_eq!(Progress::read(&path, 1), Some(progress));
        assert_eq!(Progress::read(&path, 2), None);
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert_eq!(Progress::read(&path, 1), None);
    }
}

//! How far each file has come, on disk: one JSON object, replaced in one step and synced. What it says is settled, is; what
//! it does not know is offered again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::{fs::FlockOperation, io::Errno};
use serde::{Deserialize, Serialize};

use crate::{
    fnv::fnv1a,
    fsys::{Permissions, make_folders, sync_folder_at},
};

/// The form of the checkpoint. One of another form counts as damaged.
const FORM: u32 = 1;

/// The largest checkpoint that is read, in bytes: more than the most files with the widest windows come to in practice.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// What is known of the files of a folder.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    form: u32,
    /// The pattern that the folder was last looked through with. A file that it takes and that is not known has appeared
    /// since. `None` before the first look.
    pub(crate) pattern: Option<String>,
    pub(crate) files: Vec<Entry>,
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The number of its device, which may be another after a restart of the system.
    pub(crate) device: u64,
    /// Its inode number.
    pub(crate) inode: u64,
    /// Its time of birth in nanoseconds since 1970, where the file system knows it.
    pub(crate) born: Option<u64>,
    /// What it begins with.
    pub(crate) head: Print,
    /// What stands before `offset`.
    pub(crate) anchor: Print,
    /// Tells it from all files that were and will be called the same, in message ids.
    pub(crate) stamp: u64,
    /// What it was called when it was met, as text.
    pub(crate) name: String,
    /// Where it was begun.
    pub(crate) begun_at: u64,
    /// Everything before this offset is settled.
    pub(crate) offset: u64,
    /// The number of the line that begins there, counted from where the file was begun.
    pub(crate) line: u64,
    /// What is settled beyond, as ranges of offsets, ascending.
    pub(crate) settled: Vec<(u64, u64)>,
    /// When it was last seen in the folder, in milliseconds since 1970.
    pub(crate) seen_ms: u64,
}

/// A fingerprint of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Print {
    /// How many.
    pub(crate) length: u32,
    hash: u64,
}

/// Where the checkpoint is kept. While it is held, no other source keeps one there: the system unlocks it when a process dies.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    _lock: File,
}

impl Print {
    /// Of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { length: u32::try_from(bytes.len()).unwrap_or(u32::MAX), hash: fnv1a(bytes) }
    }

    /// Whether this is the fingerprint of what these bytes begin with.
    pub(crate) fn begins(self, bytes: &[u8]) -> bool {
        bytes.get(..self.length as usize).is_some_and(|begin| fnv1a(begin) == self.hash)
    }

    /// Whether this is the fingerprint of what these bytes end with.
    pub(crate) fn ends(self, bytes: &[u8]) -> bool {
        let from = bytes.len().checked_sub(self.length as usize);
        from.and_then(|from| bytes.get(from..)).is_some_and(|end| self.begins(end))
    }
}

impl Checkpoint {
    /// Of these files.
    pub(crate) fn new(pattern: Option<String>, files: Vec<Entry>) -> Self {
        Self { form: FORM, pattern, files }
    }
}

impl Store {
    /// Takes the place, which is made when it is missing, and reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` when another source has it, of this process or another.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Checkpoint)> {
        let folder = path.parent().unwrap_or(Path::new("."));
        make_folders(folder, Permissions::PRIVATE)?;
        let lock = private(&path.with_extension("lock"))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                let text = "another source holds it, of this process or another: it is taken over when that one ends";
                return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
            }
            locked => locked?,
        }
        let store = Self { path: path.to_owned(), _lock: lock };
        let checkpoint = store.read()?;
        Ok((store, checkpoint))
    }

    fn read(&self) -> io::Result<Checkpoint> {
        let metadata = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Checkpoint::default()),
            metadata => metadata?,
        };
        if metadata.len() <= MAX_BYTES
            && let Ok(checkpoint) = serde_json::from_slice::<Checkpoint>(&fs::read(&self.path)?)
            && checkpoint.form == FORM
        {
            return Ok(checkpoint);
        }
        let aside = self.path.with_extension("damaged");
        fs::rename(&self.path, &aside)?;
        tracing::warn!(
            kept_in = %aside.display(),
            "the checkpoint of followed files is damaged: all files are read from their beginning, and messages repeat"
        );
        // Whatever is there has been met before, as far as anyone knows: nothing may be begun at its end.
        Ok(Checkpoint::new(Some("*".into()), Vec::new()))
    }

    /// Replaces the checkpoint. When this returns, it is on disk.
    pub(crate) fn save(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let content = serde_json::to_vec(checkpoint)?;
        let new = self.path.with_extension("new");
        let is_first = !self.path.exists();
        let mut file = private(&new)?;
        let saved = (|| {
            file.set_len(0)?;
            file.write_all(&content)?;
            file.sync_data()?;
            fs::rename(&new, &self.path)
        })();
        saved.inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })?;
        // Later ones need no sync of the name: after a loss of power it leads to this one or to an older one.
        if is_first { sync_folder_at(self.path.parent().unwrap_or(Path::new("."))) } else { Ok(()) }
    }
}

/// Opens a file of the process's user alone, for writing.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(inode: u64) -> Entry {
        Entry {
            device: 5,
            inode,
            born: Some(1),
            head: Print::of(b"head"),
            anchor: Print::of(b"anchor"),
            stamp: u64::MAX,
            name: "app.log".into(),
            begun_at: 0,
            offset: 10,
            line: 2,
            settled: vec![(12, 20)],
            seen_ms: 3,
        }
    }

    #[test]
    fn what_was_saved_is_read_and_one_holds_it_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/deep/follow.json");
        let (store, found) = Store::open(&path).unwrap();
        assert_eq!(found, Checkpoint::default());
        let checkpoint = Checkpoint::new(Some("*.log".into()), vec![entry(1), entry(2)]);
        store.save(&Checkpoint::new(None, vec![entry(7)])).unwrap();
        store.save(&checkpoint).unwrap();
        assert_eq!(Store::open(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(store);
        assert_eq!(Store::open(&path).unwrap().1, checkpoint);
        assert!(!path.with_extension("new").exists());
    }

    #[test]
    fn a_damaged_checkpoint_is_kept_aside_and_nothing_is_begun_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("follow.json");
        fs::write(&path, "{\"form\":1,").unwrap();
        let (_store, found) = Store::open(&path).unwrap();
        assert!(found.files.is_empty() && found.pattern.is_some());
        assert!(path.with_extension("damaged").exists());
    }

    #[test]
    fn a_fingerprint_is_of_all_its_bytes() {
        let print = Print::of(b"abc");
        assert!(print.begins(b"abc") && print.begins(b"abcd"));
        assert!(!print.begins(b"ab") && !print.begins(b"abd") && Print::of(b"").begins(b""));
    }
}

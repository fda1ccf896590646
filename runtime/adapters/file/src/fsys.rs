//! The few file system operations that both source and sink need, each with the one property it is here for: a rename that
//! never replaces, an open that never follows a link, a write that is whole or not at all.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::{
        fd::AsFd,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::{DirBuilderExt, FileExt, OpenOptionsExt},
        },
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags},
    io::Errno,
};

/// Names that begin so belong to the adapter: the work folder and temporary files.
pub(crate) const RESERVED_PREFIX: &str = ".gristmill";

/// The longest file name of the common file systems (`NAME_MAX`), in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 255;

/// How many numbers are tried for a name that is taken.
pub(crate) const MAX_NUMBER: u32 = 9_999;

/// The permissions of files and folders that are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Permissions {
    file: u32,
    /// Whether the process's umask takes nothing away.
    exact: bool,
}

impl Permissions {
    /// Whatever the process's umask leaves.
    pub(crate) const USUAL: Self = Self { file: 0o666, exact: false };
    /// For the process's user alone.
    pub(crate) const PRIVATE: Self = Self { file: 0o600, exact: false };

    /// These of files, as they are.
    pub(crate) const fn exactly(file: u32) -> Self {
        Self { file, exact: true }
    }

    pub(crate) fn of_file(self) -> Mode {
        Mode::from_raw_mode(self.file)
    }

    /// Who may read the files may enter their folders.
    pub(crate) fn of_folder(self) -> Mode {
        Mode::from_raw_mode(self.file | ((self.file & 0o444) >> 2))
    }

    /// Gives what was just made the permissions that the umask took away.
    pub(crate) fn enforce(self, made: impl AsFd, mode: Mode) -> io::Result<()> {
        if self.exact {
            rustix::fs::fchmod(made, mode)?;
        }
        Ok(())
    }
}

/// Renames, and fails with `AlreadyExists` rather than replace.
///
/// Of several processes that rename the same file to different places exactly one succeeds; the others get `NotFound`.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that does not know the flag (some network ones) answers so.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => rename_new_by_link(from, to),
        result => Ok(result?),
    }
}

/// The same for file systems without `RENAME_NOREPLACE`: the link fails when the name is taken, and of several processes
/// only one removes the old name.
fn rename_new_by_link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)?;
    fs::remove_file(from).inspect_err(|_| {
        // The other name is this file's as well, and another process's to keep.
        let _ = fs::remove_file(to);
    })
}

/// Syncs the names in a folder.
pub(crate) fn sync_folder(folder: impl AsFd) -> io::Result<()> {
    #[cfg(test)]
    crate::testing::on_sync(folder.as_fd())?;
    match rustix::fs::fsync(folder) {
        // File systems that cannot (some network ones) have made the name safe by themselves, or never will.
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        synced => Ok(synced?),
    }
}

/// The same by path.
pub(crate) fn sync_folder_at(folder: &Path) -> io::Result<()> {
    match File::open(folder) {
        // Only a folder that may be read can be synced; what is made in it is as safe as can be.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        folder => sync_folder(folder?),
    }
}

/// Syncs the name of a folder, in the folder above it.
pub(crate) fn sync_name_of(folder: &Path) -> io::Result<()> {
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_folder_at(parent.unwrap_or(Path::new(".")))
}

/// Makes a folder, and what is missing above it; when this returns, their names are on disk.
pub(crate) fn make_folders(folder: &Path, permissions: Permissions) -> io::Result<()> {
    let mode = permissions.of_folder();
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let missing: Vec<&Path> = folder.ancestors().take_while(is_missing).collect();
    for folder in missing.into_iter().rev() {
        match DirBuilder::new().mode(mode.as_raw_mode()).create(folder) {
            Ok(()) => File::open(folder)
                .and_then(|made| permissions.enforce(made, mode))
                .and_then(|()| sync_name_of(folder))
                .inspect_err(|_| {
                    // The next attempt must not find it there, and take its name for safe.
                    let _ = fs::remove_dir(folder);
                })?,
            // Someone else made it this moment, and may not have synced it yet.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => sync_name_of(folder)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Locks a file against other processes, and other handles of this one, until it is closed. Waits for whoever has it.
pub(crate) fn lock_exclusive(file: &File) -> io::Result<()> {
    loop {
        match rustix::fs::flock(file, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            locked => return Ok(locked?),
        }
    }
}

/// Opens for reading; a link, also one that was put there this moment, fails with `ELOOP`, and a FIFO does not block.
pub(crate) fn open_no_follow(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)
}

/// Opens for reading and appending, makes the file when it is missing, never follows a link; what is not a regular file is
/// refused.
pub(crate) fn append_no_follow(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .custom_flags(flags.cast_signed())
        .open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// What [`cut_torn_tail`] came to, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// What is left: whole lines.
    pub(crate) whole: u64,
    /// What was cut off; usually nothing.
    pub(crate) torn: u64,
}

/// Cuts off what stands after the last line break: the rest of a write that a crash interrupted, which was never confirmed.
/// Before that it is added to the file that `keep` opens, for the file may have come from elsewhere.
pub(crate) fn cut_torn_tail(file: &mut File, keep: impl FnOnce() -> io::Result<File>) -> io::Result<Cut> {
    let length = file.metadata()?.len();
    let whole = end_of_last_line(file, length)?;
    if whole < length {
        let mut kept = keep()?;
        file.seek(SeekFrom::Start(whole))?;
        io::copy(file, &mut kept)?;
        kept.write_all(b"\n")?;
        kept.sync_all()?;
        file.set_len(whole)?;
        file.sync_all()?;
    }
    Ok(Cut { whole, torn: length - whole })
}

/// The offset after the last line break; 0 when there is none.
pub(crate) fn end_of_last_line(file: &File, length: u64) -> io::Result<u64> {
    // The usual case, without a large read.
    let mut last = [0];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last == *b"\n" {
        return Ok(length);
    }
    let mut buffer = vec![0; 64 * 1024];
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(buffer.len() as u64);
        let size = usize::try_from(end - start).map_err(io::Error::other)?;
        let block = buffer.get_mut(..size).unwrap_or_default();
        file.read_exact_at(block, start)?;
        if let Some(at) = memchr::memrchr(b'\n', block) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Replaces the content of a file in one step. Not synced: what is written so can be rebuilt.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file = File::create(&temporary)?;
    file.write_all(content).and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// `order.json` with number 2 is `order-2.json`; number 0 is the name itself. Cut where the result would be too long.
pub(crate) fn numbered(name: &OsStr, number: u32) -> OsString {
    if number == 0 {
        return name.to_owned();
    }
    let bytes = name.as_bytes();
    // A dot at the start makes a hidden file, not an extension.
    let dot = bytes.iter().rposition(|b| *b == b'.').filter(|at| *at > 0).unwrap_or(bytes.len());
    let (stem, extension) = bytes.split_at(dot);
    let suffix = format!("-{number}");
    let room = MAX_NAME_BYTES.saturating_sub(suffix.len() + extension.len());
    let mut result = cut(stem, room).to_vec();
    result.extend_from_slice(suffix.as_bytes());
    result.extend_from_slice(extension);
    OsString::from_vec(result)
}

/// `name` and `suffix`, the name cut where the result would be too long.
pub(crate) fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let mut result = cut(name.as_bytes(), MAX_NAME_BYTES.saturating_sub(suffix.len())).to_vec();
    result.extend_from_slice(suffix.as_bytes());
    OsString::from_vec(result)
}

/// At most `room` bytes, without cutting a UTF-8 character in two.
fn cut(bytes: &[u8], room: usize) -> &[u8] {
    let mut end = room.min(bytes.len());
    if end < bytes.len() {
        while end > 0 && bytes.get(end).is_some_and(|b| b & 0xC0 == 0x80) {
            end -= 1;
        }
    }
    bytes.get(..end).unwrap_or_default()
}

/// A file name as text. Bytes that are not UTF-8, and control characters, are percent-encoded, and so is a `%` that would
/// read as the beginning of such a code: two names never give the same text, and no name breaks a log or a header.
pub(crate) fn name_text(name: &OsStr) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.as_bytes().utf8_chunks() {
        let valid = chunk.valid();
        for (at, c) in valid.char_indices() {
            let next = valid.as_bytes().get(at + 1..at + 3).unwrap_or_default();
            let reads_as_code = c == '%' && next.len() == 2 && next.iter().all(u8::is_ascii_hexdigit);
            if c.is_control() || reads_as_code {
                let mut buffer = [0; 4];
                encode_into(&mut text, c.encode_utf8(&mut buffer).as_bytes());
            } else {
                text.push(c);
            }
        }
        encode_into(&mut text, chunk.invalid());
    }
    text
}

fn encode_into(text: &mut String, bytes: &[u8]) {
    use std::fmt::Write as _;
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "%{byte:02X}");
    }
}

/// The path without `.` and with `..` taken away by its text: for comparing what is written, not for opening.
pub(crate) fn lexical(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(result.components().next_back(), Some(Component::Normal(_))) => {
                result.pop();
            }
            other => result.push(other),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_rename_never_replaces_by_either_way() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b, c) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
        for rename in [rename_new, rename_new_by_link] {
            fs::write(&a, "a").unwrap();
            fs::write(&b, "b").unwrap();
            assert_eq!(rename(&a, &b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"a".to_vec(), b"b".to_vec()));
            rename(&a, &c).unwrap();
            assert_eq!(rename(&a, &c).unwrap_err().kind(), io::ErrorKind::NotFound);
            fs::remove_file(&c).unwrap();
        }
    }

    #[test]
    fn numbers_go_before_the_extension_and_names_stay_short_enough() {
        for (name, expected) in
            [("a.json", "a-7.json"), ("a", "a-7"), (".env", ".env-7"), ("a.tar.gz", "a.tar-7.gz")]
        {
            assert_eq!(numbered(OsStr::new(name), 7), expected);
        }
        let long = "é".repeat(127) + ".x";
        let result = numbered(OsStr::new(&long), 12);
        assert!(result.len() <= MAX_NAME_BYTES && result.to_str().unwrap().ends_with("-12.x"));
        assert!(with_suffix(OsStr::new(&"x".repeat(255)), ".error").len() == 255);
    }

    #[test]
    fn every_name_has_a_text_of_its_own() {
        for (name, text) in [
            (&b"plain 100%.txt"[..], "plain 100%.txt"),
            (b"caf\xC3\xA9", "café"),
            (b"caf\xE9%", "caf%E9%"),
            (b"caf%E9%", "caf%25E9%"),
            (b"%4\xE91", "%4%E91"),
            (b"%2541", "%252541"),
            (b"%", "%"),
            (b"a\nb", "a%0Ab"),
        ] {
            assert_eq!(name_text(OsStr::from_bytes(name)), text);
        }
    }

    #[test]
    fn a_folder_whose_name_could_not_be_synced_is_not_left_to_be_found() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("a/b"));
        testing::fail_syncs(folder.path(), true);
        assert!(make_folders(&b, Permissions::USUAL).is_err() && !a.exists());
        testing::fail_syncs(folder.path(), false);
        make_folders(&b, Permissions::USUAL).unwrap();
        assert!(b.is_dir());
        assert_eq!((testing::syncs(folder.path()), testing::syncs(&a)), (2, 1));
    }

    #[test]
    fn links_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("real"), "x").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("real"), &link).unwrap();
        assert!(open_no_follow(&link).is_err());
        assert!(append_no_follow(&link).is_err());
    }

    #[test]
    fn dots_are_taken_out_of_a_path() {
        assert_eq!(lexical(Path::new("/a/./b/../c")), Path::new("/a/c"));
        assert_eq!(lexical(Path::new("../a/..")), Path::new(".."));
    }
}

//! A file of TLS: where it is, and how it is read.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use gristmill_core::config::Node;

use crate::TlsError;

/// The largest file that is read, in bytes. All authorities that browsers know fill a quarter of it.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Where a file is, and under which key that was written.
#[derive(Clone)]
pub(crate) struct TlsFile {
    key: &'static str,
    path: PathBuf,
    /// The path was substituted, at least in part, and so is never shown.
    hidden: bool,
}

impl TlsFile {
    /// The file that `key` of `tls` names.
    pub(crate) fn new(key: &'static str, text: &str, tls: &Node, base_dir: &Path) -> Self {
        let hidden = tls.get(key).is_some_and(Node::is_substituted);
        Self { key, path: base_dir.join(text), hidden }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All that is in it. Blocks.
    ///
    /// # Errors
    /// It cannot be read, is no regular file (a pipe could be waited for without end), or is larger than
    /// [`MAX_FILE_BYTES`].
    pub(crate) fn read(&self) -> Result<Vec<u8>, TlsError> {
        let read = || -> io::Result<Vec<u8>> {
            if !fs::metadata(&self.path)?.is_file() {
                return Err(io::Error::other("it is not a file"));
            }
            let mut bytes = Vec::new();
            let length = File::open(&self.path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
            if length as u64 > MAX_FILE_BYTES {
                return Err(io::Error::other("it is larger than 1 MiB"));
            }
            Ok(bytes)
        };
        read().map_err(|error| TlsError::new(format!("cannot read {self}: {error}")))
    }
}

impl fmt::Display for TlsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the `{}` of `tls`", self.key)?;
        if self.hidden { Ok(()) } else { write!(f, ", {}", self.path.display()) }
    }
}

impl fmt::Debug for TlsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

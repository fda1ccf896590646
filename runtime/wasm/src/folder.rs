//! The plugins folder: names, and nothing that could lead out of it.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use gristmill_core::{config::nearest, plugin::PluginError};
use sha2::{Digest, Sha256};

/// What plugin files end in.
const SUFFIX: &str = ".wasm";

/// The longest name of a plugin, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// The most names that an error lists.
const MAX_LISTED: usize = 10;

/// The folder.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    file_bytes: u64,
}

/// A plugin's file, as found.
#[derive(Debug)]
pub(crate) struct PluginFile {
    pub(crate) bytes: Vec<u8>,
    /// Lower-case hexadecimal SHA-256.
    pub(crate) digest: String,
}

/// Whether this is a name: lower-case letters, digits, `-` and `_`. So it is one file in one folder.
fn is_name(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(ok)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

// === impl Folder ===

impl Folder {
    pub(crate) fn new(path: PathBuf, file_bytes: u64) -> Self {
        Self { path, file_bytes }
    }

    /// Reads the plugin of that name.
    ///
    /// # Errors
    /// `plugin_name_invalid`, `plugin_not_found`, `plugin_too_large`, `plugin_unreadable`.
    pub(crate) fn read(&self, name: &str) -> Result<PluginFile, PluginError> {
        if !is_name(name) {
            let text =
                format!("{:?} is not a plugin's name", name.chars().take(MAX_NAME_BYTES).collect::<String>());
            return Err(PluginError::new("plugin_name_invalid", text)
                .mend("a name is of lower-case letters, digits, `-` and `_`, without `.wasm`"));
        }
        let path = self.path.join(format!("{name}{SUFFIX}"));
        read_file(&path, self.file_bytes).map_err(|e| match e {
            ReadError::Missing => self.not_found(name),
            ReadError::Other(error) => error,
        })
    }

    /// Every name in the folder, sorted; none when it cannot be read.
    pub(crate) fn names(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(SUFFIX).map(str::to_owned))
            .filter(|name| is_name(name))
            .collect();
        names.sort();
        names
    }

    fn not_found(&self, name: &str) -> PluginError {
        let folder = self.path.display();
        let error = PluginError::new("plugin_not_found", format!("there is no plugin `{name}` in {folder}"));
        let names = self.names();
        if let Some(meant) = nearest(name, names.iter().map(String::as_str)) {
            return error.mend(format!("did you mean `{meant}`?"));
        }
        if names.is_empty() {
            return error.mend(format!("put `{name}{SUFFIX}` into the folder, which holds no plugin yet"));
        }
        let more = if names.len() > MAX_LISTED { ", …" } else { "" };
        let listed: Vec<_> = names.into_iter().take(MAX_LISTED).collect();
        error.mend(format!("put `{name}{SUFFIX}` into the folder; it holds {}{more}", listed.join(", ")))
    }
}

/// Why a file could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// It is not there.
    Missing,
    /// Anything else.
    Other(PluginError),
}

/// Reads a plugin's file of at most `max` bytes.
///
/// # Errors
/// See [`ReadError`].
pub(crate) fn read_file(path: &Path, max: u64) -> Result<PluginFile, ReadError> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => ReadError::Missing,
        _ => ReadError::Other(PluginError::new(
            "plugin_unreadable",
            format!("{shown} cannot be read: {error}"),
        )),
    };
    let file = open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        let text = format!("{shown} is not a file");
        return Err(ReadError::Other(PluginError::new("plugin_unreadable", text)));
    }
    let mut bytes = Vec::new();
    // One byte more than may be, so that a file that grows meanwhile is found out.
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
        let size = metadata.len().max(max.saturating_add(1));
        let text = format!("{shown} has {size} bytes; the limit is {max} (plugin_file_bytes)");
        return Err(ReadError::Other(
            PluginError::new("plugin_too_large", text).mend("build with optimisation, or raise the limit"),
        ));
    }
    let digest = hex(&Sha256::digest(&bytes));
    Ok(PluginFile { bytes, digest })
}

/// Opens without waiting: a FIFO in the folder must not hold up whoever reads it.
fn open(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default(),
    );
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["json-map.wasm", "redact.wasm", "README.md", "Not A Name.wasm"] {
            std::fs::write(dir.path().join(name), "0123456789").unwrap();
        }
        let folder = Folder::new(dir.path().into(), 10);
        (dir, folder)
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_folder() {
        let (_dir, folder) = folder();
        for name in ["", "../json-map", "/etc/passwd", "json-map.wasm", "Json", "a\0b", &"n".repeat(129)] {
            assert_eq!(folder.read(name).unwrap_err().code, "plugin_name_invalid", "{name:?}");
        }
    }

    #[test]
    fn what_is_missing_has_a_suggestion() {
        let (_dir, folder) = folder();
        let error = folder.read("json-mapp").unwrap_err();
        assert_eq!(error.code, "plugin_not_found");
        assert_eq!(error.mend.unwrap(), "did you mean `json-map`?");
        let error = folder.read("another").unwrap_err();
        assert!(error.mend.unwrap().contains("it holds json-map, redact"));
        let empty = Folder::new("no/such/folder".into(), 10);
        assert!(empty.read("a").unwrap_err().mend.unwrap().contains("no plugin yet"));
    }

    #[test]
    fn size_and_kind_are_checked() {
        let (dir, folder) = folder();
        assert_eq!(folder.names(), ["json-map", "redact"]);
        assert_eq!(folder.read("redact").unwrap().digest.len(), 64);
        std::fs::write(dir.path().join("large.wasm"), "0123456789a").unwrap();
        assert_eq!(folder.read("large").unwrap_err().code, "plugin_too_large");
        std::fs::create_dir(dir.path().join("folder.wasm")).unwrap();
        assert_eq!(folder.read("folder").unwrap_err().code, "plugin_unreadable");
    }
}

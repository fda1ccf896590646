//! Plugins that do the same and are not the same: copies of one with something in them that nobody reads.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The name of the section.
const NAME: &str = "bench";

/// The plugin with a mark: a custom section at its end, which both a component and a core module may have and which changes
/// nothing but its content, by which the host knows a plugin.
pub(crate) fn marked(plugin: &[u8], mark: u16) -> Vec<u8> {
    let mark = mark.to_string();
    // The identifier of a custom section; then its length and that of its name, each less than 128 and so one byte of LEB128.
    let lengths = [1 + NAME.len() + mark.len(), NAME.len()].map(|length| length as u8);
    [plugin, &[0], &lengths, NAME.as_bytes(), mark.as_bytes()].concat()
}

/// Where a folder has a plugin.
pub(crate) fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.wasm"))
}

/// Reads a plugin of a folder.
///
/// # Errors
/// When it is not there.
pub(crate) fn read(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let file = file(folder, name);
    fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_a_section_of_its_own_at_the_end() {
        let marked = marked(b"\0asm\x01\0\0\0", 4711);
        assert_eq!(marked, b"\0asm\x01\0\0\0\0\x0a\x05bench4711");
    }
}

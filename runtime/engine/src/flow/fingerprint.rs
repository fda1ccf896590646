//! What tells one version of a flow from another: hashes of all that it is made of.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use gristmill_core::{config::Node, connection::Connection, limits::FlowLimits};
use sha2::{Digest, Sha256};

use super::{CheckContext, check::plugins_named};

/// How much of a configuration file counts, in bytes. Adapters take no larger ones.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Of everything the flow is made of: what was written, what was substituted, its plugins, and the files that its source
/// and its sinks name.
pub(super) fn version(
    node: &Node,
    files: &BTreeSet<PathBuf>,
    connections: &[Connection],
    context: CheckContext<'_>,
) -> String {
    let mut hash = Sha256::new();
    hash.update(node.to_json().to_string());
    for name in plugins_named(node) {
        if let Some(Ok(loaded)) = context.plugins.get(&name) {
            hash.update([0]);
            hash.update(name.as_bytes());
            hash.update([0]);
            hash.update(loaded.digest());
        }
    }
    add_files(&mut hash, files);
    add_connections(&mut hash, connections);
    hexadecimal(&hash.finalize(), 6)
}

/// Of what an endpoint is made of; `files` and `connections` are those of the source.
pub(super) fn source(
    node: &Node,
    limits: &FlowLimits,
    files: &BTreeSet<PathBuf>,
    connections: &[Connection],
) -> String {
    let mut hash = Sha256::new();
    hash.update(node.at(["source"]).to_json().to_string());
    hash.update(format!("{limits:?}"));
    add_files(&mut hash, files);
    add_connections(&mut hash, connections);
    hexadecimal(&hash.finalize(), 16)
}

/// Of what a connection is made of.
pub(crate) fn connection(node: &Node, files: &[PathBuf]) -> String {
    let mut hash = Sha256::new();
    hash.update(node.to_json().to_string());
    add_files(&mut hash, &files.iter().cloned().collect());
    hexadecimal(&hash.finalize(), 16)
}

fn add_connections(hash: &mut Sha256, connections: &[Connection]) {
    for connection in connections {
        hash.update([0]);
        hash.update(connection.name.as_bytes());
        hash.update([0]);
        hash.update(connection.fingerprint.as_bytes());
    }
}

fn add_files(hash: &mut Sha256, files: &BTreeSet<PathBuf>) {
    for path in files {
        hash.update([0]);
        hash.update(path.as_os_str().as_encoded_bytes());
        hash.update([0]);
        // What cannot be read has no content; whoever opens the flow reads the file too, and says what is wrong.
        if let Ok(digest) = digest(path) {
            hash.update(digest);
        }
    }
}

fn digest(path: &Path) -> io::Result<[u8; 32]> {
    // A pipe could be waited for without end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(Sha256::digest(bytes).into())
}

fn hexadecimal(bytes: &[u8], take: usize) -> String {
    bytes.iter().take(take).map(|b| format!("{b:02x}")).collect()
}

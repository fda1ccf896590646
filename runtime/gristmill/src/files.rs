//! Finds and reads flow files.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use gristmill_core::limits::MAX_FLOW_FILE_BYTES;
use gristmill_engine::flow::FlowFile;

/// The most flow files that one folder may hold.
const MAX_FLOW_FILES: usize = 10_000;

/// The flow files of a folder, in the order of their names: `*.yaml` and `*.yml`, but not `*.test.yaml` and hidden ones.
///
/// # Errors
/// When the folder cannot be read, with what to do.
pub(crate) fn flow_files(dir: &Path) -> Result<Vec<FlowFile>, String> {
    let entries = std::fs::read_dir(dir).map_err(|e| {
        format!(
            "cannot read the folder of flows {}: {e}; make it, or name another with `--flows`",
            shown(dir)
        )
    })?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| format!("cannot read the folder of flows {}: {e}", shown(dir)))?.path();
        if is_flow(&path) {
            paths.push(path);
        }
    }
    if paths.len() > MAX_FLOW_FILES {
        return Err(format!("{} has {} flow files, more than {MAX_FLOW_FILES}", shown(dir), paths.len()));
    }
    paths.sort();
    Ok(paths.into_iter().map(flow_file).collect())
}

fn not_gone(error: std::io::Error) -> bool {
    error.kind() != std::io::ErrorKind::NotFound
}

/// One flow file.
pub(crate) fn flow_file(path: PathBuf) -> FlowFile {
    let text = read_limited(&path, MAX_FLOW_FILE_BYTES).map(Into::into);
    FlowFile { path: PathBuf::from(shown(&path)), text }
}

fn is_flow(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let yaml = name.ends_with(".yaml") || name.ends_with(".yml");
    let test = name.ends_with(".test.yaml") || name.ends_with(".test.yml");
    // What cannot be looked at for a moment (a network file system, a file that is being replaced) still is a flow: reading it
    // says what is wrong, and the version that runs goes on. Only what is surely something else is passed over.
    yaml && !test && !name.starts_with('.') && path.metadata().map_or_else(not_gone, |found| found.is_file())
}

/// A text file of at most `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<String, String> {
    let file = File::open(path).map_err(|e| format!("cannot read {}: {e}", shown(path)))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| format!("cannot read {}: {e}", shown(path)))?;
    if bytes.len() as u64 > limit {
        return Err(format!("{} is larger than {limit} bytes", shown(path)));
    }
    String::from_utf8(bytes)
        .map_err(|e| format!("{} is not UTF-8: byte {} is not", shown(path), e.utf8_error().valid_up_to()))
}

/// A path as a person would type it: relative to the current folder, where it is below it.
pub(crate) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let short = here.as_deref().and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path);
    short.display().to_string()
}

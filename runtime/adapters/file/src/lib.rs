//! The file adapter: folders as sources and as sinks.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | what stands in a flow file |
//! | `source` | files of a folder become deliveries, whole or line by line |
//! | `sink` | messages become files, or lines at the end of one |
//! | `configured` | paths of a flow file, with the text that may be shown |
//! | `fnv` | the hash in names and ids |
//! | `fsys` | the file system operations that both need |
//!
//! Unix only: claims rest on `rename` and `flock`, names that cannot leave their folder on `openat` and `O_NOFOLLOW`.

pub mod config;
mod configured;
mod content_type;
mod fnv;
mod fsys;
mod sink;
mod source;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use gristmill_core::{
    Clock, SystemClock,
    adapter::{Adapter, CheckedSink, Checker, SinkUse},
    config::{Node, Schema, schema_of},
    source::SourceSpec,
};

use self::{sink::OpenFiles, source::FileSourceSpec};

/// The protocol `file`. Holds the files that are open for appending: all flows and all versions share them.
#[derive(Debug)]
pub struct FileAdapter {
    files: Arc<OpenFiles>,
}

// === impl FileAdapter ===

impl FileAdapter {
    /// An adapter without open files.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// The same with another clock: it names and ages the files that are rotated.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { files: Arc::new(OpenFiles::new(clock)) }
    }
}

impl Default for FileAdapter {
    fn default() -> Self {
        Self::new()
    }
}

impl Adapter for FileAdapter {
    fn name(&self) -> &'static str {
        "file"
    }

    fn source_schema(&self) -> Option<Schema> {
        Some(schema_of::<config::SourceConfig>())
    }

    fn sink_schema(&self) -> Option<Schema> {
        Some(schema_of::<config::SinkConfig>())
    }

    fn check_source(&self, config: &Node, checker: &mut Checker<'_>) -> Option<Arc<dyn SourceSpec>> {
        Some(Arc::new(FileSourceSpec::check(config, checker)?))
    }

    fn check_sink(&self, config: &Node, usage: SinkUse, checker: &mut Checker<'_>) -> Option<CheckedSink> {
        sink::check(config, usage, checker, &self.files)
    }
}

//! The file adapter: folders as sources and as sinks.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | what stands in a flow file |
//! | `source` | files of a folder become deliveries, whole or line by line |
//! | `sink` | messages become files, or lines at the end of one |
//! | `fsys` | the file system operations that both need |
//!
//! Unix only: claims rest on `rename` and `flock`, names that cannot leave their folder on `openat` and `O_NOFOLLOW`.

pub mod config;
mod content_type;
mod fsys;
mod source;

use std::sync::Arc;

use gristmill_core::{
    adapter::{Adapter, CheckedSink, Checker, SinkUse},
    config::{Node, Schema, schema_of},
    source::SourceSpec,
};

use source::FileSourceSpec;

/// The protocol `file`.
#[derive(Debug, Default)]
pub struct FileAdapter {}

// === impl FileAdapter ===

impl FileAdapter {
    /// An adapter without open files.
    pub fn new() -> Self {
        Self::default()
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

    fn check_sink(&self, _config: &Node, _usage: SinkUse, _checker: &mut Checker<'_>) -> Option<CheckedSink> {
        None
    }
}

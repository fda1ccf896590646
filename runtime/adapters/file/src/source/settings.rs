//! What a version of a flow wants of its endpoint, resolved: what `take_over` replaces, all at once.

use std::{ffi::OsStr, io, sync::Arc, time::Duration};

use globset::GlobMatcher;
use gristmill_core::{Clock, observe::EndpointObserver, source::SourceError};

use super::work::Owner;
use crate::{
    config::{EmptyLines, FileOrder},
    configured::ConfiguredPath,
    fsys::{Permissions, RESERVED_PREFIX, make_folders},
};

/// The resolved settings of a source.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The flow, for the owner file.
    pub(crate) flow: Arc<str>,
    /// The folder that is read.
    pub(crate) directory: ConfiguredPath,
    /// Whether it is made when it is missing.
    pub(crate) create_directory: bool,
    pub(crate) matcher: GlobMatcher,
    pub(crate) order: FileOrder,
    pub(crate) settle: Duration,
    pub(crate) poll: Duration,
    pub(crate) read: Reading,
    pub(crate) content_type: Option<String>,
    pub(crate) done: AfterDone,
    pub(crate) failed: ConfiguredPath,
    pub(crate) in_flight: usize,
    pub(crate) release_delay: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) observer: Arc<dyn EndpointObserver>,
}

/// How a file becomes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    Whole { max_bytes: u64 },
    Lines { max_line_bytes: usize, empty_lines: EmptyLines },
}

/// What becomes of a file that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AfterDone {
    Move(ConfiguredPath),
    Delete,
}

/// Whether a pattern takes this name. Hidden files only when the pattern asks for them: a dot at the start is how many
/// programs name what they are still writing.
pub(crate) fn takes(pattern: &GlobMatcher, name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    !bytes.starts_with(RESERVED_PREFIX.as_bytes())
        && (!bytes.starts_with(b".") || may_be_hidden(pattern))
        && pattern.is_match(name)
}

/// Whether a pattern takes names that begin with a dot.
pub(crate) fn may_be_hidden(pattern: &GlobMatcher) -> bool {
    pattern.glob().glob().starts_with('.')
}

impl Settings {
    /// Whether a file of this name is taken.
    pub(crate) fn wants(&self, name: &OsStr) -> bool {
        takes(&self.matcher, name)
    }

    /// A claim to files of the folder, which is made if it is missing and may be.
    pub(crate) fn new_owner(&self) -> io::Result<Owner> {
        if self.create_directory {
            make_folders(self.directory.path(), Permissions::USUAL).map_err(|error| {
                let text = format!("it is missing and cannot be made: {error}");
                io::Error::new(error.kind(), text)
            })?;
        }
        Owner::new(self.directory.path(), &format!("flow {}", self.flow))
    }

    /// The error of a folder that cannot be worked in.
    pub(crate) fn cannot_read(&self, error: &io::Error) -> SourceError {
        let mend = if self.create_directory {
            "Mend `directory`, or let the process make, read and write it"
        } else {
            "Check that it exists, and that the process may read and write it"
        };
        SourceError::new(format!(
            "file source `{}`: the folder cannot be worked in: {error}. {mend}",
            self.directory
        ))
    }
}

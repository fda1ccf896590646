//! What a version wants of its endpoint, resolved: what `take_over` replaces, all at once.

use std::{ffi::OsStr, io, path::PathBuf, sync::Arc, time::Duration};

use globset::GlobMatcher;
use gristmill_core::{Clock, observe::EndpointObserver, source::SourceError};

use crate::{
    config::{FileOrder, Follow},
    configured::ConfiguredPath,
    fsys::{Permissions, make_folders},
    source::settings::takes,
};

/// The resolved settings of a source that follows files.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The folder that is read.
    pub(crate) directory: ConfiguredPath,
    /// Whether it is made when it is missing.
    pub(crate) create_directory: bool,
    pub(crate) matcher: GlobMatcher,
    /// In which order files that are met together are begun.
    pub(crate) order: FileOrder,
    pub(crate) poll: Duration,
    pub(crate) follow: Follow,
    /// The longest line: by its own setting and the flow's limit of bodies.
    pub(crate) max_line_bytes: usize,
    pub(crate) content_type: Option<String>,
    /// Where rejected lines are kept.
    pub(crate) failed: ConfiguredPath,
    /// Where the checkpoint is, and its lock beside it.
    pub(crate) checkpoint: PathBuf,
    pub(crate) in_flight: usize,
    pub(crate) release_delay: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) observer: Arc<dyn EndpointObserver>,
}

impl Settings {
    /// Whether a file of this name is followed.
    pub(crate) fn wants(&self, name: &OsStr) -> bool {
        takes(&self.matcher, name)
    }

    /// How long a file may rest before it is closed; or finished, if it was rotated away.
    pub(crate) fn rest(&self, is_rotated: bool) -> Duration {
        Duration::from_millis(if is_rotated {
            self.follow.rotated_wait_ms
        } else {
            self.follow.idle_close_ms
        })
    }

    /// Makes the folder that is read, if it is missing and may be made.
    pub(crate) fn make_directory(&self) -> io::Result<()> {
        if self.create_directory {
            make_folders(self.directory.path(), Permissions::USUAL)?;
        }
        Ok(())
    }

    /// The error of something that the source cannot do for now.
    pub(crate) fn cannot(&self, what: &str, error: &io::Error) -> SourceError {
        SourceError::new(format!("file source `{}`: {what}: {error}", self.directory))
    }
}

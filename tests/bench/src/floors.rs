//! The floors that are processes of their own, as commands of this program.

use anyhow::Result;
use clap::Subcommand;

use crate::file_lines;

/// A floor.
#[derive(Debug, Subcommand)]
pub(crate) enum Floor {
    /// Of the case `file-lines`.
    FileLines(file_lines::floor::Arguments),
}

impl Floor {
    /// Works until it is killed.
    ///
    /// # Errors
    /// Whatever it fails at.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::FileLines(arguments) => file_lines::floor::run(&arguments),
        }
    }
}

//! The floors that are processes of their own, as commands of this program.

use anyhow::Result;
use clap::Subcommand;

use crate::{amqp, file_lines, forwarding, mqtt};

/// A floor.
#[derive(Debug, Subcommand)]
pub(crate) enum Floor {
    /// Of the case `file-lines`.
    FileLines(file_lines::floor::Arguments),
    /// Of the case `amqp`.
    Amqp(forwarding::Arguments),
    /// Of the case `mqtt`.
    Mqtt(forwarding::Arguments),
}

impl Floor {
    /// Works until it is killed.
    ///
    /// # Errors
    /// Whatever it fails at.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::FileLines(arguments) => file_lines::floor::run(&arguments),
            Self::Amqp(arguments) => amqp::forwarder::run(&arguments),
            Self::Mqtt(arguments) => mqtt::forwarder::run(&arguments),
        }
    }
}

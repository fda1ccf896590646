//! The ends of a flow, outside of the runtime: who sends messages to its source, and who takes them from its sink. Each
//! talks to the broker, the listener or the folder directly, and writes down in the ledger what it was told and what it got.

pub mod amqp;
pub mod file;
pub mod http;
pub mod mqtt;

use std::{fmt, str::FromStr, thread::JoinHandle};

use anyhow::{Result, anyhow};
use serde::Serialize;

/// The protocol of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// HTTP requests.
    Http,
    /// Files.
    File,
    /// A queue of RabbitMQ.
    Amqp,
    /// A topic of Mosquitto.
    Mqtt,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Http, Self::File, Self::Amqp, Self::Mqtt];

    /// Whether a source of this kind has an order.
    pub fn is_ordered(self) -> bool {
        self != Self::Http
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::File => "file",
            Self::Amqp => "amqp",
            Self::Mqtt => "mqtt",
        })
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let kind = Self::ALL.into_iter().find(|kind| kind.to_string() == text);
        kind.ok_or_else(|| anyhow!("`{text}` is none of http, file, amqp, mqtt"))
    }
}

/// A thread that ends with what it did.
pub type Work = JoinHandle<Result<()>>;

/// Waits for the end of a thread.
///
/// # Errors
/// What it failed with.
pub fn join(work: Work) -> Result<()> {
    work.join().map_err(|_| anyhow!("a thread of the bench has panicked"))?
}

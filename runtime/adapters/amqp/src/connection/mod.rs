//! Connections: one value a name and configuration, shared by every source and sink that names it.
//!
//! | module | holds |
//! |---|---|
//! | [`spec`] | checked configuration |
//! | [`stream`] | TCP and TLS below the client library |
//! | [`inbound`] | what a broker sends, mended before the library reads it |
//! | [`link`] | one TCP connection, made again for ever |

mod inbound;
mod link;
mod spec;
mod stream;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use gristmill_core::connection::{Connection, ConnectionState};
use tokio_util::task::TaskTracker;

use self::link::Tally;
pub(crate) use self::{
    link::{Link, Session},
    spec::{AmqpConnectionSpec, check},
};

/// Every connection of the process that some source or sink holds.
#[derive(Debug, Default)]
pub(crate) struct Brokers {
    open: Mutex<HashMap<Key, Weak<Broker>>>,
    /// By name and role.
    tallies: Mutex<HashMap<Role, Weak<Tally>>>,
    /// Acknowledgements on their way.
    settling: TaskTracker,
}

/// Name and fingerprint.
type Key = (Arc<str>, Arc<str>);

/// The name of a connection, and what a link of it is for.
type Role = (Arc<str>, &'static str);

/// A broker, by two TCP connections: one that is short of memory stops reading where messages are published, and with that
/// acknowledgements as well.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) name: Arc<str>,
    pub(crate) fingerprint: Arc<str>,
    pub(crate) consuming: Link,
    pub(crate) publishing: Link,
}

// === impl Brokers ===

impl Brokers {
    /// The broker of a connection; it begins to connect when it is first wanted. To be called on a runtime.
    pub(crate) fn get(&self, connection: &Connection, spec: &Arc<AmqpConnectionSpec>) -> Arc<Broker> {
        let key = (Arc::clone(&connection.name), Arc::clone(&connection.fingerprint));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, broker| broker.strong_count() > 0);
        if let Some(broker) = open.get(&key).and_then(Weak::upgrade) {
            return broker;
        }
        let link = |role| {
            let tally = self.tally(&connection.name, role);
            Link::new(Arc::clone(&connection.name), role, Arc::clone(spec), tally)
        };
        let broker = Arc::new(Broker {
            name: Arc::clone(&connection.name),
            fingerprint: Arc::clone(&connection.fingerprint),
            consuming: link("consuming"),
            publishing: link("publishing"),
        });
        open.insert(key, Arc::downgrade(&broker));
        broker
    }

    /// The tasks that tell a broker how messages ended: the process waits for them before it ends.
    pub(crate) fn settling(&self) -> &TaskTracker {
        &self.settling
    }

    /// The counters of a name and role: those that are in use, so that a changed connection counts on.
    fn tally(&self, name: &Arc<str>, role: &'static str) -> Arc<Tally> {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.retain(|_, tally| tally.strong_count() > 0);
        let key = (Arc::clone(name), role);
        if let Some(tally) = tallies.get(&key).and_then(Weak::upgrade) {
            return tally;
        }
        let tally = Arc::new(Tally::default());
        tallies.insert(key, Arc::downgrade(&tally));
        tally
    }

    /// How every connection is that was wanted: one state a name and role, also while one with other settings takes the place
    /// of another.
    pub(crate) fn states(&self) -> Vec<ConnectionState> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let brokers: Vec<Arc<Broker>> = open.values().filter_map(Weak::upgrade).collect();
        drop(open);
        let links = brokers.iter().flat_map(|broker| [&broker.consuming, &broker.publishing]);
        let mut states: Vec<ConnectionState> = Vec::new();
        for state in links.filter_map(Link::state) {
            let same = |other: &&mut ConnectionState| other.name == state.name && other.role == state.role;
            match states.iter_mut().find(same) {
                None => states.push(state),
                Some(other) => {
                    other.is_up |= state.is_up;
                    other.problem = other.problem.take().or(state.problem).filter(|_| !other.is_up);
                    other.blocked = other.blocked.take().or(state.blocked);
                }
            }
        }
        states
    }
}

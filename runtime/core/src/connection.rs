//! Named connections: clients of a broker or a service that are configured once, in the runtime's configuration, and shared
//! by the flows that name them.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    path::PathBuf,
    sync::Arc,
};

/// Checked configuration of a connection. Nothing is open: what a connection opens hangs from its adapter, which finds it
/// by name and fingerprint, so that flows share it and a reload that does not change it does not touch it.
pub trait ConnectionSpec: Any + Send + Sync + Debug {
    /// The files that its configuration names (certificates): their content is part of its fingerprint.
    fn configuration_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// A connection that is defined.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The name by which flows know it.
    pub name: Arc<str>,
    /// The adapter that it is one of.
    pub adapter: &'static str,
    /// A hash of all it is made of, secrets and files included: two connections of one name and one fingerprint are one.
    pub fingerprint: Arc<str>,
    /// What the adapter made of its configuration.
    pub spec: Arc<dyn ConnectionSpec>,
}

/// How a network connection that hangs from a [`Connection`] is, for who shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionState {
    /// The name of the connection.
    pub name: Arc<str>,
    /// What this one of its network connections is for, in the words of the adapter.
    pub role: Arc<str>,
    /// Whether it is up.
    pub is_up: bool,
    /// Why it is not up, as far as is known.
    pub problem: Option<Arc<str>>,
    /// Why the broker does not read from it for now.
    pub blocked: Option<Arc<str>>,
    /// How often it has been made, the first time included.
    pub connects: u64,
    /// How often the broker has blocked it.
    pub blocks: u64,
}

/// The connections that flows may name.
#[derive(Debug, Default, Clone)]
pub struct Connections {
    good: BTreeMap<Arc<str>, Connection>,
    broken: Broken,
}

/// The connections of which only the name is known: that they cannot be used is a mistake where they are defined.
#[derive(Debug, Clone)]
enum Broken {
    /// Those of these names.
    Named(BTreeSet<Arc<str>>),
    /// Perhaps any: what defines them could not be read.
    Any,
}

/// What a source or a sink is checked with when there are no connections.
pub(crate) static NONE: Connections =
    Connections { good: BTreeMap::new(), broken: Broken::Named(BTreeSet::new()) };

// === impl Connection ===

impl Connection {
    /// What the adapter made of it; `None` when it is of another adapter.
    pub fn spec<C: ConnectionSpec>(&self) -> Option<Arc<C>> {
        let spec: Arc<dyn Any + Send + Sync> = Arc::clone(&self.spec) as _;
        spec.downcast().ok()
    }
}

/// By what they are made of.
impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.adapter, &self.fingerprint) == (&other.name, other.adapter, &other.fingerprint)
    }
}

impl Eq for Connection {}

// === impl Connections ===

impl Connections {
    /// None that are known, and perhaps some: what defines them could not be read.
    pub fn unread() -> Self {
        Self { good: BTreeMap::new(), broken: Broken::Any }
    }

    /// One more, of which nothing could be made.
    pub fn insert_broken(&mut self, name: &str) {
        if let Broken::Named(names) = &mut self.broken {
            names.insert(name.into());
        }
    }

    /// Whether a connection of that name is defined, as far as can be known, and nothing could be made of it.
    pub fn is_broken(&self, name: &str) -> bool {
        match &self.broken {
            Broken::Named(names) => names.contains(name),
            Broken::Any => !self.good.contains_key(name),
        }
    }

    /// One more. One of the same name is replaced.
    pub fn insert(&mut self, connection: Connection) {
        self.good.insert(Arc::clone(&connection.name), connection);
    }

    /// The connection of that name.
    pub fn get(&self, name: &str) -> Option<&Connection> {
        self.good.get(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.good.values()
    }
}

impl Default for Broken {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

/// By what they are made of.
impl PartialEq for Connections {
    fn eq(&self, other: &Self) -> bool {
        self.good == other.good
    }
}

impl Eq for Connections {}

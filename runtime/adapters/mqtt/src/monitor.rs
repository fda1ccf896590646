//! How the clients are doing, for who shows it: one monitor for each name and role, whichever versions of flows come and go.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use gristmill_core::connection::ConnectionState;

/// The monitors of all clients that are wanted.
#[derive(Debug, Default)]
pub(crate) struct Monitors(Mutex<BTreeMap<Key, Weak<Monitor>>>);

/// The name of a connection, and what a client of it is for.
type Key = (Arc<str>, Arc<str>);

/// Notes how a client is doing.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    /// For a moment there are two, when a client takes the place of another.
    links: AtomicUsize,
    connects: AtomicU64,
    problem: Mutex<Option<Arc<str>>>,
}

/// A link that is up, until this is dropped.
#[derive(Debug)]
pub(crate) struct Up(Arc<Monitor>);

// === impl Monitors ===

impl Monitors {
    /// The monitor for a client.
    pub(crate) fn get(&self, connection: &Arc<str>, role: &str) -> Arc<Monitor> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, monitor| monitor.strong_count() > 0);
        let key = (Arc::clone(connection), role.into());
        if let Some(monitor) = all.get(&key).and_then(Weak::upgrade) {
            return monitor;
        }
        let monitor = Arc::new(Monitor::default());
        all.insert(key, Arc::downgrade(&monitor));
        monitor
    }

    pub(crate) fn states(&self) -> Vec<ConnectionState> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = all.iter().filter_map(|(key, monitor)| Some((key, monitor.upgrade()?)));
        wanted.map(|((name, role), monitor)| monitor.state(name, role)).collect()
    }
}

// === impl Monitor ===

impl Monitor {
    /// The client is connected.
    pub(crate) fn up(self: &Arc<Self>) -> Up {
        self.links.fetch_add(1, Ordering::Relaxed);
        self.connects.fetch_add(1, Ordering::Relaxed);
        self.note(None);
        Up(Arc::clone(self))
    }

    /// The client could not be connected.
    pub(crate) fn failed(&self, why: &str) {
        self.note(Some(why.into()));
    }

    fn note(&self, problem: Option<Arc<str>>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    fn state(&self, name: &Arc<str>, role: &Arc<str>) -> ConnectionState {
        ConnectionState {
            name: Arc::clone(name),
            role: Arc::clone(role),
            is_up: self.links.load(Ordering::Relaxed) > 0,
            problem: self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            // MQTT brokers have no word for it.
            blocked: None,
            connects: self.connects.load(Ordering::Relaxed),
            blocks: 0,
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.links.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_up_while_one_of_its_links_is_and_forgotten_with_the_last_who_wants_it() {
        let (monitors, name) = (Monitors::default(), Arc::<str>::from("plant"));
        let monitor = monitors.get(&name, "sinks");
        monitor.failed("refused");
        let state = || monitors.states().pop().unwrap();
        assert_eq!(
            (state().is_up, state().problem.as_deref(), state().connects),
            (false, Some("refused"), 0)
        );
        let first = monitor.up();
        let second = monitors.get(&name, "sinks").up();
        drop(first);
        assert_eq!((state().is_up, state().problem, state().connects), (true, None, 2));
        drop(second);
        assert!(!state().is_up);
        drop(monitor);
        assert_eq!(monitors.states(), []);
    }
}

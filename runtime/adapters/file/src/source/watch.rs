//! Being told of changes in the folder. Only a quicker way to what polling finds as well: where the system does not tell
//! (network file systems, no watches left), nothing is missed, only later.

use std::sync::Arc;

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::Notify;

use crate::configured::ConfiguredPath;

/// Watches for as long as it is kept.
pub(crate) struct Watch {
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Begins to watch; `None` where that is not possible.
    pub(crate) fn new(directory: &ConfiguredPath, changed: Arc<Notify>) -> Option<Self> {
        let begin = || -> notify::Result<RecommendedWatcher> {
            let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // An error may mean that events were lost: look.
                if event.map_or(true, |event| matters(event.kind)) {
                    changed.notify_one();
                }
            })?;
            watcher.watch(directory.path(), RecursiveMode::NonRecursive)?;
            Ok(watcher)
        };
        begin()
            .map_err(|error| {
                // Without the paths that it is about.
                let error = notify::Error::new(error.kind);
                tracing::info!(
                    directory = directory.written(), %error,
                    "the system does not tell of changes here: the folder is polled"
                );
            })
            .ok()
            .map(|watcher| Self { _watcher: watcher })
    }
}

/// Whether a file may be there, or be complete, that was not.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        EventKind::Remove(_) => false,
        _ => true,
    }
}

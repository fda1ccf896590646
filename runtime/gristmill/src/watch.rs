//! Notices that files have changed, and says so once they rest.
//!
//! The system's notices are only a hint: what is looked at is a fingerprint of the folders (names, sizes, times, modes), so that a
//! lost notice is made up for by the next poll, and a touched file that is the same in the end starts nothing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use crate::{files, settings::Settings};

/// How many debounce times a reload is put off at the most.
const MAX_DEBOUNCES: usize = 20;

/// Watches the folders of flows and plugins and the configuration file.
pub(crate) struct Watcher {
    /// Kept, because dropping it ends the notices.
    _notices: Option<RecommendedWatcher>,
    hints: mpsc::Receiver<()>,
    folders: Vec<PathBuf>,
    file: PathBuf,
    debounce: Duration,
    poll: Duration,
    enabled: bool,
    seen: Fingerprint,
}

/// Size, time, number and mode of each file; of a folder, that it is there.
type Fingerprint = BTreeMap<PathBuf, Option<(u64, Option<SystemTime>, u64, u32)>>;

impl Watcher {
    /// Begins to watch. Where the system gives no notices, polling alone does it.
    pub(crate) fn start(settings: &Settings) -> Self {
        // One hint that waits is as good as many.
        let (hint, hints) = mpsc::channel(1);
        let folders = vec![settings.flows.clone(), settings.plugins.clone()];
        let notices = settings.watch.enabled.then(|| notices(&folders, &settings.file, hint)).flatten();
        let mut watcher = Self {
            _notices: notices,
            hints,
            folders,
            file: settings.file.clone(),
            debounce: Duration::from_millis(settings.watch.debounce_ms),
            poll: Duration::from_millis(settings.watch.poll_ms),
            enabled: settings.watch.enabled,
            seen: Fingerprint::new(),
        };
        watcher.seen = watcher.look();
        watcher
    }

    /// Waits until something is different and has rested for the debounce time. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        if !self.enabled {
            return std::future::pending().await;
        }
        loop {
            tokio::select! {
                hint = self.hints.recv() => if hint.is_none() {
                    // No notices from this system: only the poll below is left.
                    tokio::time::sleep(self.poll).await;
                },
                () = tokio::time::sleep(self.poll) => {}
            }
            let mut now = self.look();
            if now == self.seen {
                continue;
            }
            // A file that never rests must not put every reload off.
            for _ in 0..MAX_DEBOUNCES {
                tokio::time::sleep(self.debounce).await;
                let later = self.look();
                if later == now {
                    break;
                }
                now = later;
            }
            self.seen = now;
            return;
        }
    }

    fn look(&self) -> Fingerprint {
        let mut found = Fingerprint::new();
        for folder in &self.folders {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            found.insert(folder.clone(), None);
            for path in entries.flatten().map(|entry| entry.path()) {
                if files::is_yaml(&path) || path.extension().is_some_and(|extension| extension == "wasm") {
                    note(&mut found, path);
                }
            }
        }
        note(&mut found, self.file.clone());
        found
    }
}

fn note(found: &mut Fingerprint, path: PathBuf) {
    use std::os::unix::fs::MetadataExt;
    // Of a link to nowhere, the link itself: that it is there is a mistake to be shown.
    if let Ok(metadata) = path.metadata().or_else(|_| path.symlink_metadata()) {
        let seen = (metadata.len(), metadata.modified().ok(), metadata.ino(), metadata.mode());
        found.insert(path, Some(seen));
    }
}

fn notices(folders: &[PathBuf], file: &Path, hint: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !matches!(event.kind, notify::EventKind::Access(_))) {
            // Full means that a hint waits already.
            let _full = hint.try_send(());
        }
    };
    let mut watcher = notify::recommended_watcher(handler)
        .inspect_err(|e| {
            tracing::warn!("files are polled, because the system gives no notice of changes: {e}")
        })
        .ok()?;
    // The folder of the configuration file rather than the file: editors replace files.
    let folders = folders.iter().map(PathBuf::as_path).chain(file.parent());
    for folder in folders {
        if let Err(e) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::debug!("{} is polled: {e}", folder.display());
        }
    }
    Some(watcher)
}

//! Which files of the folder are ready to be taken: regular files that the pattern wants and that have rested.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ffi::OsString,
    fs, io,
    time::SystemTime,
};

use tokio::time::Instant;

use super::settings::Settings;
use crate::{config::FileOrder, fsys::name_text};

/// The most files that one listing keeps; the first ones in order. The others are found by a later one.
const MAX_LISTED: usize = 10_000;

/// The most names that are remembered as warned of.
const MAX_WARNED: usize = 1_000;

/// A file that can be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) name: OsString,
    pub(crate) size: u64,
    pub(crate) modified: SystemTime,
}

/// What the last look into the folder found.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    ready: VecDeque<Candidate>,
    settling: HashMap<OsString, Seen>,
    warned: HashSet<OsString>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    size: u64,
    modified: SystemTime,
    since: Instant,
}

impl Listing {
    /// The next file that is ready, as of the last look.
    pub(crate) fn pop(&mut self) -> Option<Candidate> {
        self.ready.pop_front()
    }

    /// The file changed after it was listed: its rest begins anew.
    pub(crate) fn unsettle(&mut self, name: &OsString) {
        self.settling.remove(name);
    }

    /// Whether this is the first time that a warning of this file is due.
    pub(crate) fn warn_once(&mut self, name: &OsString) -> bool {
        self.warned.len() < MAX_WARNED && self.warned.insert(name.clone())
    }

    /// Looks into the folder. Gives the moment at which the first of the files that are not ready yet may be.
    pub(crate) fn scan(&mut self, settings: &Settings, now: Instant) -> io::Result<Option<Instant>> {
        let mut found = self.list(settings)?;
        if settings.order == FileOrder::Name {
            keep_first(&mut found, settings.order, MAX_LISTED);
            found.retain_mut(|candidate| {
                fs::symlink_metadata(settings.directory.path().join(&candidate.name)).is_ok_and(|metadata| {
                    candidate.size = metadata.len();
                    candidate.modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    metadata.is_file()
                })
            });
        }
        keep_first(&mut found, settings.order, MAX_LISTED);
        let mut earliest = None;
        let mut settling = HashMap::new();
        self.ready.clear();
        for candidate in found {
            let Candidate { size, modified, .. } = candidate;
            let since = match self.settling.get(&candidate.name) {
                Some(seen) if (seen.size, seen.modified) == (size, modified) => seen.since,
                _ => now,
            };
            let rested_at = since + settings.settle;
            if settings.settle.is_zero() || rested_at <= now {
                self.ready.push_back(candidate);
            } else {
                earliest = Some(earliest.map_or(rested_at, |e: Instant| e.min(rested_at)));
                settling.insert(candidate.name, Seen { size, modified, since });
            }
        }
        self.settling = settling;
        Ok(earliest)
    }

    /// Every regular file that is wanted; with size and time only where the order needs them to choose.
    fn list(&mut self, settings: &Settings) -> io::Result<Vec<Candidate>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(settings.directory.path())? {
            let entry = entry?;
            let name = entry.file_name();
            if !settings.wants(&name) {
                continue;
            }
            // What vanished since the folder was read is none of ours.
            let Ok(kind) = entry.file_type() else { continue };
            if !kind.is_file() {
                if !kind.is_dir() && self.warn_once(&name) {
                    let what = if kind.is_symlink() { "a symbolic link" } else { "not a regular file" };
                    tracing::warn!(
                        file = name_text(&name),
                        directory = settings.directory.written(),
                        "left where it is: it is {what}"
                    );
                }
                continue;
            }
            let (size, modified) = match settings.order {
                FileOrder::Name => (0, SystemTime::UNIX_EPOCH),
                FileOrder::Modified => {
                    let Ok(metadata) = entry.metadata() else { continue };
                    (metadata.len(), metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH))
                }
            };
            found.push(Candidate { name, size, modified });
            if found.len() >= 2 * MAX_LISTED {
                keep_first(&mut found, settings.order, MAX_LISTED);
            }
        }
        Ok(found)
    }
}

/// Sorts, and keeps the first `most`.
fn keep_first(found: &mut Vec<Candidate>, order: FileOrder, most: usize) {
    found.sort_unstable_by(|a, b| match order {
        FileOrder::Name => a.name.cmp(&b.name),
        FileOrder::Modified => (a.modified, &a.name).cmp(&(b.modified, &b.name)),
    });
    found.truncate(most);
}

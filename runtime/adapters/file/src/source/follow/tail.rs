//! The blocking half of the source: looks into the folder, opens, reads and gives up files, a batch at a time, off the async
//! threads.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs::{self, Metadata},
    io,
    os::unix::fs::{DirEntryExt, MetadataExt},
    sync::Arc,
    time::{Duration, SystemTime},
};

use globset::{GlobBuilder, GlobMatcher};
use gristmill_core::source::SourceError;
use tokio::time::Instant;

use super::{
    followed::{Batch, Followed, ReadOn, Reopened, before},
    incarnation::{Incarnation, Piece},
    settings::Settings,
    shared::Shared,
};
use crate::{
    config::{FileOrder, StartAt},
    fsys::{end_of_last_line, name_text, open_no_follow},
};

/// The most files that are known at once, those included that are gone.
const MAX_KNOWN: usize = 10_000;

/// How long a file is remembered that is not in the folder any more, in milliseconds. It may come back: a disk that was not
/// mounted, a name that was changed for a while.
const GONE_MS: u64 = 24 * 3_600_000;

/// The folder is not listed again before this long, however often something changes in it.
const LOOK_GAP: Duration = Duration::from_millis(100);

/// The most names that are remembered as warned of.
const MAX_WARNED: usize = 1_000;

/// What a batch came to.
#[derive(Debug)]
pub(crate) struct Produced {
    pub(crate) pieces: Vec<Piece>,
    /// When to ask for the next batch.
    pub(crate) again_at: Instant,
    /// Whether to ask before that, when something has settled: too much of a file is unsettled to read on.
    pub(crate) waits_for_settlement: bool,
    /// Whether the folder was looked into.
    pub(crate) has_looked: bool,
}

/// What reading came to, beside lines.
#[derive(Default)]
struct Progress {
    /// A file waits for settlements.
    is_full: bool,
    /// A file goes on as another, which has to be noted first.
    again: bool,
    /// The files that are known are others.
    is_changed: bool,
}

/// By name, the inode number of the file that had it before.
#[derive(Debug, Default)]
struct Predecessors {
    /// As of the last look.
    then: HashMap<String, u64>,
    /// When it was met: a file may have been renamed some looks ago, and the one of its name be made only now. The last one
    /// counts.
    first: HashMap<String, u64>,
}

/// Looks, opens and reads.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// Whether it knows what is known.
    has_begun: bool,
    files: Vec<Followed>,
    /// Which file is read first in the next batch: each in turn.
    turn: usize,
    next_number: u64,
    /// What was read while the checkpoint could not be written.
    unoffered: Vec<Piece>,
    looked_at: Option<Instant>,
    warned: HashSet<OsString>,
}

/// A file in the folder.
struct Found {
    name: OsString,
    metadata: Metadata,
    is_wanted: bool,
}

/// Which file is which.
#[derive(Default)]
struct Known {
    /// By device and inode number.
    by_id: HashMap<(u64, u64), usize>,
    /// By inode number alone, those of devices that are not there: a device may have been given another number.
    of_no_device: HashMap<u64, usize>,
}

impl Tail {
    /// The next batch. `hint` says that something has changed in the folder.
    pub(crate) fn produce(
        &mut self,
        shared: &Shared,
        now: Instant,
        hint: bool,
    ) -> Result<Produced, SourceError> {
        let settings = shared.settings();
        let cannot = |error: io::Error| {
            let what = format!("the checkpoint `{}` cannot be worked with", settings.checkpoint.display());
            settings.cannot(&what, &error)
        };
        if !self.has_begun {
            // After a fault of a tail before this one, what that one knew.
            let entries = shared.open().map_err(cannot)?.unwrap_or_else(|| shared.entries());
            let known = entries.into_iter().map(|entry| Incarnation::known(entry, &settings));
            self.files = known.map(|life| Followed::new(Arc::new(life))).collect();
            let mut had = Predecessors::default();
            for file in &mut self.files {
                file.predecessor = had.of(file);
                had.add(file);
            }
            self.note(shared, shared.pattern());
            self.has_begun = true;
        }
        let gap = if hint { LOOK_GAP } else { settings.poll };
        let has_looked = self.looked_at.is_none_or(|at| now >= at + gap);
        let looked = if has_looked { self.look(shared, &settings, now) } else { Ok(()) };
        let mut batch = Batch::new(self.next_number, std::mem::take(&mut self.unoffered));
        let progress = match batch.is_empty() {
            true => self.read(shared, &settings, &mut batch, now),
            false => Progress { again: true, ..Progress::default() },
        };
        self.next_number = batch.next_number;
        // Before anything is offered of a file that was met, so that it has the same ids when it is offered again, and what
        // it begins with, so that no other file gets them.
        if let Err(error) = shared.save() {
            self.unoffered = batch.pieces;
            return Err(cannot(error));
        }
        if batch.is_empty() && !progress.again {
            // What is open is read on, though the folder cannot be looked into.
            looked?;
        }
        let again = !batch.is_empty() || progress.again;
        let look_at = self.looked_at.map_or(now, |at| at + gap);
        Ok(Produced {
            pieces: batch.pieces,
            again_at: if again { now } else { look_at.max(now) },
            waits_for_settlement: progress.is_full,
            has_looked,
        })
    }

    /// The files are closed; what is known of them stays.
    pub(crate) fn close(&mut self) {
        self.files.clear();
    }

    /// How many files are known.
    #[cfg(test)]
    pub(crate) fn known(&self) -> usize {
        self.files.len()
    }

    /// Tells the checkpoint of what is known.
    fn note(&self, shared: &Shared, pattern: Option<String>) {
        shared.set_files(pattern, self.files.iter().map(|file| Arc::clone(&file.life)).collect());
    }

    /// Looks into the folder: which files are new, which were renamed, which are gone.
    fn look(&mut self, shared: &Shared, settings: &Settings, now: Instant) -> Result<(), SourceError> {
        let cannot = |error: io::Error| settings.cannot("the folder cannot be read", &error);
        self.looked_at = Some(now);
        let mut found = settings.make_directory().and_then(|()| self.list(settings)).map_err(cannot)?;
        let pattern = settings.matcher.glob().glob();
        let before = shared.pattern();
        let mut is_changed = before.as_deref() != Some(pattern);
        // Names that were wanted the last time: files of such a name that are not known have appeared since.
        let looked_for = before.as_deref().and_then(matcher);
        match settings.order {
            FileOrder::Name => found.sort_by(|a, b| a.name.cmp(&b.name)),
            FileOrder::Modified => {
                let modified = |found: &Found| found.metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.sort_by(|a, b| (modified(a), &a.name).cmp(&(modified(b), &b.name)));
            }
        }
        let mut had = Predecessors::default();
        for file in &mut self.files {
            file.was_named = file.name.take();
            file.is_wanted = false;
            had.add(file);
        }
        let known = Known::new(&self.files, &found);
        let millis = settings.clock.now().as_millis();
        for found in found {
            match known.find(&found).and_then(|index| self.files.get_mut(index)) {
                Some(file) => {
                    see(file, &found, millis);
                }
                None if found.is_wanted => {
                    is_changed |= self.meet(&found, looked_for.as_ref(), &had, settings);
                }
                None => {}
            }
        }
        is_changed |= self.forget(millis);
        if is_changed {
            self.note(shared, Some(pattern.to_owned()));
        }
        Ok(())
    }

    /// Every regular file whose name is wanted, or that is known from before.
    fn list(&mut self, settings: &Settings) -> io::Result<Vec<Found>> {
        let known: HashSet<u64> = self.files.iter().map(|file| file.life.inode).collect();
        let mut found = Vec::new();
        for entry in fs::read_dir(settings.directory.path())? {
            let entry = entry?;
            let name = entry.file_name();
            let is_wanted = settings.wants(&name);
            if !is_wanted && !known.contains(&entry.ino()) {
                continue;
            }
            // What vanished since the folder was read is none of ours.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() {
                found.push(Found { name, metadata, is_wanted });
            } else if !metadata.is_dir() && is_wanted {
                let what = if metadata.is_symlink() { "a symbolic link" } else { "not a regular file" };
                warn_once(&mut self.warned, settings, &name, &format!("it is {what}"));
            }
        }
        Ok(found)
    }

    /// Begins to follow a file.
    fn meet(
        &mut self,
        found: &Found,
        looked_for: Option<&GlobMatcher>,
        had: &Predecessors,
        settings: &Settings,
    ) -> bool {
        if self.files.len() >= MAX_KNOWN && !self.make_room() {
            let why = "so many files are followed already: more are not taken";
            warn_once(&mut self.warned, settings, &OsString::new(), why);
            return false;
        }
        let has_appeared = looked_for.is_some_and(|pattern| pattern.is_match(&found.name));
        let at_end = settings.follow.start_at == StartAt::End && !has_appeared;
        let begun = open_no_follow(settings.directory.path().join(&found.name).as_path()).and_then(|input| {
            let metadata = input.metadata()?;
            let offset = if at_end { end_of_last_line(&input, metadata.len())? } else { 0 };
            let name = name_text(&found.name);
            Ok(Incarnation::begin(name, &metadata, offset, &before(&input, offset)?, settings))
        });
        match begun {
            // Another one took the name this moment: the next look will tell.
            Ok(life) if life.inode != found.metadata.ino() => false,
            Ok(life) => {
                let mut file = Followed::met(Arc::new(life), found.name.clone());
                self.put_behind(&mut file, had);
                self.files.push(file);
                true
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    let why = format!("it cannot be opened: {error}. The process needs read permission");
                    warn_once(&mut self.warned, settings, &found.name, &why);
                }
                false
            }
        }
    }

    /// Has a file that begins read after the one that had its name before.
    fn put_behind(&mut self, file: &mut Followed, had: &Predecessors) {
        file.predecessor = had.of(file);
        if let Some(inode) = file.predecessor
            && let Some(before) = self.files.iter_mut().find(|file| file.life.inode == inode)
        {
            before.read_anew();
        }
    }

    /// Forgets the file that has been gone for longest. Whether there is one.
    fn make_room(&mut self) -> bool {
        let gone = self
            .files
            .iter()
            .enumerate()
            .filter(|(_, file)| !file.is_open() && !file.is_wanted && file.is_settled());
        let Some((index, _)) = gone.min_by_key(|(_, file)| file.life.state().seen_ms) else { return false };
        self.files.remove(index);
        true
    }

    /// Forgets files that were deleted or have been gone for long. Whether there were any.
    fn forget(&mut self, now_ms: u64) -> bool {
        let before = self.files.len();
        self.files.retain(|file| {
            let gone_for = now_ms.saturating_sub(file.life.state().seen_ms);
            let is_past = file.is_gone || gone_for >= GONE_MS;
            file.name.is_some() || file.is_open() || !file.is_settled() || !is_past
        });
        self.files.len() != before
    }

    /// Reads on, beginning with the file whose turn it is.
    fn read(&mut self, shared: &Shared, settings: &Settings, batch: &mut Batch, now: Instant) -> Progress {
        let mut progress = Progress::default();
        let count = self.files.len();
        let begin = self.turn;
        for index in (0..count).map(|step| (begin + step) % count) {
            if batch.is_full() {
                break;
            }
            self.turn = index + 1;
            if !self.waits_for_predecessor(index) && self.open(index, settings, now, &mut progress) {
                self.read_file(index, shared, settings, batch, now, &mut progress);
            }
        }
        if progress.is_changed {
            self.note(shared, shared.pattern());
        }
        progress
    }

    /// Whether the file that had its name before is still to be read.
    fn waits_for_predecessor(&mut self, index: usize) -> bool {
        let Some(inode) = self.files.get(index).and_then(|file| file.predecessor) else { return false };
        let waits = self.files.iter().any(|file| file.life.inode == inode && file.is_behind());
        if !waits && let Some(file) = self.files.get_mut(index) {
            file.predecessor = None;
        }
        waits
    }

    /// Whether the file is open, which it becomes if it has to be looked into and there is room.
    fn open(&mut self, index: usize, settings: &Settings, now: Instant, progress: &mut Progress) -> bool {
        let Some(file) = self.files.get(index) else { return false };
        if file.is_open() || !file.wants_open {
            return file.is_open();
        }
        let open = self.files.iter().filter(|file| file.is_open()).count();
        if open >= settings.follow.max_files && !self.close_one() {
            return false;
        }
        let Some(file) = self.files.get_mut(index) else { return false };
        let Some(name) = file.name.clone() else { return false };
        match file.reopen(&settings.directory.path().join(&name), settings, now) {
            Ok(Reopened::Same) => true,
            Ok(Reopened::Elsewhere) => false,
            Ok(Reopened::Another(metadata)) => {
                tracing::info!(
                    file = name_text(&name),
                    "it was truncated, written anew or replaced while it was closed: it is read from its beginning"
                );
                progress.is_changed = true;
                if file.is_wanted {
                    let life = Incarnation::begin(name_text(&name), &metadata, 0, &[], settings);
                    let mut file = Followed::met(Arc::new(life), name);
                    // It is met now, and so is the last one.
                    self.files.remove(index);
                    let mut had = Predecessors::default();
                    for other in &mut self.files {
                        // The one that it waited for is no more, and this one waits for it.
                        other.predecessor.take_if(|before| *before == file.life.inode);
                        had.add(other);
                    }
                    self.put_behind(&mut file, &had);
                    self.files.push(file);
                    progress.again = true;
                } else {
                    file.is_gone = true;
                }
                false
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    let why = format!("it cannot be opened: {error}. The process needs read permission");
                    warn_once(&mut self.warned, settings, &name, &why);
                }
                false
            }
        }
    }

    /// Closes the file that has rested for longest: rather one that is still there, for it is found again. Whether there is
    /// one.
    fn close_one(&mut self) -> bool {
        let resting =
            self.files.iter_mut().filter_map(|file| Some((!file.is_wanted, file.resting_since()?, file)));
        let longest = resting.min_by_key(|(is_leaving, since, _)| (*is_leaving, *since));
        longest.map(|(_, _, file)| file.close()).is_some()
    }

    fn read_file(
        &mut self,
        index: usize,
        shared: &Shared,
        settings: &Settings,
        batch: &mut Batch,
        now: Instant,
        progress: &mut Progress,
    ) {
        let Some(file) = self.files.get_mut(index) else { return };
        match file.read(shared, batch, now) {
            Ok(ReadOn::Later) => {}
            Ok(ReadOn::Full) => progress.is_full = true,
            Ok(ReadOn::End) => {
                let is_rotated = file.is_rotated();
                if file.resting_since().is_some_and(|since| now >= since + settings.rest(is_rotated)) {
                    if is_rotated && let Err(error) = file.read_tail(shared, batch) {
                        tracing::warn!(file = file.life.name, %error, "the end of a file cannot be read");
                    }
                    file.is_gone = file.is_deleted();
                    progress.is_changed |= file.is_gone;
                    file.close();
                }
            }
            Ok(ReadOn::Truncated) => {
                tracing::info!(
                    file = file.life.name,
                    "it was truncated or written anew: it is read from its beginning"
                );
                match file.restart(settings, now) {
                    Ok(()) => (progress.is_changed, progress.again) = (true, true),
                    Err(error) => tracing::warn!(file = file.life.name, %error, "it cannot be read"),
                }
            }
            Err(error) => {
                let why = format!("it cannot be read: {error}. It is tried again");
                warn_once(&mut self.warned, settings, &OsString::from(&file.life.name), &why);
            }
        }
    }
}

impl Predecessors {
    fn add(&mut self, file: &Followed) {
        if let Some(name) = file.was_named.as_deref() {
            self.then.insert(name_text(name), file.life.inode);
        }
        self.first.insert(file.life.name.clone(), file.life.inode);
    }

    /// That of a file which begins under its name.
    fn of(&self, file: &Followed) -> Option<u64> {
        let name = &file.life.name;
        let before = self.then.get(name).or_else(|| self.first.get(name)).copied();
        // One inode number of two devices would wait for itself.
        before.filter(|before| *before != file.life.inode)
    }
}

impl Known {
    fn new(files: &[Followed], found: &[Found]) -> Self {
        let devices: HashSet<u64> = found.iter().map(|found| found.metadata.dev()).collect();
        let mut known = Self::default();
        for (index, file) in files.iter().enumerate() {
            let device = file.life.state().device;
            known.by_id.insert((device, file.life.inode), index);
            if !devices.contains(&device) {
                known.of_no_device.insert(file.life.inode, index);
            }
        }
        known
    }

    /// Which of the files that are known it is.
    fn find(&self, found: &Found) -> Option<usize> {
        let (device, inode) = (found.metadata.dev(), found.metadata.ino());
        self.by_id.get(&(device, inode)).or_else(|| self.of_no_device.get(&inode)).copied()
    }
}

/// A file that is known is in the folder.
fn see(file: &mut Followed, found: &Found, now_ms: u64) {
    {
        let mut state = file.life.state();
        (state.seen_ms, state.device) = (now_ms, found.metadata.dev());
    }
    // By another of its names; the one that is wanted counts.
    if file.is_wanted {
        return;
    }
    file.name = Some(found.name.clone());
    file.is_wanted = found.is_wanted;
    // It was not renamed: other names are wanted now.
    let is_dropped = !found.is_wanted
        && match &file.was_named {
            Some(name) => *name == found.name && !file.is_leaving,
            None => file.life.name == name_text(&found.name),
        };
    file.is_leaving = !found.is_wanted && !is_dropped;
    if is_dropped {
        file.close();
    }
    file.wants_open = !file.is_open() && !is_dropped && file.has_changed(&found.metadata);
}

fn warn_once(warned: &mut HashSet<OsString>, settings: &Settings, name: &OsString, why: &str) {
    if warned.len() < MAX_WARNED && warned.insert(name.clone()) {
        tracing::warn!(
            file = name_text(name),
            directory = settings.directory.written(),
            "not followed: {why}"
        );
    }
}

fn matcher(pattern: &str) -> Option<GlobMatcher> {
    Some(GlobBuilder::new(pattern).literal_separator(true).build().ok()?.compile_matcher())
}

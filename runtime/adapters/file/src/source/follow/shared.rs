//! What the parts of the endpoint share: settlements, and the flush that brings them to disk.
//!
//! Settling a message does nothing but note itself in memory and wake the flush, so it never blocks whoever settles. What is
//! offered, what waits to be offered again, and what is settled and not yet on disk count as in flight together: so memory is
//! bounded, and a crash repeats at most `in_flight` messages.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use gristmill_core::{Acknowledgement, Clock, Outcome, Settlement};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::{
    checkpoint::{Checkpoint, Entry, Store},
    incarnation::{Content, Incarnation, Piece, Rejection},
    settings::Settings,
};
use crate::source::{
    claimed::Reason,
    keep::{self, RejectedLine},
    shared::Room,
};

/// How long settlements are gathered before they are written, unless many come.
const GATHER: Duration = Duration::from_millis(20);

/// How long the flush waits after it has failed (a full disk, a missing permission).
const FLUSH_RETRY: Duration = Duration::from_secs(1);

/// What the parts of the endpoint share.
#[derive(Debug)]
pub(crate) struct Shared {
    settings: Mutex<Arc<Settings>>,
    place: Mutex<Place>,
    book: Mutex<Book>,
    /// How many messages are offered, or wait to be offered again.
    unsettled: AtomicUsize,
    /// How many messages have settled that the disk does not know of.
    unnoted: AtomicUsize,
    closed: AtomicBool,
    /// Woken when `next` may have something to do that it had not.
    pub(crate) changed: Notify,
    wake_flush: Notify,
    hurry_flush: Notify,
}

/// Where the checkpoint is kept.
#[derive(Debug)]
enum Place {
    /// It has not been opened yet.
    Unopened,
    Held(Store),
    /// The source has been dropped: nothing on disk may be touched any more.
    GivenUp,
}

#[derive(Debug, Default)]
struct Book {
    /// The pattern that the folder was last looked through with.
    pattern: Option<String>,
    /// What the checkpoint tells of.
    files: Vec<Arc<Incarnation>>,
    /// Whether that has changed since it was last written.
    is_unsaved: bool,
    /// Those of which something has settled.
    dirty: Vec<Arc<Incarnation>>,
    /// How many settlements of [`Shared::unnoted`] the next checkpoint that is written tells of.
    owed: usize,
    /// Why something could not be brought to disk; none when everything could.
    trouble: Option<String>,
    /// Released messages, by when they are due.
    retries: BTreeMap<(Instant, u64), Piece>,
    /// Those that are due, in the order in which they were read.
    due: BTreeMap<u64, Piece>,
}

impl Shared {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings: Mutex::new(settings),
            place: Mutex::new(Place::Unopened),
            book: Mutex::default(),
            unsettled: AtomicUsize::new(0),
            unnoted: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            changed: Notify::new(),
            wake_flush: Notify::new(),
            hurry_flush: Notify::new(),
        }
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&lock(&self.settings))
    }

    pub(crate) fn set_settings(&self, settings: Arc<Settings>) {
        *lock(&self.settings) = settings;
        self.changed.notify_one();
    }

    /// From now on nothing is offered again.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let mut book = lock(&self.book);
        book.retries.clear();
        book.due.clear();
    }

    /// Takes the place of the checkpoint, if that has not been done. Gives what it told of, the first time.
    pub(crate) fn open(&self) -> io::Result<Option<Vec<Entry>>> {
        let mut place = lock(&self.place);
        if !matches!(&*place, Place::Unopened) {
            return Ok(None);
        }
        let (store, checkpoint) = Store::open(&self.settings().checkpoint)?;
        *place = Place::Held(store);
        lock(&self.book).pattern = checkpoint.pattern;
        Ok(Some(checkpoint.files))
    }

    /// What the next checkpoint would tell of.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let files = lock(&self.book).files.clone();
        files.iter().map(|file| file.entry()).collect()
    }

    /// The pattern that the folder was last looked through with.
    pub(crate) fn pattern(&self) -> Option<String> {
        lock(&self.book).pattern.clone()
    }

    /// Sets what the checkpoint tells of. It is written with the next flush, or [`save`](Self::save).
    pub(crate) fn set_files(&self, pattern: Option<String>, files: Vec<Arc<Incarnation>>) {
        let mut book = lock(&self.book);
        book.pattern = pattern;
        book.files = files;
        book.is_unsaved = true;
    }

    /// What the checkpoint tells of has changed.
    pub(crate) fn mark_unsaved(&self) {
        lock(&self.book).is_unsaved = true;
    }

    /// Writes the checkpoint, if it tells of other files than the one on disk. Blocks.
    pub(crate) fn save(&self) -> io::Result<()> {
        let place = lock(&self.place);
        let is_unsaved = lock(&self.book).is_unsaved;
        match &*place {
            Place::Held(store) if is_unsaved => self.write(store, 0),
            _ => Ok(()),
        }
    }

    /// Whether one more may be offered.
    pub(crate) fn room(&self) -> Room {
        let in_flight = self.unsettled.load(Ordering::SeqCst) + self.unnoted.load(Ordering::SeqCst);
        if in_flight < self.settings().in_flight {
            return Room::Yes;
        }
        match &lock(&self.book).trouble {
            Some(trouble) => Room::Trouble(trouble.clone()),
            None => {
                self.hurry_flush.notify_one();
                Room::Wait
            }
        }
    }

    /// The acknowledgement of a message that is offered for the first time.
    pub(crate) fn offered(self: &Arc<Self>, piece: Piece) -> Acknowledgement {
        self.unsettled.fetch_add(1, Ordering::SeqCst);
        self.offered_again(piece)
    }

    /// The acknowledgement of a message that was released before.
    pub(crate) fn offered_again(self: &Arc<Self>, piece: Piece) -> Acknowledgement {
        let shared: Weak<Self> = Arc::downgrade(self);
        Acknowledgement::new(move |outcome| {
            if let Some(shared) = shared.upgrade() {
                shared.settled(piece, &outcome);
            }
        })
    }

    fn settled(&self, piece: Piece, outcome: &Outcome) {
        let closed = self.closed.load(Ordering::SeqCst);
        if outcome.settlement == Settlement::Released {
            if closed {
                self.unsettled.fetch_sub(1, Ordering::SeqCst);
            } else {
                let due = Instant::now() + self.settings().release_delay;
                lock(&self.book).retries.insert((due, piece.number), piece);
            }
            self.changed.notify_one();
            return;
        }
        let mut state = piece.file.state();
        if outcome.settlement == Settlement::Rejected {
            let reason = match &outcome.failure {
                Some(failure) => Reason { class: failure.class().name(), text: failure.text().to_owned() },
                None => Reason { class: "rejected", text: "the flow rejected it without a reason".into() },
            };
            let (slot, start, line) = (piece.slot, piece.start, piece.line);
            let content = Content::Bytes(piece.body.clone());
            state.rejections.push(Rejection { slot, start, line, content, reason });
        } else {
            state.ledger.settle(piece.slot);
        }
        state.unnoted += 1;
        // Before a flush can see it and take it off again; and before it ceases to be unsettled, so that it is in flight
        // without a gap.
        let unnoted = self.unnoted.fetch_add(1, Ordering::SeqCst) + 1;
        drop(state);
        self.unsettled.fetch_sub(1, Ordering::SeqCst);
        self.mark_dirty(&piece.file);
        if closed || unnoted * 2 >= self.settings().in_flight {
            self.hurry_flush.notify_one();
        }
    }

    /// A line that is rejected without being offered.
    pub(crate) fn reject_unoffered(&self, file: &Arc<Incarnation>, rejection: Rejection) {
        {
            let mut state = file.state();
            state.rejections.push(rejection);
            state.unnoted += 1;
            self.unnoted.fetch_add(1, Ordering::SeqCst);
        }
        self.mark_dirty(file);
        self.hurry_flush.notify_one();
    }

    fn mark_dirty(&self, file: &Arc<Incarnation>) {
        if !std::mem::replace(&mut file.state().queued, true) {
            lock(&self.book).dirty.push(Arc::clone(file));
        }
        self.wake_flush.notify_one();
    }

    /// The released message that is to be offered now: of those that are due, the one that was read first.
    pub(crate) fn take_due(&self, now: Instant) -> Option<Piece> {
        let mut book = lock(&self.book);
        while let Some(first) = book.retries.first_entry()
            && first.key().0 <= now
        {
            let piece = first.remove();
            book.due.insert(piece.number, piece);
        }
        book.due.pop_first().map(|(_, piece)| piece)
    }

    /// When the next released message is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        lock(&self.book).retries.keys().next().map(|(due, _)| *due)
    }

    /// Brings what has settled to disk. Blocks.
    pub(crate) fn flush(&self) {
        // Held for the whole of it: one flush at a time, and none after the place has been given up.
        let place = lock(&self.place);
        if let Place::Held(store) = &*place {
            self.flush_to(store);
        }
        drop(place);
        self.changed.notify_one();
    }

    fn flush_to(&self, store: &Store) {
        let settings = self.settings();
        let dirty = std::mem::take(&mut lock(&self.book).dirty);
        let mut trouble = None;
        let mut noted = 0;
        for file in dirty {
            file.state().queued = false;
            if let Err(error) = keep_rejected(&file, &settings) {
                let text = format!("rejected lines of `{}` cannot be kept", file.name);
                trouble = Some(settings.cannot(&text, &error).text);
                let is_queued = std::mem::replace(&mut file.state().queued, true);
                if !is_queued {
                    lock(&self.book).dirty.push(Arc::clone(&file));
                }
            }
            let mut state = file.state();
            // What is still to be kept among the rejected stays unnoted.
            let settled = state.unnoted - state.rejections.len();
            state.unnoted -= settled;
            noted += settled;
        }
        let is_unsaved = lock(&self.book).is_unsaved;
        if (noted > 0 || is_unsaved)
            && let Err(error) = self.write(store, noted)
        {
            let what = "how far it has come cannot be brought to disk";
            trouble = Some(settings.cannot(what, &error).text);
        }
        let mut book = lock(&self.book);
        if let Some(trouble) = trouble.as_ref().filter(|text| book.trouble.as_ref() != Some(*text)) {
            tracing::warn!("{trouble}. It is tried again every second");
        }
        book.trouble = trouble;
    }

    /// Writes the checkpoint, which tells of `noted` settlements that none before did.
    fn write(&self, store: &Store, noted: usize) -> io::Result<()> {
        let (pattern, files, owed) = {
            let mut book = lock(&self.book);
            book.owed += noted;
            book.is_unsaved = false;
            (book.pattern.clone(), book.files.clone(), book.owed)
        };
        let entries = files.iter().map(|file| file.entry()).collect();
        let saved = store.save(&Checkpoint::new(pattern, entries));
        let mut book = lock(&self.book);
        if saved.is_ok() {
            book.owed -= owed;
            self.unnoted.fetch_sub(owed, Ordering::SeqCst);
        } else {
            book.is_unsaved = true;
        }
        saved
    }

    fn is_in_trouble(&self) -> bool {
        lock(&self.book).trouble.is_some()
    }

    /// Flushes for the last time, and gives up the place: whatever is left is for the next source.
    pub(crate) fn give_up(&self) {
        let mut place = lock(&self.place);
        self.closed.store(true, Ordering::SeqCst);
        if let Place::Held(store) = &*place {
            self.flush_to(store);
        }
        *place = Place::GivenUp;
    }

    /// Gives up the place as a process does that is killed.
    #[cfg(test)]
    pub(crate) fn die(&self) {
        *lock(&self.place) = Place::GivenUp;
    }
}

/// Keeps the rejected lines of a file; what could not be kept is tried again later.
fn keep_rejected(file: &Arc<Incarnation>, settings: &Settings) -> io::Result<()> {
    let rejections = std::mem::take(&mut file.state().rejections);
    if rejections.is_empty() {
        return Ok(());
    }
    let lines = rejections.iter().map(|rejection| RejectedLine {
        message: file.message_id(rejection.start),
        offset: rejection.start,
        line: rejection.line,
        content: match &rejection.content {
            Content::Bytes(bytes) => keep::Content::Bytes(bytes),
            Content::In(source, end) => keep::Content::In(source, rejection.start, *end),
        },
        reason: &rejection.reason,
    });
    let now = Clock::now(&*settings.clock).to_rfc3339();
    let kept = keep::rejected_lines(&settings.failed, OsStr::new(&file.name), &file.name, &now, lines);
    let mut state = file.state();
    match kept {
        Ok(()) => rejections.iter().for_each(|rejection| state.ledger.settle(rejection.slot)),
        Err(_) => {
            state.rejections.splice(0..0, rejections);
        }
    }
    kept
}

/// Flushes whenever there is something to flush, for as long as the task lives.
pub(crate) async fn keep_flushed(shared: Arc<Shared>) {
    loop {
        if shared.is_in_trouble() {
            sleep(FLUSH_RETRY).await;
        } else {
            shared.wake_flush.notified().await;
            tokio::select! {
                () = sleep(GATHER) => {}
                () = shared.hurry_flush.notified() => {}
            }
        }
        let flushing = Arc::clone(&shared);
        if tokio::task::spawn_blocking(move || flushing.flush()).await.is_err() {
            tracing::error!(
                "a flush of a file source panicked: what it had in hand is offered again after a restart"
            );
        }
    }
}

/// A poisoned lock is taken all the same: each holder leaves what it changes whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

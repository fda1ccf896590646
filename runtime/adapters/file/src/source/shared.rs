//! What the endpoint's parts share: the settlements that come in from any thread, and the flush that brings them to disk.
//!
//! A settlement does nothing but note itself in memory and wake the flush, so it never blocks whoever settles. The flush
//! writes progress, keeps what was rejected and moves finished files. What is settled and not yet on disk counts as in
//! flight: so a crash repeats at most `in_flight` messages.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use gristmill_core::{Acknowledgement, Outcome, Settlement};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use super::{
    claimed::{ClaimedFile, Place, Reason, Rejection, Retry},
    keep,
    settings::Settings,
    work::Owner,
};

/// How long settlements are gathered before they are written, unless many come.
const GATHER: Duration = Duration::from_millis(20);

/// How long the flush waits after it has failed (a full disk, a missing permission).
const FLUSH_RETRY: Duration = Duration::from_secs(1);

/// What the endpoint's parts share.
#[derive(Debug)]
pub(crate) struct Shared {
    settings: Mutex<Arc<Settings>>,
    /// `in_flight` of the settings, which is asked for with each message.
    in_flight: AtomicUsize,
    /// Gone once the source has been dropped: nothing on disk may be touched any more.
    owner: Mutex<Option<Arc<Owner>>>,
    book: Mutex<Book>,
    /// How many messages are offered and unsettled.
    outstanding: AtomicUsize,
    /// How many messages have settled that the disk does not know of.
    unnoted: AtomicUsize,
    closed: AtomicBool,
    /// Woken when `next` may have something to do that it had not.
    pub(crate) changed: Arc<Notify>,
    wake_flush: Notify,
    hurry_flush: Notify,
}

#[derive(Debug, Default)]
struct Book {
    dirty: Vec<Arc<ClaimedFile>>,
    /// Those that could not be flushed.
    stuck: Vec<Arc<ClaimedFile>>,
    /// Why, of the last one; none when there is none.
    trouble: Option<String>,
    /// By when they are due, but for changes of the delay.
    retries: VecDeque<Retry>,
}

/// What is to be done with a file whose messages have settled.
enum Todo {
    Nothing,
    Note,
    Finish,
    PutBack,
}

impl Shared {
    pub(crate) fn new(settings: Arc<Settings>, owner: Owner) -> Self {
        Self {
            in_flight: AtomicUsize::new(settings.in_flight),
            settings: Mutex::new(settings),
            owner: Mutex::new(Some(Arc::new(owner))),
            book: Mutex::default(),
            outstanding: AtomicUsize::new(0),
            unnoted: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            changed: Arc::new(Notify::new()),
            wake_flush: Notify::new(),
            hurry_flush: Notify::new(),
        }
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&lock(&self.settings))
    }

    pub(crate) fn set_settings(&self, settings: Arc<Settings>) {
        self.in_flight.store(settings.in_flight, Ordering::SeqCst);
        *lock(&self.settings) = settings;
        self.changed.notify_one();
    }

    /// Makes a new claim where the folder was removed and made again meanwhile, and the old claim with it.
    pub(crate) fn renew_owner(&self) -> io::Result<Option<Arc<Owner>>> {
        let mut owner = lock(&self.owner);
        if let Some(old) = &mut *owner
            && !old.is_there()
        {
            *old = Arc::new(self.settings().new_owner()?);
        }
        Ok(owner.clone())
    }

    /// From now on nothing is offered again.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let retries = std::mem::take(&mut lock(&self.book).retries);
        for retry in retries {
            self.mark_dirty(&retry.file);
        }
    }

    /// Whether one more may be offered.
    pub(crate) fn has_room(&self) -> bool {
        let in_flight = self.outstanding.load(Ordering::SeqCst) + self.unnoted.load(Ordering::SeqCst);
        in_flight < self.in_flight.load(Ordering::SeqCst)
    }

    /// The same, and why not.
    pub(crate) fn room(&self) -> Room {
        if self.has_room() {
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

    /// The acknowledgement of a message of a file.
    pub(crate) fn acknowledgement(
        self: &Arc<Self>,
        file: &Arc<ClaimedFile>,
        place: Place,
    ) -> Acknowledgement {
        file.state().outstanding += 1;
        self.outstanding.fetch_add(1, Ordering::SeqCst);
        let (shared, file): (Weak<Self>, _) = (Arc::downgrade(self), Arc::clone(file));
        Acknowledgement::new(move |outcome| {
            if let Some(shared) = shared.upgrade() {
                shared.settled(file, place, &outcome);
            }
        })
    }

    fn settled(&self, file: Arc<ClaimedFile>, place: Place, outcome: &Outcome) {
        let closed = self.closed.load(Ordering::SeqCst);
        let mut state = file.state();
        state.outstanding = state.outstanding.saturating_sub(1);
        if outcome.settlement == Settlement::Released {
            drop(state);
            self.outstanding.fetch_sub(1, Ordering::SeqCst);
            if closed {
                self.mark_dirty(&file);
            } else {
                let due = Instant::now() + self.settings().release_delay;
                self.retry_at(due, file, place);
            }
            return;
        }
        if outcome.settlement == Settlement::Rejected {
            let reason = match &outcome.failure {
                Some(failure) => Reason { class: failure.class().name(), text: failure.text().to_owned() },
                None => Reason { class: "rejected", text: "the flow rejected it without a reason".into() },
            };
            if file.by_line {
                state.rejections.push(Rejection { place, reason });
            } else {
                state.failure = Some(reason);
                state.ledger.settle(place.slot);
            }
        } else {
            state.ledger.settle(place.slot);
        }
        state.unnoted += 1;
        let finished = state.ledger.is_finished();
        // Before a flush can see it and take it off again; and before it ceases to be outstanding, so that it is in flight
        // without a gap.
        let unnoted = self.unnoted.fetch_add(1, Ordering::SeqCst) + 1;
        self.outstanding.fetch_sub(1, Ordering::SeqCst);
        drop(state);
        self.mark_dirty(&file);
        if finished || closed || unnoted * 2 >= self.in_flight.load(Ordering::SeqCst) {
            self.hurry_flush.notify_one();
        }
    }

    /// A line that is rejected without being offered.
    pub(crate) fn reject_unoffered(&self, file: &Arc<ClaimedFile>, rejection: Rejection) {
        {
            let mut state = file.state();
            state.rejections.push(rejection);
            state.unnoted += 1;
            self.unnoted.fetch_add(1, Ordering::SeqCst);
        }
        self.mark_dirty(file);
        self.hurry_flush.notify_one();
    }

    /// The file has something to be brought to disk.
    pub(crate) fn mark_dirty(&self, file: &Arc<ClaimedFile>) {
        {
            let mut state = file.state();
            if state.queued {
                return;
            }
            state.queued = true;
        }
        lock(&self.book).dirty.push(Arc::clone(file));
        self.wake_flush.notify_one();
    }

    /// The file is to be flushed at once: all of it has been read.
    pub(crate) fn hurry(&self, file: &Arc<ClaimedFile>) {
        self.mark_dirty(file);
        self.hurry_flush.notify_one();
    }

    fn retry_at(&self, due: Instant, file: Arc<ClaimedFile>, place: Place) {
        lock(&self.book).retries.push_back(Retry { due, file, place });
        self.changed.notify_one();
    }

    /// Puts back a retry whose message could not be read.
    pub(crate) fn retry_later(&self, file: Arc<ClaimedFile>, place: Place) {
        let due = Instant::now() + self.settings().release_delay.max(FLUSH_RETRY);
        self.retry_at(due, file, place);
    }

    /// The released messages that are due, oldest first, at most `most`.
    pub(crate) fn take_due(&self, now: Instant, most: usize) -> Vec<Retry> {
        let mut book = lock(&self.book);
        let mut due = Vec::new();
        while due.len() < most
            && let Some(retry) = book.retries.pop_front_if(|retry| retry.due <= now)
        {
            due.push(retry);
        }
        due
    }

    /// When the next released message is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        lock(&self.book).retries.front().map(|retry| retry.due)
    }

    /// Brings what has settled to disk; also what could not be brought there before, if `stuck` says so. Blocks.
    pub(crate) fn flush(&self, stuck: bool) {
        // Held for the whole of it: one flush at a time, and none after the claim has been given up.
        let owner = lock(&self.owner);
        if owner.is_some() {
            self.flush_held(stuck);
        }
    }

    fn flush_held(&self, stuck: bool) {
        let settings = self.settings();
        let files = {
            let mut book = lock(&self.book);
            let mut files = std::mem::take(&mut book.dirty);
            if stuck {
                files.append(&mut book.stuck);
            }
            files
        };
        for file in files {
            file.state().queued = false;
            if let Err(error) = self.flush_file(&file, &settings) {
                self.hold(
                    &file,
                    format!(
                        "file source `{}`: what has settled of `{}` cannot be brought to disk: {error}",
                        settings.directory, file.name_text
                    ),
                );
            }
        }
        let mut book = lock(&self.book);
        if book.stuck.is_empty() {
            book.trouble = None;
        }
        drop(book);
        self.changed.notify_one();
    }

    /// Sets a file aside that could not be flushed, until it is tried again. It does not hold up the others.
    fn hold(&self, file: &Arc<ClaimedFile>, trouble: String) {
        {
            let mut state = file.state();
            if std::mem::replace(&mut state.queued, true) {
                // Queued anew meanwhile.
                return;
            }
        }
        let mut book = lock(&self.book);
        if book.trouble.as_ref() != Some(&trouble) {
            tracing::warn!("{trouble}. It is tried again every second");
        }
        book.trouble = Some(trouble);
        book.stuck.push(Arc::clone(file));
    }

    fn flush_file(&self, file: &Arc<ClaimedFile>, settings: &Settings) -> io::Result<()> {
        // What settles while the file is flushed queues it again, and may be what finishes it in this very flush.
        if file.state().gone {
            return Ok(());
        }
        let rejections = std::mem::take(&mut file.state().rejections);
        if !rejections.is_empty() {
            let kept = keep::rejected_of(file, settings, &rejections);
            let mut state = file.state();
            match kept {
                Ok(()) => rejections.iter().for_each(|r| state.ledger.settle(r.place.slot)),
                Err(error) => {
                    state.rejections.splice(0..0, rejections);
                    return Err(error);
                }
            }
        }
        let (todo, noted) = {
            let mut state = file.state();
            let todo = if state.ledger.is_finished() {
                Todo::Finish
            } else if self.closed.load(Ordering::SeqCst)
                && state.outstanding == 0
                && state.ledger.is_untouched()
            {
                Todo::PutBack
            } else if file.by_line && state.unnoted > 0 {
                Todo::Note
            } else {
                Todo::Nothing
            };
            // What is still to be kept among the rejected has come in since.
            let noted = state.unnoted - state.rejections.len();
            state.unnoted -= noted;
            (todo, noted)
        };
        let done = match todo {
            Todo::Nothing => Ok(()),
            Todo::PutBack => {
                file.put_back(settings);
                Ok(())
            }
            Todo::Note => self.note(file),
            Todo::Finish => file.finish(settings).inspect_err(|_| {
                // The next start must know that there is nothing more to read. Not so of a file that failed: it is offered
                // again, for the reason of its failure is only known here.
                if file.state().failure.is_none() {
                    let _ = self.note(file);
                }
            }),
        };
        if done.is_ok() {
            file.state().gone = matches!(todo, Todo::Finish | Todo::PutBack);
            self.unnoted.fetch_sub(noted, Ordering::SeqCst);
        } else {
            file.state().unnoted += noted;
        }
        done
    }

    fn note(&self, file: &ClaimedFile) -> io::Result<()> {
        let progress = file.state().ledger.progress(file.inode);
        progress.note(&file.progress_path)
    }

    /// Flushes for the last time, and gives up the claim: whatever is left is for the next owner.
    pub(crate) fn give_up(&self) {
        let mut owner = lock(&self.owner);
        if let Some(owner) = &*owner {
            self.closed.store(true, Ordering::SeqCst);
            self.flush_held(true);
            owner.put_back_unbegun(self.settings().directory.path());
        }
        *owner = None;
    }

    /// Gives up the claim as a process does that is killed.
    #[cfg(test)]
    pub(crate) fn die(&self) {
        *lock(&self.owner) = None;
    }
}

/// Flushes whenever there is something to flush, for as long as the task lives.
pub(crate) async fn keep_flushed(shared: Arc<Shared>) {
    let mut retry_at: Option<Instant> = None;
    loop {
        let retry = async {
            match retry_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let stuck = tokio::select! {
            () = retry => true,
            () = shared.wake_flush.notified() => {
                tokio::select! {
                    () = sleep(GATHER) => {}
                    () = shared.hurry_flush.notified() => {}
                }
                false
            }
        };
        let flushing = Arc::clone(&shared);
        if tokio::task::spawn_blocking(move || flushing.flush(stuck)).await.is_err() {
            tracing::error!(
                "a flush of a file source panicked: what it had in hand is offered again after a restart"
            );
        }
        retry_at = match lock(&shared.book).stuck.is_empty() {
            true => None,
            false if stuck => Some(Instant::now() + FLUSH_RETRY),
            false => retry_at.or_else(|| Some(Instant::now() + FLUSH_RETRY)),
        };
    }
}

/// Whether more may be offered.
pub(crate) enum Room {
    Yes,
    /// Not before what has settled is on disk.
    Wait,
    /// Not before this has been mended.
    Trouble(String),
}

/// A poisoned lock is taken all the same: each holder leaves what it changes whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

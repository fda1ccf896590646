//! The source: files of a folder become deliveries, whole or line by line.
//!
//! | module | holds |
//! |---|---|
//! | [`spec`] | checked configuration, and all that can fail before anything is touched |
//! | [`settings`] | what a version wants, resolved: what a reload replaces |
//! | [`listing`] | which files are ready |
//! | [`overlap`] | whether two patterns can match one name |
//! | [`work`] | claims: who has which file, and what a dead process left |
//! | [`claimed`], [`ledger`], [`progress`] | a claimed file, which of its messages are settled, and that on disk |
//! | [`origin`] | the part of message ids that tells files apart |
//! | [`lines`] | a file as lines, in constant memory |
//! | [`producer`] | the blocking half: list, claim, read |
//! | [`shared`] | settlements, and the flush that brings them to disk |
//! | [`keep`] | where done, failed and rejected things go |
//! | [`watch`] | being told of changes |
//! | [`follow`] | the other source: files that grow, and stay where they are |
//!
//! A file's life: listed, rested, claimed by rename, read, its messages settled in any order, moved to where it belongs. At
//! each moment it is in exactly one place, and a process that dies leaves it where the next one finds it.

mod claimed;
mod follow;
mod keep;
mod ledger;
mod lines;
mod listing;
mod origin;
mod overlap;
mod producer;
mod progress;
mod settings;
mod shared;
mod spec;
#[cfg(test)]
mod tests;
mod watch;
mod work;

use std::{any::Any, collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use gristmill_core::{
    Delivery, Message,
    source::{PreparedSource, Source, SourceError, TakeOverError},
};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

pub(crate) use self::spec::FileSourceSpec;
use self::{
    claimed::push_number,
    producer::{Piece, Produced, Producer, Wait},
    settings::Settings,
    shared::{Room, Shared, keep_flushed},
    watch::Watch,
    work::Owner,
};

/// The folder is not listed again before this long, however often it changes.
const SCAN_GAP: Duration = Duration::from_millis(10);

/// The most released messages that are read again at once.
const RETRY_BATCH: usize = 64;

/// A source that is ready to start.
#[derive(Debug)]
pub(crate) struct PreparedFileSource {
    settings: Arc<Settings>,
    /// Whether to ask the system to tell of changes.
    watch: bool,
}

/// A running source.
pub(crate) struct FileSource {
    shared: Arc<Shared>,
    station: Station,
    buffer: VecDeque<Piece>,
    wait: Wait,
    last_batch: Instant,
    folder_changed: Arc<Notify>,
    closed: bool,
    /// Room in which texts of messages are made.
    text: String,
    flush: JoinHandle<()>,
    _watch: Option<Watch>,
}

/// Where the producer is: here, or at work on a thread that may block. It is never lost to a `next` that is dropped.
enum Station {
    Idle(Box<Producer>),
    Working(JoinHandle<(Box<Producer>, Result<Produced, SourceError>)>),
}

// === impl PreparedFileSource ===

impl PreparedFileSource {
    pub(crate) fn new(settings: Settings, watch: bool) -> Self {
        Self { settings: Arc::new(settings), watch }
    }
}

#[async_trait]
impl PreparedSource for PreparedFileSource {
    async fn start(self: Box<Self>) -> Result<Box<dyn Source>, SourceError> {
        let settings = Arc::clone(&self.settings);
        let owner = tokio::task::spawn_blocking(move || {
            settings.new_owner().map_err(|error| settings.cannot_read(&error))
        });
        let owner = owner.await.map_err(|error| SourceError::new(format!("file source: {error}")))??;
        Ok(Box::new(FileSource::new(self.settings, owner, self.watch)))
    }

    async fn take_over(self: Box<Self>, mut old: Box<dyn Source>) -> Result<Box<dyn Source>, TakeOverError> {
        // Everything stays where it is: claims, the file that is open, what is unsettled. Only what is wanted changes.
        match (&mut *old as &mut dyn Any).downcast_mut::<FileSource>() {
            Some(source) => {
                source.shared.set_settings(self.settings);
                source.wait = Wait::No;
                Ok(old)
            }
            None => {
                let error = SourceError::new("a file source can only take over from a file source");
                Err(TakeOverError { old, error })
            }
        }
    }
}

// === impl FileSource ===

impl FileSource {
    fn new(settings: Arc<Settings>, owner: Owner, watch: bool) -> Self {
        let folder_changed = Arc::new(Notify::new());
        let watch = if watch { Watch::new(&settings.directory, Arc::clone(&folder_changed)) } else { None };
        let shared = Arc::new(Shared::new(settings, owner));
        Self {
            flush: tokio::spawn(keep_flushed(Arc::clone(&shared))),
            shared,
            station: Station::Idle(Box::default()),
            buffer: VecDeque::new(),
            wait: Wait::No,
            last_batch: Instant::now(),
            folder_changed,
            closed: false,
            text: String::new(),
            _watch: watch,
        }
    }

    /// Goes one step towards more in the buffer. May be dropped at any await.
    async fn fill(&mut self) -> Result<(), SourceError> {
        match &mut self.station {
            Station::Working(work) => {
                let ended = work.await;
                let (producer, produced) = ended.unwrap_or_else(|error| {
                    let text = format!("file source: reading ended by a fault of the runtime: {error}");
                    (Box::default(), Err(SourceError::new(text)))
                });
                self.station = Station::Idle(producer);
                self.last_batch = Instant::now();
                let produced = produced?;
                self.wait = produced.wait;
                // Ahead of what is in the buffer: it is from before that.
                let mut pieces = VecDeque::from(produced.pieces);
                pieces.append(&mut self.buffer);
                self.buffer = pieces;
            }
            Station::Idle(producer) => {
                let now = Instant::now();
                let due = self.shared.take_due(now, RETRY_BATCH);
                if due.is_empty() && !self.wait.is_over(now) {
                    self.idle().await;
                    return Ok(());
                }
                let (mut producer, shared) = (std::mem::take(producer), Arc::clone(&self.shared));
                self.station = Station::Working(tokio::task::spawn_blocking(move || {
                    let produced = producer.produce(&shared, due, now);
                    (producer, produced)
                }));
            }
        }
        Ok(())
    }

    /// Waits for something to do.
    async fn idle(&mut self) {
        let until = match self.wait {
            Wait::Until(at) => Some(at),
            Wait::No | Wait::Settlement => None,
        };
        // Far away: a timer that never rings.
        let far = Instant::now() + Duration::from_secs(24 * 3600);
        let timer = until.into_iter().chain(self.shared.next_due()).min().unwrap_or(far);
        tokio::select! {
            () = sleep_until(timer) => {}
            () = self.shared.changed.notified() => {
                if self.wait == Wait::Settlement {
                    self.wait = Wait::No;
                }
            }
            () = self.folder_changed.notified(), if until.is_some() => {
                self.wait = Wait::Until(self.last_batch + SCAN_GAP);
            }
        }
    }

    /// Whether a released message is to be offered again, before what is in the buffer.
    fn is_retry_due(&self) -> bool {
        self.shared.next_due().is_some_and(|due| due <= Instant::now())
    }

    fn deliver(&mut self, piece: Piece) -> Delivery {
        let Piece { file, place, body, redelivered } = piece;
        let mut headers = file.headers.clone();
        let line = file.by_line.then_some(("file-line", place.line));
        for (name, number) in [("file-offset", place.start)].into_iter().chain(line) {
            self.text.clear();
            push_number(&mut self.text, number);
            // Digits are always a valid value.
            let _ = headers.append(name, &self.text);
        }
        self.text.clear();
        file.push_message_id(&mut self.text, place.start);
        let now = self.shared.settings().clock.now();
        let message = Message::new(self.text.as_str(), now, body).with_headers(headers);
        let acknowledgement = self.shared.acknowledgement(&file, place);
        Delivery { redelivered, ..Delivery::new(message, acknowledgement) }
    }

    /// Ends as a process does that is killed: nothing more is written, and nothing is put back.
    #[cfg(test)]
    async fn die(mut self) {
        if let Station::Working(work) = &mut self.station {
            let _ = work.await;
        }
        self.shared.die();
    }
}

#[async_trait]
impl Source for FileSource {
    async fn next(&mut self) -> Result<Option<Delivery>, SourceError> {
        loop {
            if let Some(delivery) = self.ready() {
                return Ok(Some(delivery));
            }
            if self.closed {
                return Ok(None);
            }
            match self.shared.room() {
                Room::Yes => {}
                Room::Trouble(text) => return Err(SourceError::new(text)),
                Room::Wait => {
                    self.shared.changed.notified().await;
                    continue;
                }
            }
            // Room may have been made since it was looked at: what is read goes behind what is in the buffer, so not yet.
            if self.buffer.is_empty() || self.is_retry_due() {
                self.fill().await?;
            }
        }
    }

    fn ready(&mut self) -> Option<Delivery> {
        if self.closed || !self.shared.has_room() || self.is_retry_due() {
            return None;
        }
        let piece = self.buffer.pop_front()?;
        Some(self.deliver(piece))
    }

    /// What was read ahead is not offered any more: it is still in its files, and those that were not begun go back to the
    /// folder.
    async fn close(&mut self) {
        self.closed = true;
        self.shared.close();
        if let Station::Working(work) = &mut self.station
            && let Ok((producer, produced)) = work.await
        {
            self.station = Station::Idle(producer);
            self.buffer.extend(produced.into_iter().flat_map(|produced| produced.pieces));
        }
        for piece in self.buffer.drain(..) {
            self.shared.mark_dirty(&piece.file);
        }
        if let Station::Idle(producer) = &mut self.station
            && let Some(file) = producer.close()
        {
            self.shared.mark_dirty(&file);
        }
        let shared = Arc::clone(&self.shared);
        // A flush that panics has told so; what it left is found by the next start.
        let _ = tokio::task::spawn_blocking(move || shared.flush(true)).await;
    }
}

impl Drop for FileSource {
    /// What settled last is brought to disk before the claim is given up. A short blocking write, once in the life of an
    /// endpoint.
    fn drop(&mut self) {
        self.flush.abort();
        self.shared.give_up();
    }
}

// === impl Wait ===

impl Wait {
    fn is_over(self, now: Instant) -> bool {
        match self {
            Self::No => true,
            Self::Settlement => false,
            Self::Until(at) => at <= now,
        }
    }
}

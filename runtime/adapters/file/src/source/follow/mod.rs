//! The source that follows growing files: each line that another process adds to a file becomes a delivery, wherever the
//! file is moved in its folder meanwhile. Files are neither claimed nor moved.
//!
//! | module | holds |
//! |---|---|
//! | [`settings`] | what a version wants, resolved: what a reload replaces |
//! | [`incarnation`] | one life of a file: which of its messages are settled |
//! | [`followed`] | its handle, and whether it is still what it was |
//! | [`tail`] | the blocking half: look into the folder, open, read, give up |
//! | [`shared`] | settlements, and the flush that brings them to disk |
//! | [`checkpoint`] | how far each file has come, on disk |
//!
//! A file is known by its device and inode number, its time of birth and some of its bytes; its name is a label. Before a message of a
//! file is offered, the checkpoint knows the file, so that the message has the same id when it is offered again.

mod checkpoint;
mod followed;
mod incarnation;
pub(crate) mod settings;
mod shared;
mod tail;
#[cfg(test)]
mod tests;

use std::{any::Any, collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use gristmill_core::{
    Acknowledgement, Delivery, Message,
    source::{PreparedSource, Source, SourceError, TakeOverError},
};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use self::{
    incarnation::Piece,
    settings::Settings,
    shared::{Shared, keep_flushed},
    tail::{Produced, Tail},
};
use super::{shared::Room, watch::Watch};

/// Files are not read again before this long, however often something is added to them.
const READ_GAP: Duration = Duration::from_millis(10);

/// A source that is ready to start.
#[derive(Debug)]
pub(crate) struct PreparedFollowSource {
    settings: Arc<Settings>,
    /// Whether to ask the system to tell of changes.
    watch: bool,
}

/// A running source.
pub(crate) struct FollowSource {
    shared: Arc<Shared>,
    station: Station,
    buffer: VecDeque<Piece>,
    /// When to ask for the next batch.
    again_at: Instant,
    /// Whether to ask before that, when something has settled.
    waits_for_settlement: bool,
    /// Whether something has changed in the folder since it was last looked into.
    hint: bool,
    last_batch: Instant,
    folder_changed: Arc<Notify>,
    closed: bool,
    flush: JoinHandle<()>,
    _watch: Option<Watch>,
}

/// Where the blocking half is: here, or at work on a thread that may block. It is never lost to a `next` that is dropped.
enum Station {
    Idle(Box<Tail>),
    Working(JoinHandle<(Box<Tail>, Result<Produced, SourceError>)>),
}

// === impl PreparedFollowSource ===

impl PreparedFollowSource {
    pub(crate) fn new(settings: Settings, watch: bool) -> Self {
        Self { settings: Arc::new(settings), watch }
    }
}

#[async_trait]
impl PreparedSource for PreparedFollowSource {
    async fn start(self: Box<Self>) -> Result<Box<dyn Source>, SourceError> {
        let settings = Arc::clone(&self.settings);
        let made = tokio::task::spawn_blocking(move || {
            settings.make_directory().map_err(|error| settings.cannot("it cannot be made", &error))
        });
        made.await.map_err(|error| SourceError::new(format!("file source: {error}")))??;
        Ok(Box::new(FollowSource::new(self.settings, self.watch)))
    }

    async fn take_over(self: Box<Self>, mut old: Box<dyn Source>) -> Result<Box<dyn Source>, TakeOverError> {
        // Everything stays where it is: open files, how far they were read, what is unsettled. Only what is wanted changes.
        match (&mut *old as &mut dyn Any).downcast_mut::<FollowSource>() {
            Some(source) => {
                source.shared.set_settings(self.settings);
                (source.hint, source.again_at) = (true, Instant::now());
                Ok(old)
            }
            None => {
                let error =
                    SourceError::new("a file source that follows can only take over from one that does");
                Err(TakeOverError { old, error })
            }
        }
    }
}

// === impl FollowSource ===

impl FollowSource {
    fn new(settings: Arc<Settings>, watch: bool) -> Self {
        let folder_changed = Arc::new(Notify::new());
        let watch = if watch { Watch::new(&settings.directory, Arc::clone(&folder_changed)) } else { None };
        let shared = Arc::new(Shared::new(settings));
        let now = Instant::now();
        Self {
            flush: tokio::spawn(keep_flushed(Arc::clone(&shared))),
            shared,
            station: Station::Idle(Box::default()),
            buffer: VecDeque::new(),
            again_at: now,
            waits_for_settlement: false,
            hint: false,
            last_batch: now,
            folder_changed,
            closed: false,
            _watch: watch,
        }
    }

    /// Goes one step towards more in the buffer. May be dropped at any await.
    async fn fill(&mut self) -> Result<(), SourceError> {
        match &mut self.station {
            Station::Working(work) => {
                let ended = work.await;
                let (tail, produced) = ended.unwrap_or_else(|error| {
                    let text = format!("file source: reading ended by a fault of the runtime: {error}");
                    (Box::default(), Err(SourceError::new(text)))
                });
                self.station = Station::Idle(tail);
                self.last_batch = Instant::now();
                let produced = produced?;
                self.again_at = produced.again_at;
                self.waits_for_settlement = produced.waits_for_settlement;
                self.hint &= !produced.has_looked;
                self.buffer.extend(produced.pieces);
            }
            Station::Idle(tail) => {
                let now = Instant::now();
                if self.again_at > now {
                    self.idle().await;
                    return Ok(());
                }
                let (mut tail, shared, hint) = (std::mem::take(tail), Arc::clone(&self.shared), self.hint);
                self.station = Station::Working(tokio::task::spawn_blocking(move || {
                    let produced = tail.produce(&shared, now, hint);
                    (tail, produced)
                }));
            }
        }
        Ok(())
    }

    /// Waits for something to do.
    async fn idle(&mut self) {
        let until = self.shared.next_due().map_or(self.again_at, |due| due.min(self.again_at));
        tokio::select! {
            () = sleep_until(until) => {}
            () = self.shared.changed.notified() => {
                if self.waits_for_settlement {
                    self.again_at = Instant::now();
                }
            }
            () = self.folder_changed.notified() => {
                self.hint = true;
                self.again_at = self.again_at.min(self.last_batch + READ_GAP);
            }
        }
    }

    /// Waits until something has settled, or what was released is due.
    async fn wait_for_room(&self) {
        let due = async {
            match self.shared.next_due() {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = self.shared.changed.notified() => {}
        }
    }

    fn deliver(&self, piece: &Piece, acknowledgement: Acknowledgement, redelivered: bool) -> Delivery {
        let mut headers = piece.headers.clone();
        let numbers = [("file-offset", Some(piece.start)), ("file-line", piece.line)];
        for (name, number) in numbers {
            // Digits are always a valid value.
            let _ = number.map(|number| headers.append(name, &number.to_string()));
        }
        let now = self.shared.settings().clock.now();
        let id = piece.file.message_id(piece.start);
        let message = Message::new(id, now, piece.body.clone()).with_headers(headers);
        Delivery { redelivered, ..Delivery::new(message, acknowledgement) }
    }

    /// How many files are known.
    #[cfg(test)]
    async fn known(&mut self) -> usize {
        if let Station::Working(_) = &self.station {
            self.fill().await.unwrap_or_default();
        }
        match &self.station {
            Station::Idle(tail) => tail.known(),
            Station::Working(_) => 0,
        }
    }

    /// Ends as a process does that is killed: nothing more is written.
    #[cfg(test)]
    async fn die(mut self) {
        if let Station::Working(work) = &mut self.station {
            let _ = work.await;
        }
        self.shared.die();
    }
}

#[async_trait]
impl Source for FollowSource {
    async fn next(&mut self) -> Result<Option<Delivery>, SourceError> {
        loop {
            if self.closed {
                return Ok(None);
            }
            // It has its room already.
            if let Some(piece) = self.shared.take_due(Instant::now()) {
                let acknowledgement = self.shared.offered_again(piece.clone());
                return Ok(Some(self.deliver(&piece, acknowledgement, true)));
            }
            match self.shared.room() {
                Room::Yes => {}
                Room::Trouble(text) => return Err(SourceError::new(text)),
                Room::Wait => {
                    self.wait_for_room().await;
                    continue;
                }
            }
            if let Some(piece) = self.buffer.pop_front() {
                let acknowledgement = self.shared.offered(piece.clone());
                return Ok(Some(self.deliver(&piece, acknowledgement, false)));
            }
            self.fill().await?;
        }
    }

    /// What was read ahead is not offered any more: it is still in its files, and the checkpoint does not count it as settled.
    async fn close(&mut self) {
        self.closed = true;
        self.shared.close();
        if let Station::Working(work) = &mut self.station
            && let Ok((tail, _)) = work.await
        {
            self.station = Station::Idle(tail);
        }
        self.buffer.clear();
        if let Station::Idle(tail) = &mut self.station {
            tail.close();
        }
        let shared = Arc::clone(&self.shared);
        // A flush that panics has told so; what it left is offered again by the next start.
        let _ = tokio::task::spawn_blocking(move || shared.flush()).await;
    }
}

impl Drop for FollowSource {
    /// What settled last is brought to disk before the place is given up. A short blocking write, once in the life of an
    /// endpoint.
    fn drop(&mut self) {
        self.flush.abort();
        self.shared.give_up();
    }
}

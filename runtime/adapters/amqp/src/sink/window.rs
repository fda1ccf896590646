//! The window of a sink: the messages that were published and that the broker has not confirmed yet.
//!
//! A send that finds room in it, and nothing waiting before it, publishes by itself and hears of the confirmation in the task of its
//! delivery: nothing goes to another task and back. Whatever stands in the way of that (no line yet, no room, a broker that takes
//! nothing) is for the publisher to deal with: then the send hands its message over, and so does everyone after it for as long as one
//! waits there, so that the order stays that of the sends.
//!
//! What is published keeps its room until the library says what became of it, also when its send has given up: the publisher waits on.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use lapin::{BasicProperties, Channel, Confirmation, options::BasicPublishOptions, types::ShortString};
use tokio::{
    sync::{Notify, futures::Notified, mpsc},
    time::Instant,
};
use tokio_util::sync::ReusableBoxFuture;

use crate::connection::Session;

/// A publish that is under way: the library has the message once it was polled.
pub(super) type Publish = ReusableBoxFuture<'static, lapin::Result<Confirmation>>;

/// How many rooms of publishes that are done are kept for those to come. Each is a good kilobyte, which the allocator has not at hand.
const SPARES: usize = 256;

/// An AMQP channel that confirms, and the connection that it is on.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) session: Arc<Session>,
    pub(super) channel: Channel,
    /// The number of its connection.
    pub(super) on: u64,
    /// The most that the properties of a message may take, in bytes.
    pub(super) properties_max: usize,
}

/// The window of a sink.
pub(super) struct Window {
    state: Mutex<State>,
    /// How many may be in it.
    limit: usize,
    timeout: Duration,
    /// Tells the publisher to have a look at it.
    changed: Notify,
    /// Tells the sends to have a look at the time, and at their connections.
    look: Notify,
    /// Without a limit by its type: what is in it keeps its room in the window.
    abandoned: mpsc::UnboundedSender<Abandoned>,
}

struct State {
    /// On which the sends may publish by themselves.
    line: Option<Arc<Line>>,
    /// How many messages the publisher was handed and has not published.
    waiting: usize,
    unconfirmed: usize,
    /// How many messages are published one by one, to find the one for which the broker closes the channel.
    careful: usize,
    /// Nothing more will be heard of what was published on the connections up to this number.
    ended: u64,
    /// By when the sends are told to look at the time. As all wait equally long, it is the first one's end.
    next_look: Option<Instant>,
    spares: Vec<Publish>,
}

/// A publish whose send has given up.
pub(super) struct Abandoned {
    pub(super) publish: Publish,
    /// The number of its connection.
    pub(super) on: u64,
}

/// Room for one message; what is published in it can be waited for.
pub(super) struct Place<'w> {
    window: &'w Window,
    line: Arc<Line>,
    deadline: Instant,
    /// Room for a publish.
    spare: Option<Publish>,
    /// What is under way.
    publish: Option<Publish>,
}

/// A message that waits for the publisher; counted until this is dropped.
#[derive(Debug)]
pub(super) struct Waiting(Arc<Window>);

/// Why nothing was heard of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unheard {
    /// There was no time left.
    Late,
    /// Its connection is gone.
    Lost,
}

// === impl Line ===

impl Line {
    /// Whether it can be published on, as far as is known.
    pub(super) fn is_good(&self) -> bool {
        self.session.is_alive() && self.channel.status().connected()
    }
}

// === impl Window ===

impl Window {
    /// Of a sink whose sends wait for so long. With what is abandoned in it, for the publisher.
    pub(super) fn new(limit: usize, timeout: Duration) -> (Arc<Self>, mpsc::UnboundedReceiver<Abandoned>) {
        let (abandoned, heirs) = mpsc::unbounded_channel();
        let state = State {
            line: None,
            waiting: 0,
            unconfirmed: 0,
            careful: 0,
            ended: 0,
            next_look: None,
            spares: Vec::new(),
        };
        let (changed, look) = (Notify::new(), Notify::new());
        (Arc::new(Self { state: Mutex::new(state), limit, timeout, changed, look, abandoned }), heirs)
    }

    /// Room for a message that may be published at once; or it waits, behind all that do.
    pub(super) fn enter(self: &Arc<Self>, is_blocked: bool) -> Result<Place<'_>, Waiting> {
        let mut state = self.lock();
        let is_free =
            !is_blocked && state.waiting == 0 && state.careful == 0 && state.unconfirmed < self.limit;
        let Some(line) = state.line.as_ref().filter(|line| is_free && line.is_good()).map(Arc::clone) else {
            state.waiting += 1;
            return Err(Waiting(Arc::clone(self)));
        };
        state.unconfirmed += 1;
        let deadline = Instant::now() + self.timeout;
        self.look_by(&mut state, deadline);
        Ok(Place { window: self, line, deadline, spare: state.spares.pop(), publish: None })
    }

    /// From now on sends publish on this line by themselves.
    pub(super) fn open(&self, line: Arc<Line>) {
        self.lock().line = Some(line);
    }

    /// The publisher publishes a message.
    pub(super) fn published(&self) {
        self.lock().unconfirmed += 1;
    }

    /// A message of the publisher, or one that was abandoned to it, has ended: one less goes one by one, unless it was lost with
    /// others, see [`Self::go_one_by_one`].
    pub(super) fn confirmed(&self, is_unclear: bool) {
        let mut state = self.lock();
        state.unconfirmed = state.unconfirmed.saturating_sub(1);
        if is_unclear {
            state.one_more_by_one();
        } else {
            state.careful = state.careful.saturating_sub(1);
        }
    }

    /// The broker closed a channel over one of its messages, and does not say which. So all of them have failed, this one as well,
    /// and as many are now published one by one.
    pub(super) fn go_one_by_one(&self) {
        self.lock().one_more_by_one();
    }

    /// Whether messages are published one by one.
    pub(super) fn is_careful(&self) -> bool {
        self.lock().careful > 0
    }

    /// Whether the publisher may publish one more, when `limit` may be unconfirmed at once.
    pub(super) fn has_room(&self, limit: usize) -> bool {
        let state = self.lock();
        state.unconfirmed < if state.careful > 0 { 1 } else { limit }
    }

    /// Waits until the publisher should have a look at it.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// When the publisher has to call [`Self::look`].
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.lock().next_look
    }

    /// The sends look at the time.
    pub(super) fn look(&self) {
        self.lock().next_look = None;
        self.look.notify_waiters();
    }

    /// Nothing more will be heard of what was published on the connections up to this number.
    pub(super) fn ended(&self, on: u64) {
        let mut state = self.lock();
        state.ended = state.ended.max(on);
        drop(state);
        self.look.notify_waiters();
    }

    /// Whether something may still be heard of what was published on the connection of this number.
    pub(super) fn is_heard_of(&self, on: u64) -> bool {
        on > self.lock().ended
    }

    fn look_by(&self, state: &mut State, deadline: Instant) {
        if state.next_look.is_none_or(|next| deadline < next) {
            state.next_look = Some(deadline);
            self.changed.notify_one();
        }
    }

    fn leave(&self, spare: Option<Publish>) {
        let mut state = self.lock();
        state.unconfirmed = state.unconfirmed.saturating_sub(1);
        if state.spares.len() < SPARES {
            state.spares.extend(spare);
        }
        if state.waiting > 0 {
            self.changed.notify_one();
        }
    }

    /// What is in it is never left half changed, so a poisoned lock is taken all the same.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn one_more_by_one(&mut self) {
        // One more than there are, because the first to come may be another than those.
        self.careful = self.careful.max(1) + 1;
    }
}

impl std::fmt::Debug for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Window").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.waiting = state.waiting.saturating_sub(1);
    }
}

// === impl Place ===

impl Place<'_> {
    /// The line to publish on.
    pub(super) fn line(&self) -> &Line {
        &self.line
    }

    /// Publishes, and waits for what the broker says to it. The library has the message when this was polled once.
    ///
    /// # Errors
    /// Nothing is heard of it.
    pub(super) async fn publish(
        &mut self,
        exchange: ShortString,
        routing_key: ShortString,
        properties: BasicProperties,
        body: bytes::Bytes,
    ) -> Result<lapin::Result<Confirmation>, Unheard> {
        let line = Arc::clone(&self.line);
        self.put(async move {
            let options = BasicPublishOptions::default();
            line.channel.basic_publish(exchange, routing_key, options, &body, properties).await?.await
        });
        let window = self.window;
        let mut looked = pin!(window.look.notified());
        poll_fn(|context| {
            if let Some(publish) = &mut self.publish
                && let Poll::Ready(result) = publish.poll(context)
            {
                self.spare = self.publish.take();
                return Poll::Ready(Ok(result));
            }
            while looked.as_mut().poll(context).is_ready() {
                // Before it looks, so that it misses none.
                looked.set(window.look.notified());
                if let Some(unheard) = self.unheard() {
                    return Poll::Ready(Err(unheard));
                }
            }
            Poll::Pending
        })
        .await
    }

    fn put(&mut self, publish: impl Future<Output = lapin::Result<Confirmation>> + Send + 'static) {
        self.publish = Some(match self.spare.take() {
            Some(mut spare) => {
                spare.set(publish);
                spare
            }
            None => ReusableBoxFuture::new(publish),
        });
    }

    /// Why nothing will be heard any more; if something may, the window knows until when.
    fn unheard(&self) -> Option<Unheard> {
        let mut state = self.window.lock();
        if self.line.on <= state.ended {
            return Some(Unheard::Lost);
        }
        if Instant::now() >= self.deadline {
            return Some(Unheard::Late);
        }
        self.window.look_by(&mut state, self.deadline);
        None
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        match self.publish.take() {
            Some(publish) => {
                let abandoned = Abandoned { publish, on: self.line.on };
                // Without the publisher there is no sink any more, and no window.
                let _gone = self.window.abandoned.send(abandoned);
            }
            None => self.window.leave(self.spare.take()),
        }
    }
}

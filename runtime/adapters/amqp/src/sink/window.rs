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

use lapin::Confirmation;
use tokio::{
    sync::{Notify, futures::Notified, mpsc},
    time::{Instant, sleep_until},
};
use tokio_util::sync::ReusableBoxFuture;

use super::line::{Line, Outbound, Publishing};

/// A publish that is under way: the library has the message once it was polled.
pub(super) type Publish = ReusableBoxFuture<'static, lapin::Result<Confirmation>>;

/// How many rooms of publishes that are done are kept for those to come. Each is a good kilobyte, which the allocator has not at hand.
const SPARES: usize = 256;

/// The window of a sink.
pub(super) struct Window<L = Line> {
    state: Mutex<State<L>>,
    /// How many may be in it.
    limit: usize,
    timeout: Duration,
    /// Tells the publisher that there may be room.
    changed: Notify,
    /// Tells whoever keeps the time that there is one to keep.
    timed: Notify,
    /// Tells the sends to have a look at the time, and at their connections.
    look: Notify,
    /// Without a limit by its type: what is in it keeps its room in the window.
    abandoned: mpsc::UnboundedSender<Abandoned>,
}

struct State<L> {
    /// On which the sends may publish by themselves.
    line: Option<Arc<L>>,
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
pub(super) struct Place<'w, L: Publishing = Line> {
    window: &'w Window<L>,
    line: Arc<L>,
    deadline: Instant,
    /// Made before the deadline was noted, so that no look is missed in between; taken once it is waited for.
    looked: Option<Notified<'w>>,
    /// Room for a publish.
    spare: Option<Publish>,
    /// What is under way.
    publish: Option<Publish>,
}

/// A message that waits for the publisher; counted until this is dropped.
pub(super) struct Waiting<L = Line>(Arc<Window<L>>);

/// Room in the window for a message of the publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reserved {
    /// Messages are published one by one, and this is the one.
    pub(super) alone: bool,
}

/// Why nothing was heard of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unheard {
    /// There was no time left.
    Late,
    /// Its connection is gone.
    Lost,
}

// === impl Window ===

impl<L: Publishing> Window<L> {
    /// Room for a message that may be published at once; or it waits, behind all that do.
    pub(super) fn enter(self: &Arc<Self>, is_blocked: bool) -> Result<Place<'_, L>, Waiting<L>> {
        let looked = Some(self.look.notified());
        let mut state = self.lock();
        let is_free =
            !is_blocked && state.waiting == 0 && state.careful == 0 && state.unconfirmed < self.limit;
        let Some(line) = state.line.as_ref().filter(|line| is_free && line.is_good()).map(Arc::clone) else {
            state.waiting += 1;
            // It may sleep because there was no room, of which no one has told it since.
            self.changed.notify_one();
            return Err(Waiting(Arc::clone(self)));
        };
        state.unconfirmed += 1;
        let deadline = Instant::now() + self.timeout;
        self.look_by(&mut state, deadline);
        Ok(Place { window: self, line, deadline, looked, spare: state.spares.pop(), publish: None })
    }
}

impl<L> Window<L> {
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
        let (changed, timed, look) = (Notify::new(), Notify::new(), Notify::new());
        (Arc::new(Self { state: Mutex::new(state), limit, timeout, changed, timed, look, abandoned }), heirs)
    }

    /// From now on sends publish on this line by themselves.
    pub(super) fn open(&self, line: Arc<L>) {
        self.lock().line = Some(line);
    }

    /// Room for a message of the publisher.
    pub(super) fn reserve(&self) -> Option<Reserved> {
        let mut state = self.lock();
        let alone = state.careful > 0;
        if state.unconfirmed >= if alone { 1 } else { self.limit } {
            return None;
        }
        state.unconfirmed += 1;
        Some(Reserved { alone })
    }

    /// The room was not needed.
    pub(super) fn give_back(&self) {
        self.leave(None);
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

    /// Waits until there may be room for one that waits.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Tells the sends when their time is over, for as long as it is polled: one clock for all of them, which stands still while what is
    /// published is confirmed in time.
    pub(super) async fn keep_time(&self) {
        loop {
            let next = self.lock().next_look;
            match next {
                Some(then) => {
                    tokio::select! {
                        () = sleep_until(then) => {
                            self.lock().next_look = None;
                            self.look.notify_waiters();
                        }
                        // They looked, and say in any order until when they have time.
                        () = self.timed.notified() => {}
                    }
                }
                None => self.timed.notified().await,
            }
        }
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

    fn look_by(&self, state: &mut State<L>, deadline: Instant) {
        if state.next_look.is_none_or(|next| deadline < next) {
            state.next_look = Some(deadline);
            self.timed.notify_one();
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
    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl<L> State<L> {
    fn one_more_by_one(&mut self) {
        // One more than there are, because the first to come may be another than those.
        self.careful = self.careful.max(1) + 1;
    }
}

impl<L> std::fmt::Debug for Window<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Window").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl<L> std::fmt::Debug for Waiting<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Waiting").finish()
    }
}

impl<L> Drop for Waiting<L> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.waiting = state.waiting.saturating_sub(1);
    }
}

// === impl Place ===

impl<L: Publishing> Place<'_, L> {
    /// What is published on.
    pub(super) fn line(&self) -> &L {
        &self.line
    }

    /// Where the place is.
    pub(super) fn window(&self) -> &Window<L> {
        self.window
    }

    /// Publishes, and waits for what the broker says to it. The library has the message when this was polled once.
    ///
    /// # Errors
    /// Nothing is heard of it.
    pub(super) async fn publish(
        &mut self,
        message: Outbound,
    ) -> Result<lapin::Result<Confirmation>, Unheard> {
        let publish = Arc::clone(&self.line).publish(message);
        self.publish = Some(match self.spare.take() {
            Some(mut spare) => {
                spare.set(publish);
                spare
            }
            None => ReusableBoxFuture::new(publish),
        });
        let window = self.window;
        let mut looked = pin!(self.looked.take().unwrap_or_else(|| window.look.notified()));
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

    /// Why nothing will be heard any more; if something may, the window knows until when.
    fn unheard(&self) -> Option<Unheard> {
        let mut state = self.window.lock();
        if self.line.on() <= state.ended {
            return Some(Unheard::Lost);
        }
        if Instant::now() >= self.deadline {
            return Some(Unheard::Late);
        }
        self.window.look_by(&mut state, self.deadline);
        None
    }
}

impl<L: Publishing> Drop for Place<'_, L> {
    fn drop(&mut self) {
        match self.publish.take() {
            Some(publish) => {
                let abandoned = Abandoned { publish, on: self.line.on() };
                // Without the publisher there is no sink any more, and no window.
                let _gone = self.window.abandoned.send(abandoned);
            }
            None => self.window.leave(self.spare.take()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        future::poll_fn,
        sync::atomic::{AtomicBool, Ordering::Relaxed},
        task::{Context, Waker},
    };

    use tokio::sync::oneshot;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// A line whose broker says to each message what the test says, in the order in which they were published.
    struct Scripted {
        is_good: AtomicBool,
        on: u64,
        published: Mutex<VecDeque<(String, oneshot::Sender<Confirmation>)>>,
    }

    impl Scripted {
        fn on(on: u64) -> Arc<Self> {
            Arc::new(Self { is_good: AtomicBool::new(true), on, published: Mutex::default() })
        }

        /// Confirms what was published first, and gives its body.
        fn confirm(&self) -> String {
            let (body, told) = self.published.lock().unwrap().pop_front().unwrap();
            let _given_up = told.send(Confirmation::Ack(None));
            body
        }

        fn published(&self) -> Vec<String> {
            self.published.lock().unwrap().iter().map(|(body, _)| body.clone()).collect()
        }
    }

    impl Publishing for Scripted {
        fn is_good(&self) -> bool {
            self.is_good.load(Relaxed)
        }

        fn on(&self) -> u64 {
            self.on
        }

        fn publish(
            self: Arc<Self>,
            message: Outbound,
        ) -> impl Future<Output = lapin::Result<Confirmation>> + Send + 'static {
            async move {
                let (told, said) = oneshot::channel();
                let body = String::from_utf8(message.body.to_vec()).unwrap();
                self.published.lock().unwrap().push_back((body, told));
                match said.await {
                    Ok(confirmation) => Ok(confirmation),
                    // A library that never says what became of it.
                    Err(_) => std::future::pending().await,
                }
            }
        }
    }

    fn outbound(body: &str) -> Outbound {
        Outbound { body: body.to_owned().into(), ..Outbound::default() }
    }

    fn window(limit: usize) -> (Arc<Window<Scripted>>, mpsc::UnboundedReceiver<Abandoned>, Arc<Scripted>) {
        let (window, abandoned) = Window::new(limit, TIMEOUT);
        let line = Scripted::on(1);
        window.open(Arc::clone(&line));
        (window, abandoned, line)
    }

    /// A send that has published, and is polled no further.
    fn begun<'a>(
        place: &'a mut Place<'_, Scripted>,
        body: &str,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<lapin::Result<Confirmation>, Unheard>> + 'a>> {
        let mut publish: std::pin::Pin<Box<dyn Future<Output = _>>> = Box::pin(place.publish(outbound(body)));
        assert!(publish.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        publish
    }

    #[tokio::test]
    async fn a_send_with_a_line_and_room_publishes_by_itself_and_hears_the_answer() {
        let (window, _abandoned, line) = window(2);
        let mut place = window.enter(false).unwrap();
        let publish = begun(&mut place, "first");
        assert_eq!(line.confirm(), "first");
        assert_eq!(publish.await.unwrap().unwrap(), Confirmation::Ack(None));
        drop(place);
        assert_eq!(window.lock().unconfirmed, 0);
    }

    #[tokio::test]
    async fn nothing_overtakes_what_waits_for_the_publisher() {
        let (window, _abandoned) = Window::new(2, TIMEOUT);
        let first = window.enter(false).err().unwrap();
        window.open(Scripted::on(1));
        let second = window.enter(false).err().unwrap();
        drop(first);
        let third = window.enter(false).err().unwrap();
        drop((second, third));
        assert!(window.enter(false).is_ok());
    }

    #[tokio::test]
    async fn without_room_or_a_broker_that_takes_it_a_send_waits() {
        let (window, _abandoned, line) = window(1);
        drop(window.enter(true).err().unwrap());
        let place = window.enter(false).unwrap();
        let waiting = window.enter(false).err().unwrap();
        assert_eq!(window.reserve(), None);
        // Told to the publisher, which may have gone to sleep when there was no room, and none waited.
        window.changed().await;
        drop(place);
        window.changed().await;
        assert_eq!(window.reserve(), Some(Reserved { alone: false }));
        window.give_back();
        drop(waiting);
        line.is_good.store(false, Relaxed);
        assert!(window.enter(false).is_err());
    }

    #[tokio::test]
    async fn what_is_given_up_keeps_its_room_until_the_publisher_has_heard_of_it() {
        let (window, mut abandoned, line) = window(1);
        let mut place = window.enter(false).unwrap();
        drop(begun(&mut place, "given up"));
        drop(place);
        assert_eq!(window.reserve(), None);
        let mut given_up = abandoned.recv().await.unwrap();
        assert_eq!(given_up.on, 1);
        assert_eq!(line.confirm(), "given up");
        poll_fn(|context| given_up.publish.poll(context)).await.unwrap();
        window.confirmed(false);
        assert!(window.reserve().is_some());
    }

    #[tokio::test]
    async fn a_place_that_was_not_used_is_free_again() {
        let (window, mut abandoned, line) = window(1);
        drop(window.enter(false).unwrap());
        assert!(window.reserve().is_some() && abandoned.try_recv().is_err());
        window.give_back();
        // With what was allocated for the one before.
        for body in ["one", "two"] {
            let mut place = window.enter(false).unwrap();
            let publish = begun(&mut place, body);
            assert_eq!(line.confirm(), body);
            publish.await.unwrap().unwrap();
        }
        drop(window.enter(false).unwrap());
        assert!(abandoned.try_recv().is_err());
        assert_eq!(window.lock().spares.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn each_send_is_late_when_its_own_time_is_over() {
        let (window, _abandoned, line) = window(10);
        let began = Instant::now();
        let late = async |after: Duration| {
            sleep_until(began + after).await;
            let mut place = window.enter(false).unwrap();
            let unheard = place.publish(outbound("late")).await.unwrap_err();
            (unheard, began.elapsed())
        };
        let second = Duration::from_secs(1);
        tokio::select! {
            () = window.keep_time() => {}
            // The last to come is the first to look.
            (c, a, b) = async { tokio::join!(late(2 * second), late(Duration::ZERO), late(second)) } => {
                // The clock of tokio has milliseconds.
                let ended = [a, b, c].map(|(unheard, after)| (unheard, after.as_secs()));
                assert_eq!(ended, [(Unheard::Late, 30), (Unheard::Late, 31), (Unheard::Late, 32)]);
            }
        }
        assert_eq!(line.published().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_send_that_has_not_published_yet_when_others_look_has_its_time_all_the_same() {
        let (window, _abandoned, line) = window(10);
        let began = Instant::now();
        let mut first = window.enter(false).unwrap();
        let mut slow = window.enter(false).unwrap();
        tokio::select! {
            () = window.keep_time() => {}
            () = async {
                assert_eq!(first.publish(outbound("first")).await.unwrap_err(), Unheard::Late);
                // Its thread did not have the processor for so long.
                assert_eq!(slow.publish(outbound("slow")).await.unwrap_err(), Unheard::Late);
            } => {}
            () = sleep_until(began + 2 * TIMEOUT) => panic!("it waits for ever"),
        }
        assert_eq!(line.published().len(), 2);
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_that_of_what_was_published_on_it_and_of_no_more() {
        let (window, mut abandoned, line) = window(10);
        let mut old = window.enter(false).unwrap();
        let lost = begun(&mut old, "lost");
        let next = Scripted::on(2);
        window.open(Arc::clone(&next));
        let mut new = window.enter(false).unwrap();
        let kept = begun(&mut new, "kept");
        window.ended(1);
        assert_eq!(lost.await.unwrap_err(), Unheard::Lost);
        drop(old);
        assert!(!window.is_heard_of(abandoned.recv().await.unwrap().on));
        assert_eq!((line.published().len(), next.confirm()), (1, "kept".to_owned()));
        kept.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_was_lost_together_goes_one_by_one_and_then_by_itself_again() {
        let (window, _abandoned, _line) = window(10);
        window.reserve().unwrap();
        window.confirmed(true);
        window.go_one_by_one();
        assert_eq!(window.lock().careful, 3);
        for left in [2, 1, 0] {
            drop(window.enter(false).err().unwrap());
            assert_eq!(window.reserve(), Some(Reserved { alone: true }));
            assert_eq!(window.reserve(), None, "two at once");
            window.confirmed(false);
            assert_eq!(window.lock().careful, left);
        }
        assert!(window.enter(false).is_ok());
    }
}

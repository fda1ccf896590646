//! Order among deliveries.
//!
//! A lane is a queue of the deliveries that have to keep their order, oldest first. Steps are counted in the order of the
//! file, and what a message reaches next always has a higher count. So it is enough for a delivery to know how far the one
//! before it has come: it may start step *k* once the one before has started *k* or a later one, or is gone. Because that one
//! obeyed the same rule, everything older has got there, too.
//!
//! A lane belongs to the endpoint and outlives versions. Counts of different versions cannot be compared, so a delivery of a
//! new version waits until what the old version holds before it is gone.
//!
//! Most deliveries find their lane empty and are gone before the next one comes. Such a delivery *passes*: it takes a place only
//! when it has to wait for something, so that until then its order costs no lock.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll, Waker},
};

/// A queue of deliveries that keep their order.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    places: Mutex<Places>,
    /// How many there are, for who only wants to know whether there are any. Only the endpoint's thread makes them more.
    taken: AtomicUsize,
    /// The number of the delivery that passes; 0 when there is none. While there is one, nothing else is in the lane, and one
    /// thread alone looks at it: the endpoint's, which lets it pass and lets nothing else in meanwhile. So nothing here orders
    /// memory.
    passing: AtomicU64,
    /// What its place would say of the delivery that passes.
    generation: AtomicU64,
    reached: AtomicUsize,
}

/// By number. Most come at the end and leave from the front.
#[derive(Debug, Default)]
struct Places(VecDeque<Place>);

#[derive(Debug)]
struct Place {
    number: u64,
    /// Which version the delivery is in.
    generation: u64,
    /// One more than the highest step that was started; 0 before the first.
    reached: usize,
    /// Who waits to start a step.
    waker: Option<Waker>,
}

/// A delivery's place in its lane; given up when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    lane: Arc<Lane>,
    /// 0 when it has left.
    number: u64,
    /// The place stays taken.
    stays: bool,
}

impl Lane {
    /// A place at the end. Numbers are given by the endpoint, begin with 1 and only grow.
    pub(crate) fn enter(self: &Arc<Self>, number: u64, generation: u64) -> Ticket {
        self.append(Place { number, generation, reached: 0, waker: None });
        Ticket { lane: Arc::clone(self), number, stays: false }
    }

    /// The same for a delivery that is taken through its flow at once, and on this thread. If the lane is empty, it passes: before
    /// anything else enters the lane, or the delivery is polled on another thread, [`Lane::stay`] must be called.
    pub(crate) fn pass(self: &Arc<Self>, number: u64, generation: u64) -> Ticket {
        if !self.lets_pass(number, generation) {
            return self.enter(number, generation);
        }
        Ticket { lane: Arc::clone(self), number, stays: false }
    }

    /// Whether nothing is in the lane, so that the delivery passes.
    fn lets_pass(&self, number: u64, generation: u64) -> bool {
        if self.taken.load(Acquire) != 0 {
            return false;
        }
        self.passing.store(number, Relaxed);
        self.generation.store(generation, Relaxed);
        self.reached.store(0, Relaxed);
        true
    }

    /// What passes, if it is not gone, takes a place.
    pub(crate) fn stay(&self) {
        let number = self.passing.load(Relaxed);
        if number != 0 {
            self.passing.store(0, Relaxed);
            let (generation, reached) = (self.generation.load(Relaxed), self.reached.load(Relaxed));
            self.append(Place { number, generation, reached, waker: None });
        }
    }

    fn append(&self, place: Place) {
        let mut places = self.lock();
        places.0.push_back(place);
        self.taken.store(places.0.len(), Release);
    }

    /// The queue is never left half changed, so a poisoned lock is taken all the same.
    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn index(&self, number: u64) -> Option<usize> {
        self.0.binary_search_by_key(&number, |place| place.number).ok()
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Place> {
        let index = self.index(number)?;
        self.0.get_mut(index)
    }

    /// Wakes the delivery that stands at this index, if it waits.
    fn wake(&mut self, index: usize) {
        if let Some(waker) = self.0.get_mut(index).and_then(|place| place.waker.take()) {
            waker.wake();
        }
    }
}

impl Ticket {
    /// Gives its place up, as if it were dropped, but stays for another delivery.
    pub(crate) fn leave(&mut self) {
        if self.passes() {
            self.lane.passing.store(0, Relaxed);
        } else {
            self.give_up();
        }
        self.number = 0;
    }

    /// [`Lane::pass`], with a ticket that another delivery has left behind.
    pub(crate) fn pass_again(mut self, lane: &Arc<Lane>, number: u64, generation: u64) -> Self {
        if !Arc::ptr_eq(&self.lane, lane) {
            return lane.pass(number, generation);
        }
        if !lane.lets_pass(number, generation) {
            return lane.enter(number, generation);
        }
        self.number = number;
        self
    }

    /// Starts again in another version, in the same place.
    pub(crate) fn restart(&self, generation: u64) {
        if let Some(place) = self.lane.lock().get_mut(self.number) {
            place.generation = generation;
            place.reached = 0;
        }
    }

    /// Takes a place, if it passes: it is about to go to another thread.
    pub(crate) fn stay(&self) {
        if self.passes() {
            self.lane.stay();
        }
    }

    /// Leaves for good, and lets nothing that comes after it start anything more: the source gives the delivery again at
    /// another time, and with it all that its order puts behind it.
    pub(crate) fn block(mut self) {
        self.stay();
        self.stays = true;
    }

    /// Ready when the delivery before this one has started `step`, or is gone.
    pub(crate) fn poll_may_start(&self, step: usize, context: &Context<'_>) -> Poll<()> {
        self.poll(context, |mine, before| before.generation == mine && before.reached > step)
    }

    /// Ready when this delivery is the oldest.
    pub(crate) fn poll_is_first(&self, context: &Context<'_>) -> Poll<()> {
        self.poll(context, |_, _| false)
    }

    fn poll(&self, context: &Context<'_>, passed: impl Fn(u64, &Place) -> bool) -> Poll<()> {
        if self.passes() {
            return Poll::Ready(());
        }
        let mut places = self.lane.lock();
        let Some(index) = places.index(self.number) else { return Poll::Ready(()) };
        let before = index.checked_sub(1).and_then(|before| places.0.get(before));
        let mine = places.0.get(index).map_or(0, |place| place.generation);
        if before.is_none_or(|before| passed(mine, before)) {
            return Poll::Ready(());
        }
        if let Some(place) = places.0.get_mut(index) {
            place.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Says that `step` has been started, which lets the next delivery start it.
    pub(crate) fn started(&self, step: usize) {
        if self.passes() {
            let reached = &self.lane.reached;
            reached.store(reached.load(Relaxed).max(step + 1), Relaxed);
            return;
        }
        let mut places = self.lane.lock();
        if let Some(index) = places.index(self.number)
            && let Some(place) = places.0.get_mut(index)
            && place.reached <= step
        {
            place.reached = step + 1;
            places.wake(index + 1);
        }
    }

    fn give_up(&self) {
        let mut places = self.lane.lock();
        if self.stays {
            // What it has started counts no more: nothing may follow it there.
            if let Some(place) = places.get_mut(self.number) {
                place.reached = 0;
            }
            return;
        }
        if let Some(index) = places.index(self.number) {
            places.0.remove(index);
            self.lane.taken.store(places.0.len(), Release);
            places.wake(index);
        }
    }

    /// Whether it has no place yet, and needs none.
    fn passes(&self) -> bool {
        self.lane.passing.load(Relaxed) == self.number
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.number != 0 {
            self.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn may_start(ticket: &Ticket, step: usize) -> bool {
        ticket.poll_may_start(step, &Context::from_waker(Waker::noop())).is_ready()
    }

    fn is_first(ticket: &Ticket) -> bool {
        ticket.poll_is_first(&Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_step_is_started_in_order() {
        let lane = Arc::new(Lane::default());
        let (a, b, c) = (lane.enter(1, 0), lane.enter(2, 0), lane.enter(3, 0));
        assert!(may_start(&a, 0) && !may_start(&b, 0) && !may_start(&c, 0));
        a.started(0);
        assert!(may_start(&b, 0) && !may_start(&c, 0) && !may_start(&b, 1));
        a.started(3);
        b.started(0);
        assert!(may_start(&b, 1) && may_start(&b, 3) && !may_start(&b, 4));
        assert!(may_start(&c, 0) && !may_start(&c, 1));
    }

    #[test]
    fn one_that_leaves_early_does_not_let_the_next_overtake_what_was_before_it() {
        let lane = Arc::new(Lane::default());
        let (a, b, c) = (lane.enter(1, 0), lane.enter(2, 0), lane.enter(3, 0));
        a.started(0);
        b.started(0);
        drop(b);
        assert!(may_start(&c, 0) && !may_start(&c, 1));
        drop(a);
        assert!(may_start(&c, 1) && is_first(&c));
    }

    #[test]
    fn a_new_version_waits_for_what_the_old_one_holds() {
        let lane = Arc::new(Lane::default());
        let (old, new) = (lane.enter(1, 0), lane.enter(2, 1));
        old.started(7);
        assert!(!may_start(&new, 0));
        old.restart(1);
        assert!(!may_start(&new, 0));
        old.started(0);
        assert!(may_start(&new, 0));
    }

    #[test]
    fn one_that_blocks_is_overtaken_by_nothing() {
        let lane = Arc::new(Lane::default());
        let (a, b, c) = (lane.enter(1, 0), lane.enter(2, 0), lane.enter(3, 0));
        a.started(0);
        b.started(0);
        b.block();
        drop(a);
        assert!(!may_start(&c, 0) && !is_first(&c));
    }

    #[tokio::test]
    async fn whoever_waits_is_woken() {
        let lane = Arc::new(Lane::default());
        let (a, b) = (lane.enter(1, 0), lane.enter(2, 0));
        let waiting = tokio::spawn(async move {
            poll_fn(|context| b.poll_may_start(0, context)).await;
            b.started(0);
            poll_fn(|context| b.poll_is_first(context)).await;
        });
        tokio::task::yield_now().await;
        a.started(0);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(a);
        waiting.await.unwrap();
    }

    #[test]
    fn what_passes_has_its_turn_and_leaves_nothing_behind() {
        let lane = Arc::new(Lane::default());
        let a = lane.pass(1, 0);
        assert!(may_start(&a, 0) && is_first(&a));
        a.started(0);
        drop(a);
        lane.stay();
        let b = lane.enter(2, 0);
        assert!(is_first(&b), "nothing is before it");
    }

    #[test]
    fn what_has_to_wait_on_its_way_through_takes_its_place() {
        let lane = Arc::new(Lane::default());
        let a = lane.pass(1, 0);
        a.started(1);
        lane.stay();
        let b = lane.pass(2, 0);
        assert!(may_start(&b, 1) && !may_start(&b, 2) && !is_first(&b));
        a.started(2);
        assert!(may_start(&b, 2));
        drop(a);
        assert!(is_first(&b));
    }

    #[test]
    fn what_blocks_on_its_way_through_is_overtaken_by_nothing() {
        let lane = Arc::new(Lane::default());
        let a = lane.pass(1, 0);
        a.started(3);
        a.block();
        let b = lane.pass(2, 0);
        assert!(!may_start(&b, 0) && !is_first(&b));
    }
}

//! Order among deliveries.
//!
//! A lane is a queue of the deliveries that have to keep their order, oldest first. Steps are counted in the order of the
//! file, and what a message reaches next always has a higher count. So it is enough for a delivery to know how far the one
//! before it has come: it may start step *k* once the one before has started *k* or a later one, or is gone. Because that one
//! obeyed the same rule, everything older has got there, too.
//!
//! A lane belongs to the endpoint and outlives versions. Counts of different versions cannot be compared, so a delivery of a
//! new version waits until what the old version holds before it is gone.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

/// A queue of deliveries that keep their order.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    places: Mutex<Places>,
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
    number: u64,
    /// The place stays taken.
    stays: bool,
}

impl Lane {
    /// A place at the end. Numbers are given by the endpoint and only grow.
    pub(crate) fn enter(self: &Arc<Self>, number: u64, generation: u64) -> Ticket {
        self.lock().0.push_back(Place { number, generation, reached: 0, waker: None });
        Ticket { lane: Arc::clone(self), number, stays: false }
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
    /// Starts again in another version, in the same place.
    pub(crate) fn restart(&self, generation: u64) {
        if let Some(place) = self.lane.lock().get_mut(self.number) {
            place.generation = generation;
            place.reached = 0;
        }
    }

    /// Leaves for good, and lets nothing that comes after it start anything more: the source gives the delivery again at
    /// another time, and with it all that its order puts behind it.
    pub(crate) fn block(mut self) {
        self.stays = true;
    }

    /// Waits until the delivery before this one has started `step`, or is gone.
    pub(crate) async fn may_start(&self, step: usize) {
        self.wait(|mine, before| before.generation == mine && before.reached > step).await;
    }

    /// Waits until this delivery is the oldest.
    pub(crate) async fn is_first(&self) {
        self.wait(|_, _| false).await;
    }

    async fn wait(&self, passed: impl Fn(u64, &Place) -> bool) {
        poll_fn(|context| {
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
        })
        .await;
    }

    /// Says that `step` has been started, which lets the next delivery start it.
    pub(crate) fn started(&self, step: usize) {
        let mut places = self.lane.lock();
        if let Some(index) = places.index(self.number)
            && let Some(place) = places.0.get_mut(index)
            && place.reached <= step
        {
            place.reached = step + 1;
            places.wake(index + 1);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
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
            places.wake(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use super::*;

    fn ready(future: impl Future<Output = ()>) -> bool {
        let mut future = Box::pin(future);
        let mut context = std::task::Context::from_waker(Waker::noop());
        future.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn a_step_is_started_in_order() {
        let lane = Arc::new(Lane::default());
        let (a, b, c) = (lane.enter(1, 0), lane.enter(2, 0), lane.enter(3, 0));
        assert!(ready(a.may_start(0)) && !ready(b.may_start(0)) && !ready(c.may_start(0)));
        a.started(0);
        assert!(ready(b.may_start(0)) && !ready(c.may_start(0)) && !ready(b.may_start(1)));
        a.started(3);
        b.started(0);
        assert!(ready(b.may_start(1)) && ready(b.may_start(3)) && !ready(b.may_start(4)));
        assert!(ready(c.may_start(0)) && !ready(c.may_start(1)));
    }

    #[test]
    fn one_that_leaves_early_does_not_let_the_next_overtake_what_was_before_it() {
        let lane = Arc::new(Lane::default());
        let (a, b, c) = (lane.enter(1, 0), lane.enter(2, 0), lane.enter(3, 0));
        a.started(0);
        b.started(0);
        drop(b);
        assert!(ready(c.may_start(0)) && !ready(c.may_start(1)));
        drop(a);
        assert!(ready(c.may_start(1)) && ready(c.is_first()));
    }

    #[test]
    fn a_new_version_waits_for_what_the_old_one_holds() {
        let lane = Arc::new(Lane::default());
        let (old, new) = (lane.enter(1, 0), lane.enter(2, 1));
        old.started(7);
        assert!(!ready(new.may_start(0)));
        old.restart(1);
        assert!(!ready(new.may_start(0)));
        old.started(0);
        assert!(ready(new.may_start(0)));
    }

    #[test]
    fn one_that_blocks_is_overtaken_by_nothing() {
        let lane = Arc::new(Lane::default());
        let (a, b, c) = (lane.enter(1, 0), lane.enter(2, 0), lane.enter(3, 0));
        a.started(0);
        b.started(0);
        b.block();
        drop(a);
        assert!(!ready(c.may_start(0)) && !ready(c.is_first()));
    }

    #[tokio::test]
    async fn whoever_waits_is_woken() {
        let lane = Arc::new(Lane::default());
        let (a, b) = (lane.enter(1, 0), lane.enter(2, 0));
        let waiting = tokio::spawn(async move {
            b.may_start(0).await;
            b.started(0);
            b.is_first().await;
        });
        tokio::task::yield_now().await;
        a.started(0);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(a);
        waiting.await.unwrap();
    }
}

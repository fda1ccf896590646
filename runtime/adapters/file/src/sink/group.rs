//! Group commit: however many sends are under way, one thread writes what has come in since the last sync, syncs once, and
//! confirms all of it. While it syncs, the next group gathers; so the slower the disk, the larger the groups.
//!
//! A quick disk would make them too small: a sync costs about as much processor time as twenty lines do, however quickly it is
//! over. So a group that more than one send waits for is let gather a little longer, while more keep coming. A send that waits
//! alone is written at once, and when all that are under way wait already, nothing more comes and they go.
//!
//! A send takes its place in the queue when it is submitted, which is the order of what is written. A thread is only taken
//! (from the runtime's blocking pool) while there is something to write.

use std::{
    collections::VecDeque,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use gristmill_core::{ErrorClass, Failure};
use tokio::sync::oneshot;

/// How long it is first looked away from a group that gathers; what brings nothing new in that time is done gathering. Longer
/// than handing over one send takes, shorter than a sync of a disk that really writes.
const LOOK_AWAY: Duration = Duration::from_micros(100);

/// How often it is looked at most. Each time it is looked away for twice as long as before: so few looks, each of which costs
/// two changes of threads, are enough for a long time, and what is waited for in vain is never much longer than what was waited for
/// with success. Bounds what gathering adds to the time of the first: 1.5 ms or a little more.
const LOOKS: u32 = 4;

/// Writes a group.
pub(crate) trait Commit: Send + Sync + 'static {
    /// What is written.
    type Item: Send;

    /// The most items of one group: what is confirmed at once, and so what the first of them waits for.
    const MAX_GROUP: usize;

    /// Writes and syncs, in order; gives one result an item, in order. Blocks. Never called twice at a time.
    fn commit(&self, items: Vec<Self::Item>) -> Vec<Result<(), Failure>>;

    /// Lets this much time go by, while a group gathers. Blocks.
    fn look_away(&self, time: Duration) {
        thread::sleep(time);
    }
}

/// A queue before a [`Commit`].
#[derive(Debug)]
pub(crate) struct GroupCommit<C: Commit> {
    queue: Mutex<Queue<C::Item>>,
    commit: C,
}

#[derive(Debug)]
struct Queue<J> {
    waiting: VecDeque<(J, oneshot::Sender<Result<(), Failure>>)>,
    /// Whether a thread is writing, or about to.
    writing: bool,
}

impl<C: Commit> GroupCommit<C> {
    pub(crate) fn new(commit: C) -> Arc<Self> {
        let queue = Queue { waiting: VecDeque::new(), writing: false };
        Arc::new(Self { queue: Mutex::new(queue), commit })
    }

    /// What writes.
    pub(crate) fn commit(&self) -> &C {
        &self.commit
    }

    /// Takes the item's place in the order, at once, and gives what confirms it. An item whose confirmation is not waited for
    /// is written all the same.
    pub(crate) fn submit(
        self: &Arc<Self>,
        item: C::Item,
    ) -> impl Future<Output = Result<(), Failure>> + Send + use<C> {
        let (confirm, confirmed) = oneshot::channel();
        let begin = {
            let mut queue = self.lock();
            queue.waiting.push_back((item, confirm));
            !std::mem::replace(&mut queue.writing, true)
        };
        if begin {
            let group = Arc::clone(self);
            tokio::task::spawn_blocking(move || group.write());
        }
        async move {
            confirmed.await.unwrap_or_else(|_| {
                // The commit panicked, or the runtime ends.
                Err(Failure::new(ErrorClass::Internal, "file sink: writing was given up without a result"))
            })
        }
    }

    fn write(&self) {
        loop {
            self.gather();
            let (items, confirmations): (Vec<_>, Vec<_>) = {
                let mut queue = self.lock();
                if queue.waiting.is_empty() {
                    queue.writing = false;
                    return;
                }
                let count = queue.waiting.len().min(C::MAX_GROUP);
                queue.waiting.drain(..count).unzip()
            };
            // A panic fails its own group, for want of results, and those behind it go on. What commits keeps its state
            // such that it can be looked at anew.
            let commit = AssertUnwindSafe(|| self.commit.commit(items));
            let results = std::panic::catch_unwind(commit).unwrap_or_default();
            for (confirm, result) in confirmations.into_iter().zip(results) {
                // Nobody may be waiting any more.
                let _ = confirm.send(result);
            }
        }
    }

    /// Waits while more keeps coming to a group that is not one alone.
    fn gather(&self) {
        let mut waiting = self.lock().waiting.len();
        for look in 0..LOOKS {
            if waiting < 2 || waiting >= C::MAX_GROUP {
                return;
            }
            self.commit.look_away(LOOK_AWAY * (1 << look));
            let now = self.lock().waiting.len();
            if now == waiting {
                return;
            }
            waiting = now;
        }
    }

    /// A poisoned lock is taken all the same: the queue is whole between any two of its operations.
    fn lock(&self) -> MutexGuard<'_, Queue<C::Item>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Writes only when told, and notes the groups. With `looks` it is the test that says how long a
    /// group gathers.
    struct Gate {
        groups: Mutex<Vec<Vec<u32>>>,
        open: Mutex<mpsc::Receiver<()>>,
        looks: Option<Looks>,
    }

    /// Tells that a group is being gathered, and waits for leave to go on.
    struct Looks {
        away: mpsc::Sender<()>,
        back: Mutex<mpsc::Receiver<()>>,
    }

    impl Commit for Gate {
        type Item = u32;
        const MAX_GROUP: usize = 1_000;

        fn commit(&self, items: Vec<u32>) -> Vec<Result<(), Failure>> {
            self.open.lock().unwrap_or_else(PoisonError::into_inner).recv().unwrap();
            assert_ne!(items, [666], "a commit that panics");
            let results = items.iter().map(|_| Ok(())).collect();
            self.groups.lock().unwrap().push(items);
            results
        }

        fn look_away(&self, _time: Duration) {
            if let Some(looks) = &self.looks {
                looks.away.send(()).unwrap();
                looks.back.lock().unwrap().recv().unwrap();
            }
        }
    }

    fn gated(looks: Option<Looks>) -> (Arc<GroupCommit<Gate>>, mpsc::Sender<()>) {
        let (open, gate) = mpsc::channel();
        (GroupCommit::new(Gate { groups: Mutex::default(), open: Mutex::new(gate), looks }), open)
    }

    fn gate() -> (Arc<GroupCommit<Gate>>, mpsc::Sender<()>) {
        gated(None)
    }

    /// A gate with the test's ends of its [`Looks`].
    struct Gathering {
        group: Arc<GroupCommit<Gate>>,
        open: mpsc::Sender<()>,
        is_away: mpsc::Receiver<()>,
        back: mpsc::Sender<()>,
    }

    fn gathering() -> Gathering {
        let ((away, is_away), (back, comes_back)) = (mpsc::channel(), mpsc::channel());
        let (group, open) = gated(Some(Looks { away, back: Mutex::new(comes_back) }));
        Gathering { group, open, is_away, back }
    }

    /// Waits until the thread has taken what waits.
    async fn taken(group: &GroupCommit<Gate>) {
        while !group.lock().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_group_gathers_while_more_keeps_coming_and_one_alone_does_not_wait() {
        let Gathering { group, open, is_away, back } = gathering();
        let mut sent = vec![group.submit(0)];
        taken(&group).await;
        sent.extend((1..=2).map(|item| group.submit(item)));
        open.send(()).unwrap();
        // Two wait: it looks away, and one more comes each time, but not the third.
        for item in 3..=4 {
            is_away.recv().unwrap();
            sent.push(group.submit(item));
            back.send(()).unwrap();
        }
        is_away.recv().unwrap();
        back.send(()).unwrap();
        open.send(()).unwrap();
        for one in sent {
            one.await.unwrap();
        }
        assert_eq!(*group.commit().groups.lock().unwrap(), [vec![0], vec![1, 2, 3, 4]]);
        assert!(is_away.try_recv().is_err());
    }

    #[tokio::test]
    async fn gathering_ends_though_more_keeps_coming() {
        let Gathering { group, open, is_away, back } = gathering();
        let mut sent = vec![group.submit(0)];
        taken(&group).await;
        sent.extend((1..=2).map(|item| group.submit(item)));
        open.send(()).unwrap();
        for item in 0..LOOKS {
            is_away.recv().unwrap();
            sent.push(group.submit(item));
            back.send(()).unwrap();
        }
        open.send(()).unwrap();
        for one in sent {
            one.await.unwrap();
        }
        assert_eq!(group.commit().groups.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn what_comes_in_during_a_sync_is_the_next_group_in_order() {
        let (group, open) = gate();
        let first = group.submit(0);
        // The first group is taken by the thread before the others come.
        taken(&group).await;
        let others: Vec<_> = (1..=100).map(|item| group.submit(item)).collect();
        open.send(()).unwrap();
        open.send(()).unwrap();
        first.await.unwrap();
        for other in others {
            other.await.unwrap();
        }
        let groups = group.commit().groups.lock().unwrap();
        assert_eq!((groups.len(), &groups[1]), (2, &(1..=100).collect::<Vec<_>>()));
    }

    #[tokio::test]
    async fn a_panic_fails_what_waits_and_the_next_is_written() {
        let (group, open) = gate();
        let bad = group.submit(666);
        open.send(()).unwrap();
        assert_eq!(bad.await.unwrap_err().class(), ErrorClass::Internal);
        let good = group.submit(1);
        open.send(()).unwrap();
        good.await.unwrap();
    }
}

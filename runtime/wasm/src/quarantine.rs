//! Holding back a plugin that keeps failing, so that it does not burn message after message, and letting it come back: when
//! the wait is over, one message probes it. Only the guest's own faults count, and each message counts once, however
//! often it is retried: one poisonous message must not stop all others. Neither must a few: a plugin that has been doing
//! well is held back only when the faults are the greater part of what it did lately, and a probe that was known for
//! failing says nothing new, so it does not make the wait longer.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use gristmill_core::{ErrorClass, Failure, MessageId, observe::PluginObserver, plugin::Health};
use tokio::sync::watch;

use crate::sync::lock;

/// How often the wait doubles at most: 64 times the first wait.
const MAX_DOUBLINGS: u32 = 6;

/// How many calls are looked back on, as a multiple of the faults in a row that hold a plugin back.
const WINDOW_TIMES: usize = 20;

/// The most calls that are looked back on.
const MAX_WINDOW: usize = 1_000;

/// How many failed messages are remembered, at most, by those that probe.
const MAX_KNOWN: usize = 1_000;

/// Decides who may call.
#[derive(Debug)]
pub(crate) struct Quarantine {
    after: usize,
    first_wait: Duration,
    observer: Arc<dyn PluginObserver>,
    /// Whether a look at `inner` is needed: false in the usual case, fit and without a fault since the last success.
    /// Written under the lock only.
    troubled: AtomicBool,
    /// The successes since the last fault.
    fine: AtomicUsize,
    inner: Mutex<Inner>,
    health: watch::Sender<Health>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// The messages that failed since the last success.
    failed: HashSet<MessageId>,
    /// The last calls, oldest first: whether each was the first fault of a message in this row.
    recent: VecDeque<bool>,
    /// The messages that failed before the plugin was held back, and as probes since then.
    known: HashSet<MessageId>,
    doublings: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Fit,
    Held(Arc<str>),
    Probing { busy: bool },
}

/// The right to make one call. Dropped without a verdict (the call was cancelled), it has not been made.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    quarantine: &'a Arc<Quarantine>,
    is_probe: bool,
}

/// How a call ended, as far as the plugin's fitness goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answered, be it with `reject` or `retry`.
    Fine,
    /// The guest is at fault.
    Fault,
    /// It failed, and the guest is not to blame.
    Unknown,
}

// === impl Quarantine ===

impl Quarantine {
    pub(crate) fn new(after: u32, first_wait: Duration, observer: Arc<dyn PluginObserver>) -> Arc<Self> {
        Arc::new(Self {
            after: usize::try_from(after).unwrap_or(usize::MAX),
            first_wait,
            observer,
            troubled: AtomicBool::new(false),
            fine: AtomicUsize::new(0),
            inner: Mutex::new(Inner::fit()),
            health: watch::Sender::new(Health::Fit),
        })
    }

    fn window(&self) -> usize {
        self.after.saturating_mul(WINDOW_TIMES).min(MAX_WINDOW)
    }

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Refuses at once what [`Quarantine::admit`] would refuse.
    ///
    /// # Errors
    /// `plugin_quarantined`.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if !self.troubled.load(Ordering::Acquire) {
            return Ok(());
        }
        match &lock(&self.inner).state {
            State::Held(why) => Err(refusal(why)),
            State::Probing { busy: true } => Err(refusal("another message probes it")),
            State::Fit | State::Probing { busy: false } => Ok(()),
        }
    }

    /// The right to make a call.
    ///
    /// # Errors
    /// `plugin_quarantined`.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Ticket<'_>, Failure> {
        let mut is_probe = false;
        if self.troubled.load(Ordering::Acquire) {
            match &mut lock(&self.inner).state {
                State::Fit => {}
                State::Held(why) => return Err(refusal(why)),
                State::Probing { busy: true } => return Err(refusal("another message probes it")),
                State::Probing { busy } => {
                    *busy = true;
                    is_probe = true;
                }
            }
        }
        Ok(Ticket { quarantine: self, is_probe })
    }

    fn succeeded(&self) {
        self.fine.fetch_add(1, Ordering::Relaxed);
        if !self.troubled.load(Ordering::Acquire) {
            return;
        }
        let mut inner = lock(&self.inner);
        match &inner.state {
            State::Fit => inner.failed.clear(),
            // Also a call from before: whichever message the plugin can do shows that it can.
            State::Probing { .. } => {
                *inner = Inner::fit();
                self.health.send_replace(Health::Fit);
                self.observer.quarantined(false);
            }
            State::Held(_) => return,
        }
        self.troubled.store(false, Ordering::Release);
    }

    fn failed(self: &Arc<Self>, is_probe: bool, id: &MessageId, failure: &Failure) {
        let mut inner = lock(&self.inner);
        match (&inner.state, is_probe) {
            (State::Fit, _) => {
                self.troubled.store(true, Ordering::Release);
                let fine = self.fine.swap(0, Ordering::Relaxed);
                if inner.faulted(id, fine, self.window()) && inner.failed.len() >= self.after {
                    let count = inner.failed.len();
                    let why = format!("{count} messages in a row failed, the last with {failure}");
                    self.hold(&mut inner, why.into());
                    self.observer.quarantined(true);
                }
            }
            (State::Probing { .. }, true) => {
                let is_news = !inner.known.contains(id);
                inner.doublings = if is_news { (inner.doublings + 1).min(MAX_DOUBLINGS) } else { 0 };
                if is_news && inner.known.len() < MAX_KNOWN {
                    inner.known.insert(id.clone());
                }
                self.hold(&mut inner, format!("the probe failed with {failure}").into());
            }
            (State::Held(_) | State::Probing { .. }, _) => {}
        }
    }

    fn hold(self: &Arc<Self>, inner: &mut Inner, why: Arc<str>) {
        inner.state = State::Held(why.clone());
        inner.known.extend(std::mem::take(&mut inner.failed).into_iter().take(MAX_KNOWN));
        self.health.send_replace(Health::Quarantined(why));
        let wait = self.first_wait.saturating_mul(1 << inner.doublings);
        let quarantine = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(quarantine) = quarantine.upgrade() {
                quarantine.open_to_probe();
            }
        });
    }

    /// From here on one message may probe. Wakes those who wait for it, also when nothing is new to them: a probe that
    /// was cancelled has to be followed by another.
    fn open_to_probe(&self) {
        let mut inner = lock(&self.inner);
        if inner.state == State::Fit {
            return;
        }
        inner.state = State::Probing { busy: false };
        self.health.send_replace(Health::Probing);
    }
}

// === impl Inner ===

impl Inner {
    fn fit() -> Self {
        Self {
            state: State::Fit,
            failed: HashSet::new(),
            recent: VecDeque::new(),
            known: HashSet::new(),
            doublings: 0,
        }
    }

    /// Notes a fault after so many successes, and gives whether faults are more than half of the last calls. What a
    /// message that is retried does again tells nothing about others, so it is no call here.
    fn faulted(&mut self, id: &MessageId, fine: usize, window: usize) -> bool {
        self.recent.extend(std::iter::repeat_n(false, fine.min(window)));
        if self.failed.insert(id.clone()) {
            self.recent.push_back(true);
        }
        let over = self.recent.len().saturating_sub(window);
        self.recent.drain(..over);
        self.recent.iter().filter(|faulted| **faulted).count() * 2 > self.recent.len()
    }
}

fn refusal(why: &str) -> Failure {
    Failure::new(ErrorClass::PluginQuarantined, format!("the plugin is held back: {why}"))
}

// === impl Ticket ===

impl Ticket<'_> {
    /// Says how the call ended.
    pub(crate) fn settle(mut self, verdict: Verdict, id: &MessageId, failure: Option<&Failure>) {
        match (verdict, failure) {
            (Verdict::Fault, Some(failure)) => self.quarantine.failed(self.is_probe, id, failure),
            (Verdict::Fine, _) => self.quarantine.succeeded(),
            // Dropped as it is: a probe that says nothing about the plugin is no probe.
            (Verdict::Unknown | Verdict::Fault, _) => return,
        }
        self.is_probe = false;
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.quarantine.open_to_probe();
        }
    }
}

#[cfg(test)]
mod tests {
    use gristmill_core::observe::Unobserved;

    use super::*;

    const WAIT: Duration = Duration::from_secs(1);

    fn quarantine() -> Arc<Quarantine> {
        Quarantine::new(2, WAIT, Arc::new(Unobserved))
    }

    fn settle(ticket: Ticket<'_>, id: &str, verdict: Verdict) {
        let failure = Failure::new(ErrorClass::PluginTrap, "trapped");
        ticket.settle(verdict, &id.into(), Some(&failure));
    }

    fn fail(quarantine: &Arc<Quarantine>, id: &str) {
        settle(quarantine.admit().unwrap(), id, Verdict::Fault);
    }

    fn assert_held(quarantine: &Arc<Quarantine>) {
        assert_eq!(quarantine.admit().unwrap_err().class(), ErrorClass::PluginQuarantined);
        assert!(quarantine.check().is_err());
    }

    /// Waits until the health changes, and gives how long that took in paused time.
    async fn next_health(health: &mut watch::Receiver<Health>) -> (Health, Duration) {
        let start = tokio::time::Instant::now();
        health.changed().await.unwrap();
        (health.borrow_and_update().clone(), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn only_different_messages_in_a_row_count() {
        let quarantine = quarantine();
        for _ in 0..10 {
            fail(&quarantine, "poison");
        }
        settle(quarantine.admit().unwrap(), "busy machine", Verdict::Unknown);
        settle(quarantine.admit().unwrap(), "good", Verdict::Fine);
        fail(&quarantine, "a");
        assert!(quarantine.check().is_ok());
        fail(&quarantine, "b");
        assert_held(&quarantine);
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_and_each_failed_one_doubles_the_wait() {
        let quarantine = quarantine();
        let mut health = quarantine.health();
        fail(&quarantine, "a");
        fail(&quarantine, "b");
        let (held, _) = next_health(&mut health).await;
        assert!(matches!(held, Health::Quarantined(why) if why.contains("2 messages in a row")));
        for doublings in 0..9 {
            let (probing, waited) = next_health(&mut health).await;
            assert_eq!(probing, Health::Probing);
            let expected = WAIT * (1 << doublings.min(MAX_DOUBLINGS));
            assert!((expected..expected + Duration::from_millis(5)).contains(&waited), "{waited:?}");
            let probe = quarantine.admit().unwrap();
            assert_held(&quarantine);
            settle(probe, &format!("probe {doublings}"), Verdict::Fault);
            assert!(matches!(next_health(&mut health).await.0, Health::Quarantined(_)));
        }
        next_health(&mut health).await;
        settle(quarantine.admit().unwrap(), "probe", Verdict::Fine);
        assert_eq!(next_health(&mut health).await.0, Health::Fit);
        let (one, two) = (quarantine.admit().unwrap(), quarantine.admit().unwrap());
        settle(one, "c", Verdict::Fault);
        settle(two, "d", Verdict::Fault);
        next_health(&mut health).await;
        let (_, waited) = next_health(&mut health).await;
        assert!(waited < WAIT * 2, "a success forgets the doublings");
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_faults_do_not_hold_back_a_plugin_that_does_well() {
        let quarantine = quarantine();
        for _ in 0..100 {
            settle(quarantine.admit().unwrap(), "good", Verdict::Fine);
        }
        // The window is 40 calls: 20 faults are half of it.
        for n in 0..20 {
            fail(&quarantine, &format!("poison {n}"));
            fail(&quarantine, "poison 0");
        }
        assert!(quarantine.check().is_ok());
        fail(&quarantine, "one more");
        assert_held(&quarantine);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_was_known_to_fail_does_not_make_the_wait_longer() {
        let quarantine = quarantine();
        let mut health = quarantine.health();
        fail(&quarantine, "a");
        fail(&quarantine, "b");
        next_health(&mut health).await;
        for _ in 0..5 {
            let (probing, waited) = next_health(&mut health).await;
            assert_eq!(probing, Health::Probing);
            assert!(waited < WAIT * 2, "{waited:?}");
            fail(&quarantine, "a");
            next_health(&mut health).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_from_before_that_ends_well_while_another_probes_is_enough() {
        let quarantine = quarantine();
        let mut health = quarantine.health();
        let before = quarantine.admit().unwrap();
        fail(&quarantine, "a");
        fail(&quarantine, "b");
        next_health(&mut health).await;
        next_health(&mut health).await;
        let probe = quarantine.admit().unwrap();
        settle(before, "late", Verdict::Fine);
        drop(probe);
        assert_eq!(*health.borrow(), Health::Fit);
        assert!(quarantine.check().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_probe_lets_the_next_one_in() {
        let quarantine = quarantine();
        let mut health = quarantine.health();
        let before = quarantine.admit().unwrap();
        fail(&quarantine, "a");
        fail(&quarantine, "b");
        settle(before, "late", Verdict::Fine);
        assert_held(&quarantine);
        next_health(&mut health).await;
        next_health(&mut health).await;
        drop(quarantine.admit().unwrap());
        assert_eq!(next_health(&mut health).await.0, Health::Probing);
        settle(quarantine.admit().unwrap(), "probe", Verdict::Fine);
        assert_eq!(*health.borrow(), Health::Fit);
    }
}

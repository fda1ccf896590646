//! Holding back a plugin that keeps failing, so that it does not burn message after message, and letting it come back: when
//! the wait is over, one message probes it. Only the guest's own faults count, and each message counts once, however
//! often it is retried: one poisonous message must not stop all others.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gristmill_core::{ErrorClass, Failure, MessageId, observe::PluginObserver, plugin::Health};
use tokio::sync::watch;

use crate::sync::lock;

/// How often the wait doubles at most: 64 times the first wait.
const MAX_DOUBLINGS: u32 = 6;

/// Decides who may call.
#[derive(Debug)]
pub(crate) struct Quarantine {
    after: usize,
    first_wait: Duration,
    observer: Arc<dyn PluginObserver>,
    /// Whether a look at `inner` is needed: false in the usual case, fit and without a fault since the last success.
    /// Written under the lock only.
    troubled: AtomicBool,
    inner: Mutex<Inner>,
    health: watch::Sender<Health>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// The messages that failed since the last success.
    failed: HashSet<MessageId>,
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
            inner: Mutex::new(Inner { state: State::Fit, failed: HashSet::new(), doublings: 0 }),
            health: watch::Sender::new(Health::Fit),
        })
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

    fn succeeded(&self, is_probe: bool) {
        if !self.troubled.load(Ordering::Acquire) {
            return;
        }
        let mut inner = lock(&self.inner);
        match (&inner.state, is_probe) {
            (State::Fit, _) => inner.failed.clear(),
            (State::Probing { .. }, true) => {
                *inner = Inner { state: State::Fit, failed: HashSet::new(), doublings: 0 };
                self.health.send_replace(Health::Fit);
                self.observer.quarantined(false);
            }
            // A call from before the quarantine came back well: that is not the probe.
            (State::Held(_) | State::Probing { .. }, _) => return,
        }
        self.troubled.store(false, Ordering::Release);
    }

    fn failed(self: &Arc<Self>, is_probe: bool, id: &MessageId, failure: &Failure) {
        let mut inner = lock(&self.inner);
        match (&inner.state, is_probe) {
            (State::Fit, _) => {
                self.troubled.store(true, Ordering::Release);
                inner.failed.insert(id.clone());
                if inner.failed.len() >= self.after {
                    let count = inner.failed.len();
                    let why = format!("{count} messages in a row failed, the last with {failure}");
                    self.hold(&mut inner, why.into());
                    self.observer.quarantined(true);
                }
            }
            (State::Probing { .. }, true) => {
                inner.doublings = (inner.doublings + 1).min(MAX_DOUBLINGS);
                self.hold(&mut inner, format!("the probe failed with {failure}").into());
            }
            (State::Held(_) | State::Probing { .. }, _) => {}
        }
    }

    fn hold(self: &Arc<Self>, inner: &mut Inner, why: Arc<str>) {
        inner.state = State::Held(why.clone());
        inner.failed.clear();
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
        lock(&self.inner).state = State::Probing { busy: false };
        self.health.send_replace(Health::Probing);
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
            (Verdict::Fine, _) => self.quarantine.succeeded(self.is_probe),
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
            settle(probe, "probe", Verdict::Fault);
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

//! Which source of this process has which client id at which broker.
//!
//! Configurations that are compared with each other do not tell: a session goes on after its source has another client id, and
//! after its flow is gone, until it is empty or everything has settled, and is then ended. A source that came to the same id
//! meanwhile would get what is not its own, be thrown out, and lose its session to the end of the one before. So a client id is
//! leased from before its client connects until its session is over for this process.
//!
//! One client id at two addresses may be two sessions or one: `mqtts://host:8883` may be the broker of `mqtt://host:1883`. Two
//! sources may have it, for else two brokers could not know clients of one name. But a session that is on its way out is waited
//! for wherever it is, and is not ended while another source has its id elsewhere: either could wipe a session that is alive.

use std::{
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    sync::watch,
    time::{Duration, Instant, timeout_at},
};

use crate::{connection::SessionKey, link::Dial};

/// How long a source that starts waits for the good-bye of one that is gone. The sources of other flows wait behind it.
const GOOD_BYE: Duration = Duration::from_secs(1);

/// All leases of an adapter.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    /// A flow has one or two.
    held: Mutex<Vec<(SessionKey, Arc<Tenant>)>>,
    sources: AtomicU64,
    /// Told when one is given back.
    freed: watch::Sender<()>,
}

/// A source. Its sessions do not exclude each other: it looks after them itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourceId(u64);

/// A session of a source, as others see it.
#[derive(Debug)]
pub(crate) struct Tenant {
    source: SourceId,
    flow: Arc<str>,
    standing: Mutex<Standing>,
}

/// How long a session will be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// As long as its source.
    Stays,
    /// Until it is empty.
    Emptied,
    /// Until what was taken has settled.
    Ends,
}

/// A client id that no other source has until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    leases: Arc<Leases>,
    session: SessionKey,
    tenant: Arc<Tenant>,
}

/// What a session has leased: its client id, at each address by which it knows its broker.
#[derive(Debug)]
pub(crate) struct Tenancy {
    leases: Arc<Leases>,
    tenant: Arc<Tenant>,
    held: Vec<Lease>,
    /// For settings that the broker has not agreed to.
    on_trial: Option<Lease>,
    freed: Option<watch::Receiver<()>>,
}

/// Another source has it.
#[derive(Debug)]
pub(crate) struct Taken {
    /// By whom, for the operator.
    pub(crate) text: String,
    /// Whether that is another flow, which gives it back without anything being done about it.
    pub(crate) is_on_its_way: bool,
    /// Whether the source is gone, so that it gives it back as soon as nothing is left to settle.
    is_gone: bool,
}

// === impl Leases ===

impl Leases {
    /// Another source.
    pub(crate) fn source(&self) -> SourceId {
        SourceId(self.sources.fetch_add(1, Ordering::Relaxed))
    }

    /// Leases the client id of this client.
    ///
    /// # Errors
    /// Another source has it, or may have it and is about to end its session.
    pub(crate) fn lease(self: &Arc<Self>, dial: &Dial, tenant: &Arc<Tenant>) -> Result<Lease, Taken> {
        let session = dial.session();
        let mut held = self.held();
        let others = held.iter().filter(|(_, other)| other.source != tenant.source);
        // Of two that are in the way, the one that stays is to be told of.
        let in_the_way = others
            .filter(|(theirs, _)| theirs.client_id == session.client_id)
            .map(|(theirs, other)| (theirs, other, other.standing()))
            .filter(|(theirs, _, standing)| **theirs == session || *standing != Standing::Stays)
            .min_by_key(|(_, _, standing)| *standing);
        if let Some((_, other, standing)) = in_the_way {
            return Err(Taken {
                text: format!("{}: {} {}", dial.place(), dial.shown, standing.of(&other.flow)),
                is_on_its_way: standing != Standing::Stays && other.flow != tenant.flow,
                is_gone: standing == Standing::Ends,
            });
        }
        held.push((session.clone(), Arc::clone(tenant)));
        drop(held);
        Ok(Lease { leases: Arc::clone(self), session, tenant: Arc::clone(tenant) })
    }

    /// Nothing runs under the lock that can panic.
    fn held(&self) -> MutexGuard<'_, Vec<(SessionKey, Arc<Tenant>)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Standing ===

impl Standing {
    /// What is said to who wants the client id of this flow.
    fn of(self, flow: &str) -> String {
        match self {
            Self::Stays => {
                format!("is the client of the flow `{flow}`, and two sources cannot be one client")
            }
            Self::Emptied => format!(
                "is still the client of the flow `{flow}`, which has another one now and empties the session of this one; the log \
                 says when that is ended"
            ),
            Self::Ends => format!(
                "is still the client of a source of the flow `{flow}` that is gone, until its messages have settled and its session \
                 is ended"
            ),
        }
    }
}

// === impl Tenant ===

impl Tenant {
    pub(crate) fn new(source: SourceId, flow: &Arc<str>) -> Arc<Self> {
        Arc::new(Self { source, flow: Arc::clone(flow), standing: Mutex::new(Standing::Stays) })
    }

    /// It is on its way out, or further on it.
    pub(crate) fn will(&self, standing: Standing) {
        let mut now = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        *now = standing.max(*now);
    }

    fn standing(&self) -> Standing {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lease ===

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = self.leases.held();
        let own = |(session, tenant): &(SessionKey, Arc<Tenant>)| {
            *session == self.session && Arc::ptr_eq(tenant, &self.tenant)
        };
        if let Some(at) = held.iter().position(own) {
            held.swap_remove(at);
        }
        drop(held);
        self.leases.freed.send_replace(());
    }
}

// === impl Taken ===

impl Taken {
    /// For who gives up, and whose flow the runtime tries again.
    pub(crate) fn refusal(self) -> String {
        format!("{}; this is tried again by itself", self.text)
    }
}

// === impl Tenancy ===

impl Tenancy {
    /// Nothing is leased yet.
    pub(crate) fn new(leases: &Arc<Leases>, tenant: Arc<Tenant>) -> Self {
        Self { leases: Arc::clone(leases), tenant, held: Vec::new(), on_trial: None, freed: None }
    }

    /// The session, as others see it.
    pub(crate) fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    /// Leases the client id of this client.
    ///
    /// # Errors
    /// As [`Leases::lease`].
    pub(crate) fn lease(&mut self, dial: &Dial) -> Result<(), Taken> {
        // Before it is looked, so that nothing is given back between the two.
        self.freed = Some(self.leases.freed.subscribe());
        self.held.push(self.leases.lease(dial, &self.tenant)?);
        self.freed = None;
        Ok(())
    }

    /// The same, for who comes right after a source that is gone, and has only to say good-bye.
    ///
    /// # Errors
    /// As [`Leases::lease`].
    pub(crate) async fn lease_soon(&mut self, dial: &Dial) -> Result<(), Taken> {
        let until = Instant::now() + GOOD_BYE;
        loop {
            match self.lease(dial) {
                Err(taken) if taken.is_gone && timeout_at(until, self.freed()).await.is_ok() => {}
                result => return result,
            }
        }
    }

    /// Whether this one is leased.
    pub(crate) fn has(&self, session: &SessionKey) -> bool {
        self.held.iter().chain(&self.on_trial).any(|lease| lease.session == *session)
    }

    /// Waits until another source has given something back, when something was taken; else for ever.
    pub(crate) async fn freed(&mut self) {
        match &mut self.freed {
            // The sender lives as long as this.
            Some(freed) => drop(freed.changed().await),
            None => pending().await,
        }
    }

    /// For settings that are tried now.
    pub(crate) fn try_with(&mut self, lease: Option<Lease>) {
        self.on_trial = lease;
    }

    /// The broker has agreed. The address of before is still one of this session.
    pub(crate) fn agreed(&mut self) {
        self.held.extend(self.on_trial.take());
    }

    /// Back to what was before.
    pub(crate) fn not_agreed(&mut self) {
        self.on_trial = None;
    }

    /// The flow of another source that has the same client id elsewhere.
    pub(crate) fn namesake(&self) -> Option<Arc<str>> {
        let id = &self.held.first()?.session.client_id;
        let all = self.leases.held();
        let mut others = all.iter().filter(|(_, other)| other.source != self.tenant.source);
        others.find(|(session, _)| session.client_id == *id).map(|(_, other)| Arc::clone(&other.flow))
    }
}

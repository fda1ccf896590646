//! An endpoint: what outlives the versions of a flow at one route. It holds the in-flight limit and the queue between
//! requests and flow; the settings of the version that is attached to it are swapped under it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use gristmill_core::{Delivery, source::EndpointContext};
use tokio::sync::mpsc;

use super::signature::Signature;

/// An endpoint. Requests hold it while they are served.
pub(crate) struct Endpoint {
    settings: ArcSwap<Settings>,
    /// Where accepted deliveries go; `None` once the endpoint is closed. The receiver hears the end when every request that
    /// was let in has handed its delivery over or has given up, for each holds a sender of its own. The queue needs no
    /// limit of its own: it holds no more than what is in flight.
    queue: Mutex<Option<mpsc::UnboundedSender<Delivery>>>,
    in_flight: AtomicUsize,
    paused: AtomicBool,
}

/// What a version sets.
pub(crate) struct Settings {
    pub(crate) read_timeout: Duration,
    pub(crate) answer_timeout: Duration,
    pub(crate) keep_credentials: bool,
    pub(crate) signature: Option<Signature>,
    pub(crate) context: EndpointContext,
}

/// Whether a request may come in.
pub(crate) enum Admission {
    /// It may: take a place at the entrance once it is known to be good.
    Open(Entrance),
    /// The flow cannot take messages for now.
    Paused,
    /// As many deliveries are unsettled as may be.
    Full,
    /// The endpoint is no more: look the route up again.
    Closed,
}

/// The right to hand in one delivery, which the endpoint keeps even if it is closed meanwhile.
pub(crate) struct Entrance {
    endpoint: Arc<Endpoint>,
    queue: mpsc::UnboundedSender<Delivery>,
}

/// One of the places for deliveries in flight. Dropping it frees it.
pub(crate) struct Place(Arc<Endpoint>);

// === impl Endpoint ===

impl Endpoint {
    /// A new endpoint, and where its deliveries come out.
    pub(crate) fn new(settings: Settings) -> (Arc<Self>, mpsc::UnboundedReceiver<Delivery>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let endpoint = Self {
            settings: ArcSwap::from_pointee(settings),
            queue: Mutex::new(Some(sender)),
            in_flight: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
        };
        (Arc::new(endpoint), receiver)
    }

    /// The settings of the version that is attached now. A request reads them once.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Attaches another version. Whether the endpoint is paused stays: the flow says when that changes.
    pub(crate) fn attach(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
    }

    /// Lets no further request in. Those that are in are served.
    pub(crate) fn close(&self) {
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Lets a request in, if it may. It has no place yet: a sender that nobody knows must not keep the others out by being
    /// slow. So `Full` is only said early to those who would hear it anyway.
    pub(crate) fn admit(self: &Arc<Self>, limit: usize) -> Admission {
        let Some(queue) = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
            return Admission::Closed;
        };
        if self.paused.load(Ordering::Acquire) {
            return Admission::Paused;
        }
        if self.in_flight.load(Ordering::Acquire) >= limit {
            return Admission::Full;
        }
        Admission::Open(Entrance { endpoint: Arc::clone(self), queue })
    }
}

// === impl Entrance ===

impl Entrance {
    /// Takes a place, to be kept until the delivery has settled. `None` when as many are unsettled as may be.
    pub(crate) fn take_place(&self, limit: usize) -> Option<Place> {
        let in_flight = &self.endpoint.in_flight;
        in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < limit).then_some(n + 1))
            .ok()
            .map(|_| Place(Arc::clone(&self.endpoint)))
    }

    /// Hands the delivery to the flow. When the flow is gone the delivery is dropped, and so released.
    pub(crate) fn hand_in(self, delivery: Delivery) {
        drop(self.queue.send(delivery));
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

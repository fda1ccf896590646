//! The lanes of an endpoint: how many its versions want, and in which of them a message has its place.

use std::sync::Arc;

use gristmill_core::source::Order;

use crate::run::{lane::Lane, version::Version};

/// The lanes of an endpoint, for one way of ordering.
pub(super) struct Lanes {
    pub(super) by_text: Option<Arc<str>>,
    pub(super) strict: bool,
    pub(super) lanes: Vec<Arc<Lane>>,
}

// === impl Lanes ===

impl Lanes {
    pub(super) fn for_version(version: &Version) -> Option<Self> {
        let ordering = &version.ordering;
        let count = match &ordering.parallel {
            Some(parallel) => parallel.lanes,
            None if ordering.order == Order::Total || ordering.strict => 1,
            None => return None,
        };
        Some(Self {
            by_text: ordering.parallel.as_ref().map(|p| Arc::clone(&p.by_text)),
            strict: ordering.strict,
            lanes: (0..count).map(|_| Arc::default()).collect(),
        })
    }

    pub(super) fn same(one: Option<&Self>, other: Option<&Self>) -> bool {
        let shape = |lanes: Option<&Self>| lanes.map(|l| (l.by_text.clone(), l.strict, l.lanes.len()));
        shape(one) == shape(other)
    }
}

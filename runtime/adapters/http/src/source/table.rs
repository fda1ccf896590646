//! The routes of one listener: from host, path and method to an endpoint.
//!
//! A table is never changed: a change builds a new one, and each request reads the one that is current. A route can have
//! several endpoints for a moment, while flows change places in a reload; the one that came last is served, and when it
//! goes the one before it is served again.

use std::{collections::HashMap, sync::Arc};

use super::{endpoint::Endpoint, path::Segment, spec::Route};
use crate::config::{ListenerConfig, ListenerLimits, Method};

/// All that one listener serves.
#[derive(Default)]
pub(crate) struct Table {
    any_host: Branch,
    hosts: HashMap<Box<str>, Branch>,
    /// The limits of the listener: of each the largest that a route asks for, if one does.
    pub(crate) limits: ListenerLimits,
    /// The most bytes and fields of headers that any route takes.
    pub(crate) headers: HeaderLimits,
}

/// How much header a connection takes before anyone knows for which route it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeaderLimits {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
}

/// One route with its endpoint.
pub(crate) struct Registration {
    pub(crate) route: Arc<Route>,
    pub(crate) headers: HeaderLimits,
    pub(crate) endpoint: Arc<Endpoint>,
}

/// What a request is for.
pub(crate) enum Lookup<'path> {
    /// This route, and the texts of the path's parameters in order, still percent-encoded.
    Found(Arc<Registration>, Vec<&'path str>),
    /// The path is served, with these methods, but not with this one.
    OtherMethods(Vec<Method>),
    /// Nothing has this path.
    NotFound,
}

#[derive(Default)]
struct Branch {
    statics: HashMap<Box<str>, Branch>,
    parameter: Option<Box<Branch>>,
    here: Vec<(Method, Arc<Registration>)>,
    rest: Vec<(Method, Arc<Registration>)>,
}

struct Search<'path> {
    method: Option<Method>,
    values: Vec<&'path str>,
    allowed: Vec<Method>,
}

// === impl Table ===

impl Table {
    /// The table of these registrations, the oldest first.
    pub(crate) fn new<'a>(registrations: impl IntoIterator<Item = &'a Arc<Registration>>) -> Self {
        let mut table = Self::default();
        let mut written = ListenerConfig::default();
        for registration in registrations {
            let route = &*registration.route;
            let root = match &route.host {
                Some(host) => table.hosts.entry(host.clone()).or_default(),
                None => &mut table.any_host,
            };
            root.insert(registration);
            written = written.largest(route.listener);
            table.headers.count = table.headers.count.max(registration.headers.count);
            table.headers.bytes = table.headers.bytes.max(registration.headers.bytes);
        }
        table.limits = written.into();
        table
    }

    /// Looks a request up. A static segment goes before a parameter, a parameter before the rest of the path, a named host
    /// before any host; but one that has the method always goes before one that has not.
    pub(crate) fn find<'path>(
        &self,
        host: Option<&str>,
        path: &'path str,
        method: Option<Method>,
    ) -> Lookup<'path> {
        let Some(path) = path.strip_prefix('/') else { return Lookup::NotFound };
        let mut search = Search { method, values: Vec::new(), allowed: Vec::new() };
        let named = host.and_then(|host| self.hosts.get(host));
        for root in named.into_iter().chain([&self.any_host]) {
            if let Some(found) = root.find(Some(path), &mut search) {
                return Lookup::Found(found, search.values);
            }
        }
        if search.allowed.is_empty() {
            return Lookup::NotFound;
        }
        search.allowed.sort_unstable();
        search.allowed.dedup();
        Lookup::OtherMethods(search.allowed)
    }
}

impl Default for HeaderLimits {
    /// What HTTP/1.1 servers take at the least, for a listener that has no route at the moment.
    fn default() -> Self {
        Self { count: 100, bytes: 16 * 1024 }
    }
}

// === impl Branch ===

impl Branch {
    fn insert(&mut self, registration: &Arc<Registration>) {
        let route = &registration.route;
        let entries = route.methods.iter().map(|method| (*method, Arc::clone(registration)));
        let mut branch = self;
        for segment in route.path.segments() {
            branch = match segment {
                Segment::Static(text) => branch.statics.entry(text.clone()).or_default(),
                Segment::Parameter(_) => branch.parameter.get_or_insert_default(),
                Segment::Rest(_) => return branch.rest.extend(entries),
            };
        }
        branch.here.extend(entries);
    }

    /// `path` is what is left of it, `None` after its last segment. As deep as the routes are, not as the path is.
    fn find<'path>(&self, path: Option<&'path str>, search: &mut Search<'path>) -> Option<Arc<Registration>> {
        let Some(path) = path else { return search.choose(&self.here) };
        let (segment, left) = match path.split_once('/') {
            Some((segment, left)) => (segment, Some(left)),
            None => (path, None),
        };
        if let Some(branch) = self.statics.get(segment)
            && let Some(found) = branch.find(left, search)
        {
            return Some(found);
        }
        if path.is_empty() {
            return None;
        }
        if let Some(branch) = &self.parameter
            && !segment.is_empty()
        {
            search.values.push(segment);
            if let Some(found) = branch.find(left, search) {
                return Some(found);
            }
            search.values.pop();
        }
        let found = search.choose(&self.rest);
        if found.is_some() {
            search.values.push(path);
        }
        found
    }
}

// === impl Search ===

impl Search<'_> {
    fn choose(&mut self, entries: &[(Method, Arc<Registration>)]) -> Option<Arc<Registration>> {
        let with = |wanted: Method| {
            entries.iter().rev().find(|(method, _)| *method == wanted).map(|(_, e)| Arc::clone(e))
        };
        let found = match self.method {
            Some(Method::Head) => with(Method::Head).or_else(|| with(Method::Get)),
            Some(method) => with(method),
            None => None,
        };
        if found.is_none() {
            self.allowed.extend(entries.iter().map(|(method, _)| *method));
        }
        found
    }
}

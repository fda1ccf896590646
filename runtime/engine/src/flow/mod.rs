//! A flow file, checked. [`check`] takes what was written and gives a [`CheckedFlow`] or every mistake in it; only a
//! checked flow can be made to run.

mod check;
pub(crate) mod fingerprint;
mod policy;
mod registry;
mod rehearsal;
mod schema;
mod set;
mod steps;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use gristmill_core::{
    limits::FlowLimits,
    observe::StepInfo,
    source::{Order, SourceSpec},
};

pub(crate) use self::{
    check::is_id,
    policy::{ErrorRule, Then},
    rehearsal::Rehearsal,
    steps::{CheckedSinkUse, StepChecker, adapter_of},
};
pub use self::{
    check::{Check, CheckContext, Unique, check, plugins_named},
    registry::{PluginTable, Registry},
    schema::{flow_schema, with_connections},
    set::{CheckedFile, FlowFile, SetContext, check_set},
};
use crate::{expression::Expression, steps::Checked};

/// A flow in which no mistake was found.
pub struct CheckedFlow {
    /// Its id.
    pub id: Arc<str>,
    /// A hash of all it is made of: what was written, what was substituted, and the content of its plugins and of
    /// the files that its configuration names. Twelve hexadecimal digits.
    pub version: Arc<str>,
    /// What it says of itself.
    pub description: Option<String>,
    /// The file it was read from.
    pub file: PathBuf,
    /// Its source.
    pub source: Arc<dyn SourceSpec>,
    /// The name of the source's adapter.
    pub source_adapter: &'static str,
    /// Hash of the source's configuration, its files and the limits that its endpoint keeps: an endpoint whose fingerprint is the
    /// same is not touched by a reload.
    pub source_fingerprint: String,
    /// Its limits.
    pub limits: FlowLimits,
    /// The names of the connections of its source and its sinks.
    pub(crate) connections: BTreeSet<Arc<str>>,
    pub(crate) ordering: Ordering,
    pub(crate) steps: Vec<StepNode<Checked>>,
    pub(crate) infos: Vec<StepInfo>,
    pub(crate) rules: Vec<ErrorRule>,
    /// What a rejected delivery becomes when the source cannot keep it: dropped, because the flow says so.
    pub(crate) discard_rejected: bool,
}

/// How deliveries stand to each other.
#[derive(Clone)]
pub(crate) struct Ordering {
    /// The order of the source.
    pub(crate) order: Order,
    /// One unsettled delivery a lane.
    pub(crate) strict: bool,
    /// Lanes by key; `None` is one lane for all.
    pub(crate) parallel: Option<Parallel>,
}

/// Lanes by key.
#[derive(Clone)]
pub(crate) struct Parallel {
    /// The key.
    pub(crate) by: Arc<Expression>,
    /// The key as written: lanes are kept over a reload when it is the same.
    pub(crate) by_text: Arc<str>,
    /// How many.
    pub(crate) lanes: usize,
}

/// A step in its place. `S` is what is known of it: checked, or running.
pub(crate) struct StepNode<S> {
    /// Counts from 0 in the order of the file, nested steps after the step that holds them: what a message reaches next
    /// always has a higher index.
    pub(crate) index: usize,
    /// Its place, e.g. `steps[1].choice[0].steps[2]`.
    pub(crate) path: Arc<str>,
    /// The step.
    pub(crate) step: S,
}

impl std::fmt::Debug for CheckedFlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckedFlow")
            .field("id", &self.id)
            .field("version", &self.version)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

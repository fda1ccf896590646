//! Sets of statuses.

use std::ops::RangeInclusive;

use gristmill_core::{adapter::Checker, config::Node};
use http::StatusCode;

use crate::config::StatusRange;

/// Some of the statuses of HTTP.
#[derive(Debug, Clone)]
pub(crate) struct StatusSet(Vec<RangeInclusive<u16>>);

impl StatusSet {
    /// Reads the list under `key`. `None` when there are mistakes.
    pub(crate) fn check(
        ranges: &[StatusRange],
        key: &str,
        config: &Node,
        checker: &mut Checker<'_>,
    ) -> Option<Self> {
        let mut set = Vec::with_capacity(ranges.len());
        for (index, range) in ranges.iter().enumerate() {
            match read(range) {
                Some(range) => set.push(range),
                None => checker.mistake(
                    "invalid_status",
                    config.at([key, &index.to_string()]),
                    "this range of statuses ends before it begins",
                    "write the smaller status first: `200-299`",
                ),
            }
        }
        (set.len() == ranges.len()).then_some(Self(set))
    }

    pub(crate) fn contains(&self, status: StatusCode) -> bool {
        self.0.iter().any(|range| range.contains(&status.as_u16()))
    }
}

fn read(range: &StatusRange) -> Option<RangeInclusive<u16>> {
    let range = match range {
        StatusRange::One(status) => *status..=*status,
        StatusRange::Range(text) => {
            let (first, last) = text.split_once('-')?;
            first.parse().ok()?..=last.parse().ok()?
        }
    };
    (!range.is_empty()).then_some(range)
}

//! What is measured in this process: rounds of calls on one thread, by its processor time and its calls of the allocator.

use std::time::Duration;

use anyhow::Result;

use crate::{
    allocations,
    machine::thread_cpu_time,
    report::{Cost, Resources},
    stats::{Rounds, Spread},
};

/// What one round says of one call, or one message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    /// Of processor time.
    pub(crate) nanoseconds: f64,
    /// Calls of the allocator.
    pub(crate) allocations: f64,
}

/// A round that is under way on this thread.
#[derive(Debug)]
pub(crate) struct Clock {
    processor: Duration,
    allocations: u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { allocations: allocations::so_far(), processor: thread_cpu_time() }
    }

    /// The round is over, and had so many calls.
    pub(crate) fn stop(self, calls: u64) -> Round {
        let used = thread_cpu_time().saturating_sub(self.processor).max(Duration::from_nanos(1));
        let allocations = allocations::so_far() - self.allocations;
        let calls = calls.max(1) as f64;
        Round { nanoseconds: used.as_secs_f64() * 1e9 / calls, allocations: allocations as f64 / calls }
    }
}

impl Round {
    /// How many calls a processor has time for in a second.
    pub(crate) fn per_second(&self) -> f64 {
        1e9 / self.nanoseconds
    }
}

/// What a call costs, beside the first floor.
///
/// # Errors
/// When no round was measured, or one allocated nothing.
pub(crate) fn cost(case: impl Into<String>, measured: &Rounds<Round>) -> Result<Cost> {
    let cpu = measured.compare(0, |round| round.nanoseconds / 1e3)?;
    let allocations = measured.compare(0, |round| round.allocations)?;
    let resources = |cpu_us: Spread, allocations: Spread| Resources {
        cpu_us: Some(cpu_us.median),
        allocations: Some(allocations.median),
        peak_mib: None,
    };
    Ok(Cost {
        case: case.into(),
        floor: Some(resources(cpu.floor, allocations.floor)),
        ours: resources(cpu.ours, allocations.ours),
    })
}

//! What the bench asks of the machine: which processors there are, which of them a thread and its children use, and how much
//! processor time a process took.

use std::{fs, io, time::Duration};

use anyhow::{Context, Result};
use rustix::{
    param::clock_ticks_per_second,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// Which processor the subject has and which the load; no choice where there is only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) subject: Option<usize>,
    pub(crate) load: Option<usize>,
}

/// The processors that this process may use.
pub(crate) fn processors() -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect()
}

/// The first two processors: one for the subject, one for the load.
pub(crate) fn places() -> Places {
    match *processors() {
        [subject, load, ..] => Places { subject: Some(subject), load: Some(load) },
        _ => Places { subject: None, load: None },
    }
}

/// Runs `work` with this thread bound to a processor. Threads and processes that it starts are bound, too, and stay so.
///
/// # Errors
/// When the system does not let it.
pub(crate) fn bound_to<T>(processor: Option<usize>, work: impl FnOnce() -> T) -> io::Result<T> {
    let Some(processor) = processor else { return Ok(work()) };
    let before = sched_getaffinity(None)?;
    let mut only = CpuSet::new();
    only.set(processor);
    sched_setaffinity(None, &only)?;
    let result = work();
    sched_setaffinity(None, &before)?;
    Ok(result)
}

/// How much processor time this thread took so far.
pub(crate) fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// How much processor time a process took so far, in user mode and in the kernel, with all its threads. The kernel counts in
/// steps of usually 10 ms.
///
/// # Errors
/// When there is no such process.
pub(crate) fn process_cpu_time(process: u32) -> Result<Duration> {
    let file = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let ticks = cpu_ticks(&stat).with_context(|| format!("cannot make sense of {file}"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
}

/// The fields `utime` and `stime` of proc_pid_stat(5), together.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The second field is the name in parentheses, and may hold both spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_time_are_found_behind_any_name() {
        let stat = "12 (a) R (b) S 1 2 3 0 -1 4194560 5 6 7 8 250 31 9 9 20 0 3 0 99 1000 1";
        assert_eq!(cpu_ticks(stat), Some(281));
        assert_eq!(cpu_ticks("12 (short) S 1 2"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn a_thread_is_bound_for_as_long_as_the_work_lasts() {
        let before = processors();
        let last = *before.last().unwrap();
        assert_eq!(bound_to(Some(last), processors).unwrap(), [last]);
        assert_eq!(processors(), before);
    }

    #[test]
    fn this_process_has_taken_time() {
        assert!(thread_cpu_time() > Duration::ZERO);
        process_cpu_time(std::process::id()).unwrap();
    }
}

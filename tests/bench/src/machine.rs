//! What the bench asks of the machine: which processors there are, which of them a thread and its children use, and how much
//! processor time a process took.

use std::{
    fs, io,
    num::NonZeroUsize,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

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
    Ok(ticks(cpu_ticks(&stat, 2).with_context(|| format!("cannot make sense of {file}"))?))
}

/// The memory of a process that is not on disk: its resident set, with what it shares with others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Memory {
    pub(crate) now_mib: f64,
    /// The most that it ever was.
    pub(crate) peak_mib: f64,
}

/// How much memory a process has, and had at most.
///
/// # Errors
/// When there is no such process.
pub(crate) fn process_memory(process: u32) -> Result<Memory> {
    let file = format!("/proc/{process}/status");
    let status = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    memory(&status).with_context(|| format!("cannot make sense of {file}"))
}

/// `VmRSS` and `VmHWM` of proc_pid_status(5), which are in KiB.
fn memory(status: &str) -> Option<Memory> {
    let field = |name: &str| -> Option<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib / 1024.0)
    };
    Some(Memory { now_mib: field("VmRSS")?, peak_mib: field("VmHWM")? })
}

/// Whether every thread of a process is stopped by a signal.
///
/// # Errors
/// When there is no such process.
pub(crate) fn is_stopped(process: u32) -> Result<bool> {
    let folder = format!("/proc/{process}/task");
    for thread in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        // One that has ended meanwhile does nothing more.
        let Ok(stat) = fs::read_to_string(thread?.path().join("stat")) else { continue };
        if state(&stat) != Some("T") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The state of proc_pid_stat(5): a letter behind the name, which may hold both spaces and parentheses.
fn state(stat: &str) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().next()
}

/// What processes took that the bench started and that no one waits for, in microseconds.
static GRANDCHILDREN: AtomicU64 = AtomicU64::new(0);

/// Notes what the children of our children took so far, such as a broker that a script started: when they are killed with their
/// parent, the system counts them as no one's. To be called once, before that.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn note_grandchildren() -> Result<()> {
    let stats = fs::read_dir("/proc")?.flatten().filter_map(|entry| {
        let process: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        Some((process, parent(&stat)?, ticks(cpu_ticks(&stat, 2)?)))
    });
    let took: Duration = grandchildren(std::process::id(), &stats.collect::<Vec<_>>()).into_iter().sum();
    GRANDCHILDREN.fetch_add(u64::try_from(took.as_micros())?, Relaxed);
    Ok(())
}

/// Of processes, each with its parent and what it took: those that descend from one, without its own children.
fn grandchildren(of: u32, processes: &[(u32, u32, Duration)]) -> Vec<Duration> {
    let children_of = |parents: &[u32]| {
        processes.iter().filter(|(_, parent, _)| parents.contains(parent)).collect::<Vec<_>>()
    };
    let numbers =
        |children: &[&(u32, u32, Duration)]| children.iter().map(|child| child.0).collect::<Vec<_>>();
    let mut generation = numbers(&children_of(&[of]));
    let mut found = Vec::new();
    while !generation.is_empty() {
        let children = children_of(&generation);
        found.extend(children.iter().map(|child| child.2));
        generation = numbers(&children);
    }
    found
}

/// The number of the parent, of proc_pid_stat(5).
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// What else the machine was busy with while something was measured.
#[derive(Debug)]
pub(crate) struct Others {
    began: Instant,
    /// Busy time of all processors, and of it ours, at that moment.
    before: (Duration, Duration),
}

impl Others {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn watch() -> Result<Self> {
        Ok(Self { began: Instant::now(), before: Self::now()? })
    }

    /// The share of all processors that went to other processes since then. Of our children only those count as ours that
    /// have ended by now, and of their children those of [`note_grandchildren`].
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn share(&self) -> Result<f64> {
        let (all, ours) = Self::now()?;
        let others = all.saturating_sub(self.before.0).saturating_sub(ours.saturating_sub(self.before.1));
        let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get) as f64;
        Ok(others.as_secs_f64() / self.began.elapsed().as_secs_f64() / processors)
    }

    fn now() -> Result<(Duration, Duration)> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let ours = fs::read_to_string("/proc/self/stat").context("cannot read /proc/self/stat")?;
        let all = busy_ticks(&stat).context("cannot make sense of /proc/stat")?;
        let ours = cpu_ticks(&ours, 4).context("cannot make sense of /proc/self/stat")?;
        let grandchildren = Duration::from_micros(GRANDCHILDREN.load(Relaxed));
        Ok((ticks(all), ticks(ours) + grandchildren))
    }
}

/// The time that all processors were busy with processes and the kernel, of proc_stat(5).
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq
    Some([0, 1, 2, 5, 6].iter().filter_map(|field| fields.get(*field)).sum())
}

fn ticks(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64)
}

/// The sum of the first fields from `utime` on of proc_pid_stat(5): `utime` and `stime`, then those of children that ended.
fn cpu_ticks(stat: &str, fields: usize) -> Option<u64> {
    // The second field is the name in parentheses, and may hold both spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let times: Vec<u64> =
        rest.split_ascii_whitespace().skip(11).take(fields).map_while(|field| field.parse().ok()).collect();
    (times.len() == fields).then(|| times.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_time_are_found_behind_any_name() {
        let stat = "12 (a) R (b) S 1 2 3 0 -1 4194560 5 6 7 8 250 31 9 9 20 0 3 0 99 1000 1";
        assert_eq!(cpu_ticks(stat, 2), Some(281));
        assert_eq!(cpu_ticks(stat, 4), Some(299));
        assert_eq!(cpu_ticks("12 (short) S 1 2", 2), None);
        assert_eq!(cpu_ticks("", 2), None);
    }

    #[test]
    fn grandchildren_are_all_that_descend_but_children() {
        let second = Duration::from_secs;
        // 2 and 3 are the children of 1, 4 and 5 theirs, 6 that of 5; 8 is another's.
        let processes = [(2, 1, 1), (3, 1, 2), (4, 2, 4), (5, 3, 8), (6, 5, 16), (8, 7, 32)]
            .map(|(process, parent, took)| (process, parent, second(took)));
        assert_eq!(grandchildren(1, &processes), [4, 8, 16].map(second));
        assert_eq!(parent("12 (a) R (b) T 9 2 3"), Some(9));
        note_grandchildren().unwrap();
    }

    #[test]
    fn the_state_is_found_behind_any_name() {
        assert_eq!(state("12 (a) R (b) T 1 2 3"), Some("T"));
        assert_eq!(state(""), None);
        assert!(!is_stopped(std::process::id()).unwrap());
    }

    #[test]
    fn memory_is_now_and_at_most() {
        let status = "Name:\tx\nVmPeak:\t 9999 kB\nVmHWM:\t   4096 kB\nVmRSS:\t   2048 kB\n";
        assert_eq!(memory(status), Some(Memory { now_mib: 2.0, peak_mib: 4.0 }));
        assert_eq!(memory("VmHWM:\t4096 kB\n"), None);
        let own = process_memory(std::process::id()).unwrap();
        assert!(own.now_mib > 0.0 && own.now_mib <= own.peak_mib, "{own:?}");
    }

    #[test]
    fn idle_processors_are_not_busy() {
        let stat = "cpu  10 20 30 4000 500 6 7 80 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_ticks(stat), Some(73));
        assert_eq!(busy_ticks(""), None);
        assert!(Others::watch().unwrap().share().unwrap() >= 0.0);
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

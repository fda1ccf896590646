//! Threads for long work: to check flows and to compile plugins takes the processor for many milliseconds, in which every message
//! would wait whose worker did it.

use std::{fmt, io, thread};

use tokio::sync::oneshot;

/// How much a thread in the background gives way to those that carry messages, where the processor is wholly in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveWay {
    /// It has a fourth of a processor, so that a limit of time on its work keeps its meaning: for what may take seconds.
    Mostly,
    /// It has a hundredth of a processor, and one that has a message takes the processor at once: for what takes milliseconds.
    Wholly,
}

/// Why there is no result.
#[derive(Debug)]
pub enum Fault {
    /// There is no thread to do it.
    Refused(io::Error),
    /// It panicked, which was reported by the panic's hook.
    Panicked,
}

/// Does this on a thread of its own. It is done to its end, even if no one waits for it any more.
///
/// # Errors
/// When it could not be done.
pub async fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        // Whoever waited may be gone.
        drop(tell.send(work()));
    };
    thread::Builder::new().name(name.into()).spawn(work).map_err(Fault::Refused)?;
    told.await.map_err(|_| Fault::Panicked)
}

/// The same on a thread that gives way, and blocks until it is done. Threads that it starts are like it, for
/// as long as they live: so not for what makes threads that others use later, as a task does that is the first to block.
///
/// # Errors
/// As [`run`].
pub fn give_way<T: Send + 'static>(
    how: GiveWay,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    let lower_and_work = move || {
        how.begin();
        work()
    };
    let thread = thread::Builder::new().name(name.into()).spawn(lower_and_work).map_err(Fault::Refused)?;
    thread.join().map_err(|_| Fault::Panicked)
}

/// Lets another thread have the processor, if one wants it: for long work, between two parts of it. The kernel would take it away too,
/// but only after milliseconds.
pub fn pause() {
    thread::yield_now();
}

// === impl GiveWay ===

impl GiveWay {
    /// How much less the thread is worth to the scheduler than others (nice(2)).
    #[cfg(target_os = "linux")]
    const fn nice(self) -> i32 {
        match self {
            Self::Mostly => 5,
            Self::Wholly => 19,
        }
    }

    /// From now on, this thread gives way. Elsewhere than on Linux priorities are those of whole processes.
    fn begin(self) {
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{getpriority_process, setpriority_process};
            let nice = self.nice();
            // For Linux, the calling thread is a process here. A whole process that gives way already has nothing to add.
            let gives = |own| if own < nice { setpriority_process(None, nice) } else { Ok(()) };
            if let Err(error) = getpriority_process(None).and_then(gives) {
                tracing::debug!(%error, "a thread in the background has the priority of all others");
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "no thread can be started: {error}"),
            Self::Panicked => f.write_str("it panicked"),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_done_gives_way_and_gives_its_result() {
        let nice = || {
            #[cfg(target_os = "linux")]
            return rustix::process::getpriority_process(None).unwrap();
            #[cfg(not(target_os = "linux"))]
            return 0;
        };
        let here = nice();
        assert_eq!(run("test", nice).await.unwrap(), here);
        for (how, lower) in [(GiveWay::Mostly, 5), (GiveWay::Wholly, 19)] {
            let there = give_way(how, "test", nice).unwrap();
            assert_eq!(there, if cfg!(target_os = "linux") { here.max(lower) } else { here });
        }
        assert_eq!(nice(), here, "only the other thread gives way");
    }

    #[tokio::test]
    async fn a_panic_is_told() {
        for fault in [
            run("test", || panic!("on purpose")).await.unwrap_err(),
            give_way(GiveWay::Mostly, "test", || panic!("on purpose")).unwrap_err(),
        ] {
            assert!(matches!(fault, Fault::Panicked), "{fault}");
        }
    }
}

//! The case `reload`: the flow of the case `http` at a constant rate of half its peak, while it is reloaded again and again,
//! against the same without. Whatever is answered wrongly, or not, ends the bench, on the connections of the load and on
//! new ones that are made all the while; what of these is refused is counted.

mod changes;
mod connects;

use std::{
    cell::RefCell,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use self::{
    changes::{Files, PLUGIN},
    connects::Connects,
};
use crate::{
    case::{Effort, Setup},
    http::{
        OPEN_CONNECTIONS, PATH, figures, flow_of,
        server::{Manner, Server, Work},
    },
    load::{Pace, Sample, WARM_UP},
    machine::{bound_to, places},
    plugins,
    report::{Goal, Report, Row, Unit},
    stats::{Spread, alternate},
    subject::{Subject, free_address, gristmill_here},
};

/// How many reloads there are in all, at least.
const RELOADS: usize = 100;

/// From one reload to the next.
const RELOAD_EVERY: Duration = Duration::from_millis(100);

/// To find the peak.
const CONNECTIONS: usize = 32;

/// Files that have rested that long are read; the least that can be set, for what is measured is what comes after.
const CONFIGURATION: &str = "watch: { debounce_ms: 10 }\n";

/// Runs the case.
pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let Effort { rounds, requests, .. } = setup.effort;
    let work = Work::rename()?;
    let (ours, mut files) = server(setup)?;
    // Both variants of the plugin are compiled now, and found later: four saves change it twice.
    for _ in 0..4 {
        files.change(|| Ok(()))?;
    }
    let reloads = RELOADS.div_ceil(rounds);
    let round = requests.max(RELOAD_EVERY * u32::try_from(reloads)?);
    let closed = Manner { connections: CONNECTIONS, pace: Pace::Answers, round: requests };
    let rate = ours.round(&work, closed)?.per_second / 2.0;
    let open = Manner { connections: OPEN_CONNECTIONS, pace: Pace::PerSecond(rate), round };
    let besides = RefCell::new(Besides::new(&ours, &work, files));
    let round_with = |reloads| {
        let besides = &mut *besides.borrow_mut();
        beside(|| ours.round(&work, open), |is_over| besides.go_on(reloads, round, is_over))
    };
    round_with(reloads)?;
    besides.borrow_mut().forget();
    let measured = alternate(rounds, &mut [&mut || round_with(0)], &mut || round_with(reloads))?;
    let Besides { took, connects, .. } = besides.into_inner();
    figures::rows(
        report,
        "reload",
        "no reloads",
        &measured,
        &[
            ("p50", Unit::Microseconds, None, |sample| sample.p50_us),
            ("p99", Unit::Microseconds, Some(Goal::RatioAtMost(2.0)), |sample| sample.p99_us),
            ("p99.9", Unit::Microseconds, None, |sample| sample.p999_us),
            ("cpu", Unit::Microseconds, None, |sample| sample.cpu_us),
        ],
    )?;
    report.rows.push(Row::alone("reload/applied", Unit::Milliseconds, Spread::of(&took)?));
    let refused = Spread::of(&[connects.refused as f64])?;
    report.rows.push(Row::alone("reload/refused", Unit::Count, refused).goal(Goal::AtMost(0.0)));
    report.remarks.push(format!(
        "reload: {} reloads and {} new connections while requests were answered, all of them rightly",
        took.len(),
        connects.tried
    ));
    if took.len() < RELOADS {
        report.remarks.push(format!("reload: the rounds were over before {RELOADS} reloads were done"));
    }
    figures::load_of_open(report, "reload", rate, &measured)
}

/// The runtime, with a folder of plugins of its own.
fn server(setup: &Setup) -> Result<(Server, Files)> {
    let (address, folder) = (free_address()?, tempfile::tempdir()?);
    let text = flow_of("orders", address, PATH, PLUGIN);
    let files = Files::new(folder.path(), text, &plugins::read(&setup.plugins, "bench-rename")?)?;
    fs::write(folder.path().join("gristmill.yaml"), CONFIGURATION)?;
    let mut subject = Subject::start(gristmill_here(setup), folder)?;
    subject.until("the flow does not run", |_| files.are_applied())?;
    Ok((Server::until_it_listens(subject, address)?, files))
}

/// Does something beside a round, on the load's processor, until the round is over.
fn beside(
    round: impl FnOnce() -> Result<Sample>,
    something: impl FnOnce(&AtomicBool) -> Result<()> + Send,
) -> Result<Sample> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let beside = scope.spawn(|| bound_to(places().load, || something(&over))?);
        let sample = round();
        over.store(true, Ordering::Relaxed);
        beside.join().map_err(|_| anyhow!("what goes on beside the load panicked"))??;
        sample
    })
}

/// What goes on beside a round: reloads, and new connections.
struct Besides<'a> {
    files: Files,
    connects: Connects<'a>,
    /// How long each reload took, from the save until it was applied, in milliseconds.
    took: Vec<f64>,
}

impl<'a> Besides<'a> {
    fn new(server: &'a Server, work: &'a Work, files: Files) -> Self {
        Self { files, connects: Connects::new(server, work), took: Vec::new() }
    }

    /// What was so far was a rehearsal.
    fn forget(&mut self) {
        self.connects.forget();
        self.took.clear();
    }

    /// Reloads so many times in the round, and connects all the while, until it is over.
    fn go_on(&mut self, reloads: usize, round: Duration, is_over: &AtomicBool) -> Result<()> {
        let begins = Instant::now() + round.mul_f64(WARM_UP);
        let mut done = 0;
        while !is_over.load(Ordering::Relaxed) {
            let due = begins + round.mul_f64(done as f64 / reloads.max(1) as f64);
            if done < reloads && Instant::now() >= due {
                let took = self.files.change(|| self.connects.go_on())?;
                self.took.push(took.as_secs_f64() * 1e3);
                done += 1;
            } else {
                self.connects.go_on()?;
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }
}

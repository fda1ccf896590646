//! The case `file-lines`: the lines of a file go through a plugin to the end of another file, in the real binary; against a
//! loop that does the same, with the bare Wasm call and with the same code native. Both are processes of their own, bound to one
//! processor. Each round is one whole file, from when it is put into the folder until it is among the done ones, which is when
//! everything of it is on disk. Every byte of the output is compared with the right one.
//!
//! How often ours syncs depends on the disk and on how fast lines come. So that the floors sync as often, that is counted in a
//! round before those that are measured.

pub(crate) mod floor;
mod writes;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, BufWriter, Read, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bench_rename::rename;
use gristmill_mill::sample::{numbered_order, order};
use tempfile::TempDir;

use self::writes::{What, Writes};
use crate::{
    case::Setup,
    machine::{bound_to, places},
    report::{Cost, Goal, Report, Resources, Row, Unit},
    stats::alternate,
    subject::Subject,
};

/// The folder that is read, the one that is written to, and the files there.
const IN: &str = "in";
const OUT: &str = "out";
const INPUT: &str = "orders.jsonl";
const OUTPUT: &str = "renamed.jsonl";

/// One line, its end included.
const LINE_BYTES: usize = 1024;

/// As many lines as make 200 MB; a quick run takes a tenth.
const LINES: usize = 200_000;
const QUICK_LINES: usize = 20_000;

/// After how many lines the floor syncs that does not sync as often as ours: what ours may have on its way, and so the fewest
/// syncs that any program does that promises as much.
const WINDOW: u64 = IN_FLIGHT as u64;

/// How many lines may be on their way: few enough that what is written and synced at once is one write.
const IN_FLIGHT: usize = 1_000;

/// How long one file may take at most.
const PATIENCE: Duration = Duration::from_secs(120);

const LOOK_EVERY: Duration = Duration::from_micros(500);

/// The input, and what has to come out.
struct Files {
    folder: TempDir,
    lines: usize,
}

/// What one round says.
#[derive(Debug, Clone, Copy)]
struct Sample {
    per_second: f64,
    cpu_us: f64,
}

/// Runs the case.
pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let lines = if report.quick { QUICK_LINES } else { LINES };
    let files = Files::write(lines)?;
    bound_to(places().load, || measure(setup, &files, report))??;
    if report.quick {
        report.remarks.push(format!(
            "file-lines: {} MB a file; a full run takes {} MB",
            lines * LINE_BYTES / 1_000_000,
            LINES * LINE_BYTES / 1_000_000
        ));
    }
    Ok(())
}

fn measure(setup: &Setup, files: &Files, report: &mut Report) -> Result<()> {
    let mut ours = gristmill(setup)?;
    // What warms it up.
    files.pass_through(&ours)?;
    let (syncs, notes) = count_writes(files, &ours)?;
    let plugins = setup.plugins.to_str().context("the folder of the plugins has a name that is not text")?;
    let as_often = |times: u64| (files.lines as u64 / times).max(1);
    let (sync_every, note_every) = (as_often(syncs), as_often(notes));
    let mut bare = floor(sync_every, note_every, &["--plugins", plugins])?;
    let native = floor(sync_every, note_every, &[])?;
    let seldom = floor(WINDOW, note_every.max(WINDOW), &["--plugins", plugins])?;
    for floor in [&bare, &native, &seldom] {
        files.pass_through(floor)?;
    }
    let round_of = |subject: &'_ Subject| files.pass_through(subject);
    let measured = alternate(
        setup.effort.rounds,
        &mut [&mut || round_of(&bare), &mut || round_of(&native), &mut || round_of(&seldom)],
        &mut || round_of(&ours),
    )?;
    let floors = [
        ("a loop, bare Wasm calls", Some(Goal::RatioAtLeast(0.8))),
        ("a loop, native", None),
        ("bare Wasm calls, a sync for 1,000 lines", None),
    ];
    for (index, (name, goal)) in floors.into_iter().enumerate() {
        let compared = measured.compare(index, |sample| sample.per_second)?;
        report.rows.push(Row::compared("file-lines", name, Unit::PerSecond, compared).goal(goal));
    }
    let cpu = measured.compare(0, |sample| sample.cpu_us)?;
    let resources = |cpu_us: f64, subject: &mut Subject| -> Result<Resources> {
        let peak_mib = Some(subject.memory()?.peak_mib);
        let mut counted = Resources { cpu_us: Some(cpu_us), peak_mib, allocations: None };
        if let Some(counting) = &setup.counting {
            subject.restart_counted(counting)?;
            files.pass_through(subject)?;
            let calls = subject.allocations_of(|| files.pass_through(subject).map(drop))?;
            counted.allocations = Some(calls as f64 / files.lines as f64);
        }
        Ok(counted)
    };
    report.costs.push(Cost {
        case: "file-lines".into(),
        floor: Some(resources(cpu.floor.median, &mut bare)?),
        ours: resources(cpu.ours.median, &mut ours)?,
    });
    report.remarks.push(format!(
        "file-lines: {} lines a file, {syncs} syncs of the output, and {notes} notes of how far it came, as counted in ours",
        files.lines
    ));
    Ok(())
}

/// The real binary.
fn gristmill(setup: &Setup) -> Result<Subject> {
    let flow = format!(
        "flow: lines
source:
  file:
    directory: {IN}
    create_directory: true
    pattern: '*.jsonl'
    settle_ms: 0
    read: {{ lines: {{}} }}
steps:
  - transform: {{ plugin: bench-rename }}
  - send:
      file: {{ directory: {OUT}, name: {OUTPUT}, mode: {{ append: {{}} }} }}
limits: {{ in_flight: {IN_FLIGHT} }}
"
    );
    let mut subject = Subject::gristmill(setup, &[("lines.yaml", &flow)])?;
    subject.until("it has not claimed its folder", |it| {
        Ok(progress_folder(&it.folder().join(IN)).is_some() && it.folder().join(OUT).is_dir())
    })?;
    Ok(subject)
}

/// Where ours keeps how far it came.
fn progress_folder(input: &Path) -> Option<PathBuf> {
    let owners = fs::read_dir(input.join(".gristmill")).ok()?;
    owners.flatten().map(|owner| owner.path().join("progress")).find(|folder| folder.is_dir())
}

/// How often ours syncs its output and notes how far it came, for one file.
fn count_writes(files: &Files, ours: &Subject) -> Result<(u64, u64)> {
    let progress =
        progress_folder(&ours.folder().join(IN)).context("there is no folder with the progress")?;
    let notes = Writes::count(&progress, What::Close)?;
    let writes = Writes::count(&ours.folder().join(OUT), What::Write)?;
    files.pass_through(ours)?;
    let (writes, notes) = (writes.so_far(), notes.so_far());
    ensure!(writes > 0 && notes > 0, "nothing was counted: {writes} writes, {notes} notes");
    Ok((writes, notes))
}

fn floor(sync_every: u64, note_every: u64, work: &[&str]) -> Result<Subject> {
    let (sync_every, note_every) = (sync_every.to_string(), note_every.to_string());
    let arguments = ["floor", "file-lines", "--sync-every", &sync_every, "--note-every", &note_every];
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(arguments).args(work);
    let folder = tempfile::tempdir()?;
    for name in [IN, OUT] {
        fs::create_dir(folder.path().join(name))?;
    }
    let mut subject = Subject::start(command, folder)?;
    subject.until("it has not begun", |it| Ok(it.folder().join(IN).join("done").is_dir()))?;
    Ok(subject)
}

impl Files {
    fn write(lines: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let create =
            |name: &str| -> Result<_> { Ok(BufWriter::new(File::create(folder.path().join(name))?)) };
        let (mut input, mut expected) = (create(INPUT)?, create(OUTPUT)?);
        // Two digits are added, and the line has an end.
        let template = order(LINE_BYTES - 3);
        for number in 0..lines {
            let line = numbered_order(&template, number);
            input.write_all(line.as_bytes())?;
            input.write_all(b"\n")?;
            expected.write_all(&rename(line.as_bytes())?)?;
            expected.write_all(b"\n")?;
        }
        for file in [input, expected] {
            // Else it would be written out while something is measured.
            file.into_inner()?.sync_all()?;
        }
        Ok(Self { folder, lines })
    }

    /// One round: gives the file to a subject, waits until it is done, and looks at what came out.
    fn pass_through(&self, subject: &Subject) -> Result<Sample> {
        let (input, output) = (subject.folder().join(IN), subject.folder().join(OUT).join(OUTPUT));
        let done = input.join("done").join(INPUT);
        let cpu_before = subject.cpu_time()?;
        let began = Instant::now();
        // The same file each time, whole from the beginning.
        fs::hard_link(self.folder.path().join(INPUT), input.join(INPUT))?;
        while !done.exists() {
            if began.elapsed() > PATIENCE {
                bail!("a file takes too long; the log ends with:\n{}", subject.log_tail());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let took = began.elapsed();
        let cpu = subject.cpu_time()?.saturating_sub(cpu_before);
        let expected = self.folder.path().join(OUTPUT);
        let came_out = File::open(&output).with_context(|| {
            format!("nothing came out to {}; the log ends with:\n{}", output.display(), subject.log_tail())
        })?;
        if let Some(offset) = first_difference(came_out, File::open(expected)?)? {
            bail!(
                "what came out is not what has to, from byte {offset} on; the log ends with:\n{}",
                subject.log_tail()
            );
        }
        fs::remove_file(&done)?;
        fs::remove_file(&output)?;
        let lines = self.lines as f64;
        Ok(Sample { per_second: lines / took.as_secs_f64(), cpu_us: cpu.as_secs_f64() * 1e6 / lines })
    }
}

/// Where two files first differ.
fn first_difference(left: impl Read, right: impl Read) -> Result<Option<u64>> {
    let (mut left, mut right) = (BufReader::new(left), BufReader::new(right));
    let mut offset = 0;
    loop {
        let (ours, theirs) = (left.fill_buf()?, right.fill_buf()?);
        let length = ours.len().min(theirs.len());
        let same = ours.iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
        if same < length || length == 0 {
            // Both at their end, or one of them.
            return Ok((ours.len() != theirs.len() || same < length).then_some(offset + same as u64));
        }
        offset += length as u64;
        left.consume(length);
        right.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_differ_where_a_byte_does_or_one_of_them_ends() {
        let at = |left: &str, right: &str| first_difference(left.as_bytes(), right.as_bytes()).unwrap();
        assert_eq!(at("", ""), None);
        assert_eq!(at("abc", "abc"), None);
        assert_eq!(at("abc", "abd"), Some(2));
        assert_eq!(at("abc", "ab"), Some(2));
        assert_eq!(at("", "a"), Some(0));
    }

    #[test]
    fn what_has_to_come_out_has_as_many_lines_as_what_goes_in() {
        let files = Files::write(3).unwrap();
        let text = |name: &str| fs::read_to_string(files.folder.path().join(name)).unwrap();
        assert_eq!(text(INPUT).len(), 3 * LINE_BYTES);
        assert_eq!(text(OUTPUT).lines().count(), 3);
        assert!(text(OUTPUT).lines().nth(2).unwrap().contains(r#""id":100002"#));
    }
}

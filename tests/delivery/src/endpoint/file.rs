//! Files: a feeder that moves in files of lines which are on disk, and a reader of what the sink has appended or put down.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use super::Work;
use crate::{
    dice::Dice,
    feed::{Feed, Turn},
    ledger::Ledger,
};

/// How often the reader looks.
const LOOK_EVERY: Duration = Duration::from_millis(15);

/// The most lines of a file that is moved in.
const MOST_LINES: u64 = 60;

/// Starts a feeder that moves files of lines into a folder. What is on disk under its name is accepted.
pub fn feed(feed: &Arc<Feed>, folder: PathBuf, mut dice: Dice) -> Vec<Work> {
    let feed = Arc::clone(feed);
    vec![thread::spawn(move || {
        let mut files = 0_u64;
        while let Some(first) = feed.next() {
            let mut numbers = vec![first];
            // As many as are due by now, so that files differ in length.
            let most = dice.within(1, MOST_LINES);
            while (numbers.len() as u64) < most
                && let Turn::Send(number) = feed.turn()
            {
                numbers.push(number);
            }
            let text: String = numbers.iter().map(|number| feed.attempt(*number) + "\n").collect();
            move_in(&folder, &format!("{files:08}.lines"), &text)?;
            files += 1;
            numbers.iter().for_each(|number| feed.ledger().accepted(*number));
            // Long enough for more than one line to be due.
            thread::sleep(Duration::from_millis(dice.within(5, 60)));
        }
        Ok(())
    })]
}

fn move_in(folder: &Path, name: &str, text: &str) -> Result<()> {
    let temporary = folder.join(format!(".{name}"));
    let mut file = File::create(&temporary).context("a file for the source cannot be made")?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, folder.join(name)).context("a file cannot be moved in")?;
    Ok(File::open(folder)?.sync_all()?)
}

/// What the sink was told to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Lines of one file, `all`.
    Lines,
    /// A file for each message.
    Files,
}

/// A thread that reads what the sink writes.
#[derive(Debug)]
pub struct Reader {
    stop: Arc<AtomicBool>,
    work: Work,
}

impl Reader {
    /// Starts one for the folder of a sink.
    pub fn start(ledger: &Arc<Ledger>, sink: usize, folder: PathBuf, written: Written) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ledger, stopped) = (Arc::clone(ledger), Arc::clone(&stop));
        let work = thread::spawn(move || {
            let mut lines = Lines { file: folder.join("all"), read: Vec::new(), end: 0 };
            let mut files = BTreeMap::new();
            loop {
                // Asked before the last look, so that nothing that was written before the stop is missed.
                let last = stopped.load(Ordering::Relaxed);
                match written {
                    Written::Lines => lines.look(&ledger, sink, last)?,
                    Written::Files => look_for_files(&folder, &mut files, &ledger, sink)?,
                }
                if last {
                    return Ok(());
                }
                thread::sleep(LOOK_EVERY);
            }
        });
        Self { stop, work }
    }

    /// Looks once more, at everything, and ends.
    ///
    /// # Errors
    /// What was written cannot be read.
    pub fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        super::join(self.work)
    }
}

/// A file that lines are appended to, as `tail` reads it. When a disk is full, the sink takes back what it could not write
/// whole, so lines may go again.
#[derive(Debug)]
struct Lines {
    file: PathBuf,
    /// The lines that were read: where each ends, and its checksum.
    read: Vec<(u64, u64)>,
    end: u64,
}

impl Lines {
    fn look(&mut self, ledger: &Ledger, sink: usize, from_the_start: bool) -> Result<()> {
        let Ok(mut file) = File::open(&self.file) else { return Ok(()) };
        let length = file.metadata()?.len();
        if length < self.end {
            self.keep(self.read.partition_point(|(end, _)| *end <= length), ledger, sink);
        }
        let begin = if from_the_start { 0 } else { self.end };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(begin))?;
        file.take(length - begin.min(length)).read_to_end(&mut bytes)?;
        let mut end = begin;
        let mut known = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(text) = line.strip_suffix(b"\n") else { break };
            end += line.len() as u64;
            let sum = crate::dice::fingerprint(text);
            if from_the_start && self.read.get(known) == Some(&(end, sum)) {
                known += 1;
                continue;
            }
            if from_the_start && known < self.read.len() {
                self.keep(known, ledger, sink);
            }
            known += 1;
            self.read.push((end, sum));
            self.end = end;
            ledger.arrived(sink, text);
        }
        Ok(())
    }

    fn keep(&mut self, lines: usize, ledger: &Ledger, sink: usize) {
        self.read.truncate(lines);
        self.end = self.read.last().map_or(0, |(end, _)| *end);
        ledger.keep(sink, lines);
    }
}

fn look_for_files(
    folder: &Path,
    known: &mut BTreeMap<String, ()>,
    ledger: &Ledger,
    sink: usize,
) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut new: Vec<String> =
        names.filter(|name| !name.starts_with('.') && !known.contains_key(name)).collect();
    new.sort();
    for name in new {
        let Ok(body) = fs::read(folder.join(&name)) else { continue };
        // What fills the disk is not the sink's.
        if name != crate::disk::FILLER {
            ledger.arrived(sink, &body);
        }
        known.insert(name, ());
    }
    Ok(())
}

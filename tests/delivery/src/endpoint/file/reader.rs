//! The reader of what a file sink writes: lines of one file, or a file for each message in the order in which they got their
//! names.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};

use super::{
    super::{Work, join},
    Written,
};
use crate::ledger::Ledger;

/// How often the reader looks.
const LOOK_EVERY: Duration = Duration::from_millis(15);

/// A thread that reads what the sink writes.
#[derive(Debug)]
pub struct Reader {
    stop: Arc<AtomicBool>,
    work: Work,
}

impl Reader {
    /// Starts one for the folder of a sink.
    ///
    /// # Errors
    /// The folder cannot be watched.
    pub fn start(ledger: &Arc<Ledger>, sink: usize, folder: &Path, written: Written) -> Result<Self> {
        let mut lines = Lines { file: folder.join("all"), read: Vec::new(), end: 0 };
        let mut files = match written {
            Written::Lines => None,
            Written::Files => Some(Files::watch(folder.to_owned())?),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (ledger, stopped) = (Arc::clone(ledger), Arc::clone(&stop));
        let work = thread::spawn(move || {
            loop {
                // Asked before the last look, so that nothing that was written before the stop is missed.
                let last = stopped.load(Ordering::Relaxed);
                match &mut files {
                    Some(files) => {
                        files.look(&ledger, sink)?;
                        if last {
                            files.look_at_all(&ledger, sink)?;
                        }
                    }
                    None => lines.look(&ledger, sink, last)?,
                }
                if last {
                    return Ok(());
                }
                thread::sleep(LOOK_EVERY);
            }
        });
        Ok(Self { stop, work })
    }

    /// Looks once more, at everything, and ends.
    ///
    /// # Errors
    /// What was written cannot be read.
    pub fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        join(self.work)
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

/// A folder in which files get their names, one after the other. The system tells of each in that order, which a listing does
/// not show.
#[derive(Debug)]
struct Files {
    folder: PathBuf,
    told: OwnedFd,
    known: BTreeSet<String>,
}

impl Files {
    /// Makes the folder, if the sink has not yet, and watches it.
    fn watch(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        let told = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        inotify::add_watch(&told, &folder, WatchFlags::MOVED_TO)
            .with_context(|| format!("{} cannot be watched", folder.display()))?;
        Ok(Self { folder, told, known: BTreeSet::new() })
    }

    fn look(&mut self, ledger: &Ledger, sink: usize) -> Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut names = Vec::new();
        let mut events = inotify::Reader::new(&self.told, &mut buffer);
        loop {
            match events.next() {
                Ok(event) => {
                    let overflow = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                    ensure!(!overflow, "more files were written than the system could tell of");
                    names.extend(event.file_name().and_then(|name| Some(name.to_str().ok()?.to_owned())));
                }
                Err(Errno::WOULDBLOCK) => break,
                Err(error) => return Err(error).context("what the sink has written cannot be told"),
            }
        }
        names.into_iter().try_for_each(|name| self.arrived(name, ledger, sink))
    }

    /// Files that the system has not told of, if there are any: they count all the same.
    fn look_at_all(&mut self, ledger: &Ledger, sink: usize) -> Result<()> {
        let entries = fs::read_dir(&self.folder)?.flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let names: BTreeSet<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.into_iter().try_for_each(|name| self.arrived(name, ledger, sink))
    }

    fn arrived(&mut self, name: String, ledger: &Ledger, sink: usize) -> Result<()> {
        if !self.known.contains(&name) {
            let body = fs::read(self.folder.join(&name));
            ledger.arrived(sink, &body.with_context(|| format!("`{name}` cannot be read"))?);
            self.known.insert(name);
        }
        Ok(())
    }
}

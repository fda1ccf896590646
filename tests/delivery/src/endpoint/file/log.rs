//! Who writes the log that a source follows: appends, and rotates as logrotate does, by rename (its default) and by copying and
//! truncating (its `copytruncate`).
//!
//! It does what the file adapter's page asks of whoever writes a log, and no more, so that nothing may be lost:
//!
//! - A log is renamed once the source has met it, unless the pattern takes the names of rotated logs as well.
//! - It is truncated once every line in it has come out. What is truncated before it was read is lost, and so is what was read
//!   and has not settled when the runtime is killed: no one can read it again. Nothing is written between copy and truncation,
//!   which would be lost by the nature of `copytruncate`. The runtime may be away while that happens, and lines be written
//!   after it.
//! - The copy has a name that the pattern does not match: to the source it would be a new log.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{due, pause, sync};
use crate::{
    dice::Dice,
    feed::{Feed, LOOK_AGAIN},
};

/// Its name.
pub const LOG: &str = "app.log";

/// What rotations are called among the faults. They end no order.
pub const ROTATIONS: [&str; 2] = [RENAMED, TRUNCATED];

const RENAMED: &str = "log_renamed";
const TRUNCATED: &str = "log_truncated";

/// How long the writer waits for everything to have come out before it truncates. Then it goes on, and tries again later.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Writes a log until there are no more messages. With `any_time`, a log is renamed whether the source has met it or not.
pub(super) fn write(feed: &Feed, folder: &Path, any_time: bool, dice: Dice) -> Result<()> {
    let mut log = Log {
        feed,
        folder,
        any_time,
        file: open(folder)?,
        first: None,
        rotated: Vec::new(),
        rotations: 0,
        next: Rotation::Rename,
        due_at: Instant::now(),
        dice,
    };
    log.plan();
    while let Some(numbers) = due(feed, &mut log.dice) {
        log.add(&numbers)?;
        pause(&mut log.dice);
        if Instant::now() >= log.due_at && log.rotate()? {
            log.plan();
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rotation {
    Rename,
    Truncate,
}

struct Log<'a> {
    feed: &'a Feed,
    folder: &'a Path,
    any_time: bool,
    file: File,
    /// The first message in the file.
    first: Option<u64>,
    /// Rotated logs and copies that are still there.
    rotated: Vec<PathBuf>,
    rotations: u64,
    next: Rotation,
    due_at: Instant,
    dice: Dice,
}

fn open(folder: &Path) -> Result<File> {
    let log = File::options().create(true).append(true).open(folder.join(LOG));
    log.context("the log cannot be opened")
}

impl Log<'_> {
    /// Decides when and how to rotate next.
    fn plan(&mut self) {
        self.due_at = Instant::now() + Duration::from_millis(self.dice.within(150, 900));
        self.next = if self.dice.chance(60) { Rotation::Rename } else { Rotation::Truncate };
    }

    /// Appends these messages; they are accepted once they are on disk.
    fn add(&mut self, numbers: &[u64]) -> Result<()> {
        let text: String = numbers.iter().map(|number| self.feed.attempt(*number) + "\n").collect();
        self.first = self.first.or(numbers.first().copied());
        // Often in the middle of a line, so that the source finds it without its end.
        let (now, then) = text.as_bytes().split_at(usize::try_from(self.dice.below(text.len() as u64))?);
        self.file.write_all(now)?;
        self.file.write_all(then)?;
        self.file.sync_data()?;
        numbers.iter().for_each(|number| self.feed.ledger().accepted(*number));
        Ok(())
    }

    /// Whether that could be done.
    fn rotate(&mut self) -> Result<bool> {
        match self.next {
            Rotation::Rename => self.rename(),
            Rotation::Truncate => self.copy_and_truncate(),
        }
    }

    fn rename(&mut self) -> Result<bool> {
        let Some(first) = self.first else { return Ok(false) };
        if !self.any_time && !self.feed.ledger().is_out(first) {
            return Ok(false);
        }
        let noted = self.feed.ledger().broken(RENAMED, false);
        let aside = self.aside(LOG);
        fs::rename(self.folder.join(LOG), &aside).context("the log cannot be renamed")?;
        self.rotated.push(aside);
        if self.dice.chance(50)
            && let Some(numbers) = due(self.feed, &mut self.dice)
        {
            // A writer that has not noticed yet.
            pause(&mut self.dice);
            self.add(&numbers)?;
        } else if self.is_all_out() {
            // The new log often gets the inode number of the old one.
            self.remove_rotated()?;
        }
        self.file = open(self.folder)?;
        sync(self.folder)?;
        self.first = None;
        self.feed.ledger().mended(noted);
        Ok(true)
    }

    fn copy_and_truncate(&mut self) -> Result<bool> {
        let begun = Instant::now();
        while !self.is_all_out() {
            if begun.elapsed() > PATIENCE || self.feed.is_over() {
                self.due_at = Instant::now() + PATIENCE;
                return Ok(false);
            }
            thread::sleep(LOOK_AGAIN);
        }
        let noted = self.feed.ledger().broken(TRUNCATED, false);
        let copy = self.aside("copy");
        fs::copy(self.folder.join(LOG), &copy).context("the log cannot be copied")?;
        self.file.set_len(0).context("the log cannot be truncated")?;
        self.remove_rotated()?;
        self.rotated.push(copy);
        self.first = None;
        self.feed.ledger().mended(noted);
        Ok(true)
    }

    /// Whether every line that was written has come out, so that no one needs it any more.
    fn is_all_out(&self) -> bool {
        self.feed.ledger().missing().0 == 0
    }

    fn remove_rotated(&mut self) -> Result<()> {
        for file in self.rotated.drain(..) {
            fs::remove_file(file).context("a rotated log cannot be removed")?;
        }
        Ok(())
    }

    fn aside(&mut self, name: &str) -> PathBuf {
        self.rotations += 1;
        self.folder.join(format!("{name}.{}", self.rotations))
    }
}

//! Files: feeders that move in files or write a log, and a reader of what the sink has appended or put down.

mod log;
mod reader;

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

pub use self::{
    log::{LOG, ROTATIONS},
    reader::Reader,
};
use super::Work;
use crate::{
    dice::Dice,
    feed::{Feed, Turn},
};

/// The most messages that a feeder writes at once.
const MOST_AT_ONCE: u64 = 60;

/// How a file source takes what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Files of lines, which are moved in.
    Lines,
    /// Files of one message each, which are moved in.
    Whole,
    /// The lines of a log that grows and is rotated. It is rotated by rename only once the source has met it, for one that comes
    /// and goes between two looks is not seen at all.
    Followed,
    /// The same; but the names of rotated files are in the source's pattern too, so that the log may be rotated at any time, also
    /// twice while the runtime is away. Between files that are met at the same time no order is promised.
    FollowedWide,
}

/// What the sink was told to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Lines of one file, `all`.
    Lines,
    /// A file for each message.
    Files,
}

impl Taken {
    /// What stands below `file:` for such a source.
    pub fn settings(self) -> String {
        match self {
            Self::Lines => {
                "directory: in, pattern: \"*.lines\", settle_ms: 0, poll_ms: 100, read: { lines: {} }"
                    .to_owned()
            }
            Self::Whole => {
                "directory: in, pattern: \"*.whole\", settle_ms: 0, poll_ms: 100, read: { whole: {} }, \
                 done: { delete: {} }"
                    .to_owned()
            }
            Self::Followed | Self::FollowedWide => {
                let pattern =
                    if self == Self::FollowedWide { format!("{{{LOG},{LOG}.*}}") } else { LOG.to_owned() };
                // Files are closed and opened again much more often than by default.
                format!(
                    "directory: in, pattern: \"{pattern}\", order: modified, poll_ms: 100, \
                     read: {{ follow: {{ rotated_wait_ms: 1000, idle_close_ms: 200 }} }}"
                )
            }
        }
    }

    /// The most messages under way. A folder of more files than one call of the system lists is listed in several, and what is
    /// moved in between two of these is seen in no order.
    pub fn most_under_way(self) -> Option<usize> {
        (self == Self::Whole).then_some(400)
    }
}

/// Starts a feeder that writes into a folder. What is on disk under its name is accepted.
pub fn feed(feed: &Arc<Feed>, folder: PathBuf, taken: Taken, dice: Dice) -> Vec<Work> {
    let feed = Arc::clone(feed);
    vec![thread::spawn(move || match taken {
        Taken::Lines => move_in_lines(&feed, &folder, dice),
        Taken::Whole => move_in_whole(&feed, &folder, dice),
        Taken::Followed => log::write(&feed, &folder, false, dice),
        Taken::FollowedWide => log::write(&feed, &folder, true, dice),
    })]
}

fn move_in_lines(feed: &Feed, folder: &Path, mut dice: Dice) -> Result<()> {
    let mut files = 0_u64;
    while let Some(numbers) = due(feed, &mut dice) {
        let text: String = numbers.iter().map(|number| feed.attempt(*number) + "\n").collect();
        move_in(folder, &format!("{files:08}.lines"), &text)?;
        sync(folder)?;
        files += 1;
        numbers.iter().for_each(|number| feed.ledger().accepted(*number));
        pause(&mut dice);
    }
    Ok(())
}

fn move_in_whole(feed: &Feed, folder: &Path, mut dice: Dice) -> Result<()> {
    while let Some(numbers) = due(feed, &mut dice) {
        for number in &numbers {
            move_in(folder, &format!("{number:08}.whole"), &feed.attempt(*number))?;
        }
        sync(folder)?;
        numbers.iter().for_each(|number| feed.ledger().accepted(*number));
        pause(&mut dice);
    }
    Ok(())
}

/// The next messages, of which there is at least one: as many as are due by now, so that files differ in length. `None` when
/// there will be no more.
fn due(feed: &Feed, dice: &mut Dice) -> Option<Vec<u64>> {
    let mut numbers = vec![feed.next()?];
    let most = dice.within(1, MOST_AT_ONCE);
    while (numbers.len() as u64) < most
        && let Turn::Send(number) = feed.turn()
    {
        numbers.push(number);
    }
    Some(numbers)
}

/// Long enough for more than one message to be due.
fn pause(dice: &mut Dice) {
    thread::sleep(Duration::from_millis(dice.within(5, 60)));
}

fn move_in(folder: &Path, name: &str, text: &str) -> Result<()> {
    let temporary = folder.join(format!(".{name}"));
    let mut file = File::create(&temporary).context("a file for the source cannot be made")?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, folder.join(name)).context("a file cannot be moved in")
}

fn sync(folder: &Path) -> Result<()> {
    Ok(File::open(folder)?.sync_all()?)
}

//! The floor: a loop over the lines of a file, as someone writes it who moves one file and nothing else. It syncs what it wrote
//! and notes how far it came as often as it is told, which is as often as ours does.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    num::NonZeroU64,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use anyhow::Result;
use serde_json::json;

use super::{IN, INPUT, OUT, OUTPUT};
use crate::work::{Choice, Work};

/// How much is read at once, as ours does.
const READ_BYTES: usize = 256 * 1024;

/// How often it looks for a file while there is none. Ours is told of it.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// The arguments of the floor. It works in its working directory.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    work: Choice,
    /// After how many lines it syncs what it wrote.
    #[arg(long)]
    sync_every: NonZeroU64,
    /// After how many lines it notes how far it came.
    #[arg(long)]
    note_every: NonZeroU64,
}

/// Takes one file after the other, until it is killed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut work = runtime.block_on(Work::new(&arguments.work))?;
    let input = Path::new(IN).join(INPUT);
    let done = Path::new(IN).join("done");
    fs::create_dir_all(&done)?;
    loop {
        match File::open(&input) {
            Ok(file) => {
                runtime.block_on(append(&mut work, file, arguments))?;
                fs::rename(&input, done.join(INPUT))?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => std::thread::sleep(LOOK_EVERY),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn append(work: &mut Work, input: File, arguments: &Arguments) -> Result<()> {
    let inode = input.metadata()?.ino();
    let mut output = OpenOptions::new().create(true).append(true).open(Path::new(OUT).join(OUTPUT))?;
    let mut lines = BufReader::with_capacity(READ_BYTES, input);
    let (mut line, mut written) = (Vec::new(), Vec::new());
    let (mut number, mut offset) = (0, 0);
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line)?;
        let is_end = read == 0;
        if !is_end {
            number += 1;
            offset += read;
            written.extend_from_slice(&work.rename(line.trim_ascii_end()).await?);
            written.push(b'\n');
        }
        if !written.is_empty() && (is_end || number % arguments.sync_every == 0) {
            output.write_all(&written)?;
            output.sync_data()?;
            written.clear();
        }
        if is_end {
            return Ok(());
        }
        if number % arguments.note_every == 0 {
            note(inode, offset, number)?;
        }
    }
}

/// Notes how far it came, as ours does: opened, added to, closed, and not synced.
fn note(inode: u64, offset: usize, line: u64) -> Result<()> {
    let mut note = serde_json::to_vec(
        &json!({ "inode": inode, "offset": offset, "line": line, "settled": [], "finished": false }),
    )?;
    note.push(b'\n');
    OpenOptions::new().create(true).append(true).open("progress")?.write_all(&note)?;
    Ok(())
}

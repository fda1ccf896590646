//! A log that is followed while it grows and is rotated, and a runtime that is killed, stopped and started meanwhile.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::PathBuf,
};

use crate::harness::{Dice, Running, Scratch, eventually, guests};

const IN_FLIGHT: usize = 32;

const LOG: &str = "in/app.log";

/// Lines are their numbers, from 0, so that what comes out says by itself what is missing and what is out of order.
struct Log<'a> {
    scratch: &'a Scratch,
    file: File,
    /// How many lines were written.
    written: usize,
    /// The number of the first line of the file that has the log's name now.
    first: Option<usize>,
    rotations: usize,
}

/// What the flow has appended.
struct Output {
    path: PathBuf,
    read: u64,
    /// The line that has to be the next one to come for the first time.
    next: usize,
    /// How many came again, and how many since the last kill.
    repeated: usize,
    repeated_here: usize,
    /// What `next` was at each kill.
    kills: Vec<usize>,
}

impl<'a> Log<'a> {
    fn new(scratch: &'a Scratch) -> Self {
        fs::create_dir(scratch.path("in")).unwrap();
        Self { scratch, file: open(scratch), written: 0, first: None, rotations: 0 }
    }

    fn write(&mut self, lines: usize) {
        let numbers = self.written..self.written + lines;
        self.written = numbers.end;
        self.first = self.first.or(Some(numbers.start));
        let text: String = numbers.map(|number| format!("{number}\n")).collect();
        self.file.write_all(text.as_bytes()).unwrap();
    }

    /// As logrotate does by default. `late` lines are written by a writer that has not noticed yet.
    fn rename(&mut self, late: usize) {
        self.rotations += 1;
        fs::rename(self.scratch.path(LOG), self.scratch.path(format!("{LOG}.{}", self.rotations))).unwrap();
        self.write(late);
        self.file = open(self.scratch);
        self.first = None;
    }

    /// As logrotate does with `copytruncate`.
    fn copy_and_truncate(&mut self) {
        self.rotations += 1;
        fs::copy(self.scratch.path(LOG), self.scratch.path(format!("{LOG}.{}", self.rotations))).unwrap();
        self.file.set_len(0).unwrap();
        self.first = None;
    }

    /// Whether the source has met the file, as far as the output tells.
    fn is_met(&self, output: &Output) -> bool {
        self.first.is_some_and(|first| output.next > first)
    }
}

fn open(scratch: &Scratch) -> File {
    File::options().create(true).append(true).open(scratch.path(LOG)).unwrap()
}

impl Output {
    /// Reads on. Each line is the next one, or comes again, as only those may that were in flight at a kill: and they do
    /// before any other.
    #[track_caller]
    fn look(&mut self) -> usize {
        let Ok(mut file) = File::open(&self.path) else { return self.next };
        let mut text = String::new();
        file.seek(SeekFrom::Start(self.read)).unwrap();
        file.read_to_string(&mut text).unwrap();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        for line in text[..whole].lines() {
            let number: usize = line.parse().unwrap();
            if number == self.next {
                self.next += 1;
                continue;
            }
            assert!(number < self.next, "{number} came before {}", self.next);
            assert!(self.kills.contains(&self.next), "{number} came again behind {}", self.next - 1);
            self.repeated += 1;
            self.repeated_here += 1;
            assert!(self.repeated_here <= IN_FLIGHT, "more came again than were in flight");
        }
        self.next
    }

    /// The runtime was killed: what comes next may have been in flight.
    #[track_caller]
    fn ends_here(&mut self) {
        let next = self.look();
        self.kills.push(next);
        self.repeated_here = 0;
    }

    /// Waits until so many lines have come.
    #[track_caller]
    fn has(&mut self, lines: usize) {
        eventually(&format!("{lines} lines"), || (self.look() >= lines).then_some(()));
    }
}

fn start(scratch: &Scratch) -> Running {
    let running = scratch.run();
    running.is_running("ship");
    running
}

#[test]
fn rotated_killed_and_stopped_every_line_arrives_in_order_and_only_those_in_flight_arrive_twice() {
    const ROUNDS: usize = 48;
    let flow = format!(
        "
flow: ship
limits: {{ in_flight: {IN_FLIGHT} }}
source:
  file:
    directory: in
    pattern: app.log
    poll_ms: 50
    read: {{ follow: {{ idle_close_ms: 100 }} }}
steps:
  - transform: {{ plugin: same }}
  - send: {{ file: {{ directory: out, name: all, mode: {{ append: {{}} }} }} }}
"
    );
    let scratch = Scratch::with_flow("ship", &flow);
    scratch.plugin("same", &guests::entry("(i32.const 64)"));
    let mut log = Log::new(&scratch);
    let mut output = Output {
        path: scratch.path("out/all"),
        read: 0,
        next: 0,
        repeated: 0,
        repeated_here: 0,
        kills: Vec::new(),
    };
    let mut dice = Dice::new(11);
    let mut lines = |most: u64| usize::try_from(dice.below(most)).unwrap();
    let mut running = start(&scratch);
    let mut done = [0; 6];
    for round in 0..ROUNDS {
        let before = log.written;
        log.write(1 + lines(800));
        let what = round % done.len();
        done[what] += 1;
        match what {
            // Killed in the middle, and renamed while it is away, if it may be: what the runtime has never met and is not
            // there under its name any more, it cannot know.
            0 | 1 => {
                output.has(before + lines((log.written - before) as u64));
                running.kill();
                output.ends_here();
                if what == 1 && log.is_met(&output) {
                    log.rename(lines(20));
                    log.write(lines(500));
                }
                running = start(&scratch);
            }
            2 => {
                output.has(log.first.unwrap() + 1);
                log.rename(lines(20));
            }
            // What is truncated before it was read is lost; so it is not.
            3 => {
                output.has(log.written);
                log.copy_and_truncate();
            }
            // Truncated while the runtime is away, and written to, be it beyond where it was.
            4 => {
                output.has(log.written);
                running.kill();
                output.ends_here();
                log.copy_and_truncate();
                log.write(lines(1_600));
                running = start(&scratch);
            }
            _ => {
                output.has(before + lines((log.written - before) as u64));
                assert!(running.stop().success());
                running = start(&scratch);
            }
        }
    }
    output.has(log.written);
    assert!(running.stop().success());
    assert_eq!(output.look(), log.written);
    println!("{} lines, {} twice after {} kills", log.written, output.repeated, output.kills.len());
}

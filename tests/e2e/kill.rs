//! A file of lines on its way through a plugin into another file, and a runtime that is ended in the middle of it, again and
//! again.

use std::{fs, ops::Range};

use crate::harness::{Dice, Scratch, eventually, guests};

const IN_FLIGHT: usize = 64;

/// The length of a line, with its end.
const LINE: u64 = 7;

fn with_lines(lines: usize) -> Scratch {
    let flow = format!(
        "
flow: lines
limits: {{ in_flight: {IN_FLIGHT} }}
source: {{ file: {{ directory: in, settle_ms: 0, read: {{ lines: {{}} }} }} }}
steps:
  - transform: {{ plugin: same }}
  - send: {{ file: {{ directory: out, name: all, mode: {{ append: {{}} }} }} }}
"
    );
    let scratch = Scratch::with_flow("lines", &flow);
    scratch.plugin("same", &guests::entry("(i32.const 64)"));
    let content: String = (0..lines).map(|n| format!("{n:06}\n")).collect();
    scratch.save("in/lines", content);
    scratch
}

fn is_done(scratch: &Scratch) -> bool {
    scratch.path("in/done/lines").exists()
}

/// How many lines are in the output.
fn written(scratch: &Scratch) -> u64 {
    fs::metadata(scratch.path("out/all")).map_or(0, |file| file.len() / LINE)
}

/// Moments within the file, in their order.
fn moments(count: usize, lines: Range<u64>) -> Vec<u64> {
    let mut dice = Dice::new(3);
    let mut moments: Vec<u64> =
        (0..count).map(|_| lines.start + dice.below(lines.end - lines.start)).collect();
    moments.sort_unstable();
    moments
}

/// How often each line is in the output.
fn tally(scratch: &Scratch, lines: usize) -> Vec<usize> {
    let mut tally = vec![0; lines];
    for line in scratch.read("out/all").lines() {
        tally[line.parse::<usize>().unwrap()] += 1;
    }
    tally
}

#[test]
fn killed_at_50_moments_every_line_arrives_and_only_those_in_flight_arrive_twice() {
    const LINES: usize = 200_000;
    const KILLS: usize = 50;
    let scratch = with_lines(LINES);
    for moment in moments(KILLS, 0..LINES as u64 * 95 / 100) {
        let running = scratch.run();
        eventually("more lines", || (written(&scratch) >= moment).then_some(()));
        assert!(!is_done(&scratch), "killed when all was done");
        running.kill();
    }
    let mut running = scratch.run();
    eventually("the end of the file", || is_done(&scratch).then_some(()));
    assert!(running.stop().success());

    let tally = tally(&scratch, LINES);
    let lost = tally.iter().filter(|times| **times == 0).count();
    assert_eq!(lost, 0, "lines were lost");
    let repeated: usize = tally.iter().map(|times| times - 1).sum();
    println!("{repeated} lines twice after {KILLS} kills");
    assert!(repeated <= KILLS * IN_FLIGHT, "{repeated} lines were repeated");
}

#[test]
fn sigterm_loses_nothing_and_repeats_nothing() {
    const LINES: usize = 20_000;
    let scratch = with_lines(LINES);
    for moment in moments(6, 0..LINES as u64 * 9 / 10) {
        let mut running = scratch.run();
        running.is_running("lines");
        eventually("more lines", || (written(&scratch) >= moment).then_some(()));
        assert!(running.stop().success());
        assert!(!is_done(&scratch), "stopped when all was done");
    }
    let running = scratch.run();
    eventually("the end of the file", || is_done(&scratch).then_some(()));
    drop(running);
    let wrong: Vec<(usize, usize)> =
        tally(&scratch, LINES).into_iter().enumerate().filter(|(_, times)| *times != 1).collect();
    assert_eq!(wrong, [], "lines, and how often they arrived");
}

//! The short set of the delivery bench: every pair of source and sink, and flows with two sinks, each with a handful of faults
//! from a seed that is fixed. The long one is `cargo xtask soak`; `README.md` beside says what is proved.
//!
//! A test is the scenarios of one source, one after the other, because they share its brokers. It is a test of the package
//! `gristmill`, because cargo builds a binary for the tests of its own package only.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{path::Path, time::Duration};

use gristmill_delivery::{
    brokers::Brokers,
    endpoint::Kind::{self, Amqp, File, Http, Mqtt},
    report, scenario,
    spec::Spec,
};

/// How long faults are begun in a scenario.
const LASTS: Duration = Duration::from_secs(4);

/// Messages a second.
const RATE: u64 = 250;

/// The seed of the whole set.
const SEED: u64 = 2026;

/// Plays one scenario for each of these, and fails with all that did not hold.
#[track_caller]
fn play(flows: &[(Kind, &[Kind])], calm: bool) {
    let brokers = Brokers::default();
    let mut failures = Vec::new();
    for (number, (source, sinks)) in (0..).zip(flows) {
        let spec = Spec {
            source: *source,
            sinks: sinks.to_vec(),
            seed: SEED + number,
            lasts: LASTS,
            rate: RATE,
            calm,
        };
        match scenario::play(&spec, Path::new(env!("CARGO_BIN_EXE_gristmill")), &brokers) {
            Ok(outcome) => {
                println!("{}", report::line(&outcome));
                if !outcome.problems.is_empty() {
                    failures.push(report::failure(&outcome));
                }
                if calm && outcome.verdict.duplicated > 0 {
                    failures
                        .push(format!("{} came twice though nothing repeats", outcome.verdict.duplicated));
                }
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn from_http_to_everything_nothing_is_lost() {
    play(&[(Http, &[Http]), (Http, &[File]), (Http, &[Amqp]), (Http, &[Mqtt])], false);
}

#[test]
fn from_files_to_everything_nothing_is_lost() {
    play(&[(File, &[Http]), (File, &[File]), (File, &[Amqp]), (File, &[Mqtt])], false);
}

#[test]
fn from_amqp_to_everything_nothing_is_lost() {
    play(&[(Amqp, &[Http]), (Amqp, &[File]), (Amqp, &[Amqp]), (Amqp, &[Mqtt])], false);
}

#[test]
fn from_mqtt_to_everything_nothing_is_lost() {
    play(&[(Mqtt, &[Http]), (Mqtt, &[File]), (Mqtt, &[Amqp]), (Mqtt, &[Mqtt])], false);
}

#[test]
fn of_two_sinks_one_fails_and_both_get_everything() {
    play(&[(Http, &[File, Http]), (Amqp, &[Mqtt, File])], false);
}

#[test]
fn reloads_sigterm_slow_plugins_and_a_clock_that_jumps_repeat_nothing() {
    play(&[(Http, &[Amqp]), (File, &[Mqtt]), (Amqp, &[File]), (Mqtt, &[Http])], true);
}

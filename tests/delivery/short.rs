//! The short set of the delivery bench: every pair of source and sink, and flows with two sinks, each with a handful of faults
//! from a seed that is fixed. The long one is `cargo xtask soak`; `README.md` beside says what is proved.
//!
//! A test is the scenarios of one source, one after the other, because they share its brokers. It is a test of the package
//! `gristmill`, because cargo builds a binary for the tests of its own package only.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{collections::BTreeSet, path::Path, time::Duration};

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

/// The seed of the whole set. Another one may do as well, if it meets everything that is asked for below.
const SEED: u64 = 2239;

/// Sources, each with its sinks.
type Flows = &'static [(Kind, &'static [Kind])];

const FROM_HTTP: Flows = &[(Http, &[Http]), (Http, &[File]), (Http, &[Amqp]), (Http, &[Mqtt])];
const FROM_FILES: Flows = &[(File, &[Http]), (File, &[File]), (File, &[Amqp]), (File, &[Mqtt])];
const FROM_AMQP: Flows = &[(Amqp, &[Http]), (Amqp, &[File]), (Amqp, &[Amqp]), (Amqp, &[Mqtt])];
const FROM_MQTT: Flows = &[(Mqtt, &[Http]), (Mqtt, &[File]), (Mqtt, &[Amqp]), (Mqtt, &[Mqtt])];
const TO_TWO: Flows = &[(Http, &[File, Http]), (Amqp, &[Mqtt, File])];
const CALM: Flows = &[(Http, &[Amqp]), (File, &[Mqtt]), (Amqp, &[File]), (Mqtt, &[Http])];

/// The scenarios of these flows.
fn specs(flows: Flows, calm: bool) -> impl Iterator<Item = Spec> {
    (0..).zip(flows).map(move |(number, (source, sinks))| Spec {
        source: *source,
        sinks: sinks.to_vec(),
        seed: SEED + number,
        lasts: LASTS,
        rate: RATE,
        calm,
    })
}

/// Plays one scenario for each of these, and fails with all that did not hold.
#[track_caller]
fn play(flows: Flows, calm: bool) {
    let brokers = Brokers::default();
    let mut failures = Vec::new();
    for spec in specs(flows, calm) {
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
fn the_seeds_of_the_set_meet_every_way_in_and_out() {
    let broken = [FROM_HTTP, FROM_FILES, FROM_AMQP, FROM_MQTT, TO_TWO]
        .into_iter()
        .flat_map(|flows| specs(flows, false));
    let met: BTreeSet<&str> = broken.flat_map(|spec| spec.words()).collect();
    for word in [
        "strict",
        "lines-in",
        "whole-in",
        "follow",
        "follow-wide",
        "lines-out",
        "files-out",
        "qos2-in",
        "qos2-out",
        "mqtt-3.1.1",
    ] {
        assert!(met.contains(word), "no scenario with `{word}`: another seed is needed");
    }
}

#[test]
fn from_http_to_everything_nothing_is_lost() {
    play(FROM_HTTP, false);
}

#[test]
fn from_files_to_everything_nothing_is_lost() {
    play(FROM_FILES, false);
}

#[test]
fn from_amqp_to_everything_nothing_is_lost() {
    play(FROM_AMQP, false);
}

#[test]
fn from_mqtt_to_everything_nothing_is_lost() {
    play(FROM_MQTT, false);
}

#[test]
fn of_two_sinks_one_fails_and_both_get_everything() {
    play(TO_TWO, false);
}

#[test]
fn reloads_sigterm_slow_plugins_and_a_clock_that_jumps_repeat_nothing() {
    play(CALM, true);
}

//! The examples of the README are true.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test"
)]

#[path = "../../readme_examples.rs"]
mod examples;

use gristmill_plugin::{Outcome, Transformer, testing};
use xml_json::XmlJson;

#[test]
fn the_examples_of_the_readme_are_true() {
    examples::check(include_str!("../README.md"), |config, message| {
        let plugin: XmlJson = testing::configure(config).unwrap();
        let Outcome::Change(change) = plugin.transform(message).unwrap() else { panic!("not a change") };
        String::from_utf8(change.body.unwrap()).unwrap()
    });
}

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

use content_router::ContentRouter;
use gristmill_plugin::{Router, serde_json, testing};

#[test]
fn the_examples_of_the_readme_are_true() {
    examples::check(include_str!("../README.md"), |config, message| {
        let plugin: ContentRouter = testing::configure_router(config).unwrap();
        serde_json::to_string(&plugin.route(message).unwrap()).unwrap()
    });
}

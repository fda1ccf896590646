//! What a plugin author sees: both traits, both macros, configuration errors, the exported schema, the doubles.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use gristmill_plugin::{
    Failure, Message, NoConfig, Outcome, Router, Transformer, Wants, clock, export_router,
    export_transformer, log, metrics, random, schemars::JsonSchema, serde::Deserialize, state, testing,
};

/// Counts what passes by.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(crate = "gristmill_plugin::serde", deny_unknown_fields)]
#[schemars(crate = "gristmill_plugin::schemars")]
struct Config {
    /// Reject from this number on.
    limit: u32,
}

#[derive(Debug)]
struct Counter(Config);

impl Transformer for Counter {
    type Config = Config;

    fn wants() -> Wants {
        Wants::no_body().header("X-Kind")
    }

    fn configure(config: Config) -> Result<Self, String> {
        if config.limit == 0 { Err("limit must be above 0".into()) } else { Ok(Counter(config)) }
    }

    fn transform(&self, message: Message) -> Result<Outcome, Failure> {
        let seen = state::increment("seen", 1).map_err(Failure::reject)?;
        metrics::add("seen", 1);
        metrics::set_gauge("last", seen as f64);
        log::info(format_args!("{} at {}", message.id, clock::now_ms()));
        if seen > i64::from(self.0.limit) {
            Err(Failure::retry("over the limit"))
        } else {
            Ok(Outcome::unchanged())
        }
    }
}

export_transformer!(Counter);

struct ByKind;

impl Router for ByKind {
    type Config = NoConfig;

    fn wants() -> Wants {
        Wants::no_body().header("x-kind")
    }

    fn configure(_: NoConfig) -> Result<Self, String> {
        Ok(ByKind)
    }

    fn route(&self, message: Message) -> Result<Vec<String>, Failure> {
        Ok(message.header("x-kind").map(str::to_owned).into_iter().collect())
    }
}

// Both macros in one crate: natively they only check types.
export_router!(ByKind);

#[test]
fn the_capabilities_have_doubles() {
    testing::set_now_ms(17);
    let counter: Counter = testing::configure(r#"{"limit":1}"#).unwrap();
    assert_eq!(counter.transform(Message::with_body("")), Ok(Outcome::unchanged()));
    assert_eq!(counter.transform(Message::with_body("")), Err(Failure::retry("over the limit")));
    assert_eq!(testing::counter("seen"), 2);
    assert_eq!(testing::gauge("last"), Some(2.0));
    assert_eq!(testing::logged()[0], (testing::Level::Info, "message at 17".to_owned()));
    assert_eq!(state::get("seen"), Some(b"2".to_vec()));
    state::delete("seen");
    assert_eq!(state::get("seen"), None);
    assert!(state::set(&"k".repeat(257), b"").is_err());
    assert_ne!(random::u64(), random::u64());
}

#[test]
fn a_configuration_error_names_its_place() {
    let refused = |config| testing::configure::<Counter>(config).unwrap_err();
    assert!(
        refused(r#"{"limit":"x"}"#).starts_with("config.limit: invalid type"),
        "{}",
        refused(r#"{"limit":"x"}"#)
    );
    assert!(refused(r#"{"limt":1}"#).contains("unknown field `limt`"));
    assert_eq!(refused(r#"{"limit":0}"#), "limit must be above 0");
    assert!(testing::configure_router::<ByKind>(r#"{"x":1}"#).is_err());
}

#[test]
fn the_schema_is_strict_and_described() {
    let schema = testing::schema::<Config>();
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["limit"]["description"], "Reject from this number on.");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let none = testing::schema::<NoConfig>();
    assert_eq!((&none["type"], &none["additionalProperties"]), (&"object".into(), &false.into()));
}

#[test]
fn a_router_answers_names() {
    let router: ByKind = testing::configure_router("{}").unwrap();
    let message = Message::with_body("").with_header("X-Kind", "order");
    assert_eq!(router.route(message), Ok(vec!["order".to_owned()]));
}

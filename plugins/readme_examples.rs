//! Runs the examples of a plugin's README, so that they stay true. Shared by the plugins' tests with `#[path]`.
//!
//! An example is three fenced blocks, found by the words after their fence: `yaml` with the step (its `config` is taken), `json input` or
//! `xml input` with the body (more words `name=value` are headers), and `json output`, `xml output` with what comes out.

use gristmill_plugin::{Message, serde_json};
use saphyr::{LoadableYamlNode, Scalar, Yaml};

/// Runs every example through `run`, which gets the configuration and the message and gives what comes out.
pub fn check(readme: &str, run: impl Fn(&str, Message) -> String) {
    let (mut config, mut input, mut examples) = (None, None, 0);
    for (words, text) in blocks(readme) {
        let mut words = words.split_whitespace();
        match (words.next(), words.next()) {
            (Some("yaml"), None) => config = Some(step_config(&text)),
            (Some(_), Some("input")) => {
                let message = Message::with_body(text.trim_end());
                input = Some(
                    words
                        .filter_map(|word| word.split_once('='))
                        .fold(message, |message, (name, value)| message.with_header(name, value)),
                );
            }
            (Some(kind), Some("output")) => {
                let input = input.take().expect("an output without an input");
                let out = run(config.as_deref().expect("an output without a configuration"), input);
                if kind == "json" {
                    let parse = |json: &str| {
                        serde_json::from_str::<serde_json::Value>(json)
                            .unwrap_or_else(|error| panic!("{error}: {json}"))
                    };
                    assert_eq!(parse(&out), parse(&text));
                } else {
                    assert_eq!(out, text.trim_end());
                }
                examples += 1;
            }
            _ => {}
        }
    }
    assert!(examples > 0, "the README has no example");
}

fn blocks(readme: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        if let Some(words) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((words.to_owned(), text.join("\n")));
        }
    }
    blocks
}

/// The `config` of the step in `- transform:` or `- route:`.
fn step_config(yaml: &str) -> String {
    let documents = Yaml::load_from_str(yaml).unwrap();
    let step = to_json(&documents[0]);
    let body = step[0].as_object().and_then(|step| step.values().next()).expect("a step");
    body["config"].to_string()
}

fn to_json(yaml: &Yaml<'_>) -> serde_json::Value {
    match yaml {
        Yaml::Value(Scalar::Null) => serde_json::Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => (*value).into(),
        Yaml::Value(Scalar::Integer(value)) => (*value).into(),
        Yaml::Value(Scalar::FloatingPoint(value)) => value.into_inner().into(),
        Yaml::Value(Scalar::String(value)) => value.to_string().into(),
        Yaml::Sequence(items) => items.iter().map(to_json).collect(),
        Yaml::Mapping(members) => {
            members.iter().map(|(key, value)| (key.as_str().unwrap().to_owned(), to_json(value))).collect()
        }
        other => panic!("{other:?}"),
    }
}

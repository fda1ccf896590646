//! From a node to a Rust type, through the type's JSON Schema: every mistake, each with its place.

use jsonschema::{
    JsonType, ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind},
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::{
    compiled::{Compiled, compile},
    draft::{Draft, MAX_REPAIRS},
    mistake::{Mistake, Mistakes},
    node::{Node, Value},
    suggest::nearest,
};

/// How deep alternatives within alternatives are looked through for words. Schemas of plugins may refer to themselves.
const MAX_ALTERNATIVES_DEPTH: usize = 3;

/// A JSON Schema (draft 2020-12).
pub type Schema = Json;

/// The schema that a type derives.
pub fn schema_of<T: JsonSchema>() -> Schema {
    schemars::SchemaGenerator::default().into_root_schema_for::<T>().to_value()
}

/// Turns a node into a `T`. All mistakes are added to `mistakes`. Gives a `T` also when there are some, if one can be made of
/// what is right, so that the rest can be checked as well: whether anything is wrong, `mistakes` says, and it takes no
/// mistakes about the values that had to be made up.
pub fn parse<T: DeserializeOwned + JsonSchema + 'static>(node: &Node, mistakes: &mut Mistakes) -> Option<T> {
    let compiled = usable(Compiled::of::<T>(), node, mistakes)?;
    let Compiled { schema, validator } = &*compiled;
    let (json, is_good) = check_with(validator, schema, node, mistakes);
    let mut draft = Draft::new(schema, validator, json);
    if !is_good {
        draft.mend()?;
    }
    for _ in 0..MAX_REPAIRS {
        match serde_path_to_error::deserialize::<_, T>(draft.json()) {
            Ok(value) => {
                draft.stand_ins(node).for_each(|stand_in| mistakes.stand_in(stand_in));
                return Some(value);
            }
            Err(error) => {
                // What the schema cannot say (a URL, a glob, an address) is said by the type's own parser.
                let path: Vec<String> = error.path().iter().map(|s| s.to_string()).collect();
                if !draft.is_made_up(&path) {
                    let at = node.at(path.iter().map(String::as_str));
                    let text = redact(at, error.into_inner().to_string());
                    let mistake = Mistake::new("invalid_value", &at.span, text);
                    mistakes.push(match draft.description(&path) {
                        Some(description) => mistake.mend(description),
                        None => mistake,
                    });
                }
                draft.refuse(&path)?;
            }
        }
    }
    None
}

/// Checks a node against a schema and gives it as JSON. All mistakes are added; `None` when there was one. A value that
/// was substituted whole (`${env:PORT}`) and that the schema wants as a number or a boolean is read as one.
pub fn check_against(schema: &Schema, node: &Node, mistakes: &mut Mistakes) -> Option<Json> {
    let validator = usable(compile(schema), node, mistakes)?;
    let (json, is_good) = check_with(&validator, schema, node, mistakes);
    is_good.then_some(json)
}

/// A schema that could be compiled; if it could not, that is a mistake.
fn usable<C>(compiled: Result<C, String>, node: &Node, mistakes: &mut Mistakes) -> Option<C> {
    compiled
        .map_err(|error| {
            let text = format!("the schema itself is invalid: {error}");
            mistakes.push(Mistake::new("invalid_schema", &node.span, text));
        })
        .ok()
}

/// The node as JSON, and whether the schema takes it.
fn check_with(validator: &Validator, schema: &Schema, node: &Node, mistakes: &mut Mistakes) -> (Json, bool) {
    let mut json = node.to_json();
    if validator.is_valid(&json) {
        return (json, true);
    }
    let mistyped: Vec<String> = validator
        .iter_errors(&json)
        .filter(|e| matches!(e.kind(), ValidationErrorKind::Type { .. } | ValidationErrorKind::Enum { .. }))
        .map(|e| e.instance_path().to_string())
        .collect();
    for pointer in mistyped {
        if node.at(pointer_parts(&pointer).iter().map(String::as_str)).is_substituted()
            && let Some(value) = json.pointer_mut(&pointer)
            && let Some(read) = value.as_str().and_then(read_scalar)
        {
            *value = read;
        }
    }
    let before = mistakes.len();
    for error in validator.iter_errors(&json) {
        report(&error, schema, node, mistakes);
    }
    (json, mistakes.len() == before)
}

/// A number or a boolean, as YAML's core schema reads it.
fn read_scalar(text: &str) -> Option<Json> {
    serde_json::from_str::<Json>(text.trim()).ok().filter(|v| v.is_number() || v.is_boolean())
}

pub(super) fn pointer_parts(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|p| p.replace("~1", "/").replace("~0", "~")).collect()
}

/// One validation error as one or more mistakes.
fn report(error: &ValidationError<'_>, schema: &Schema, node: &Node, mistakes: &mut Mistakes) {
    let path = pointer_parts(&error.instance_path().to_string());
    let at = node.at(path.iter().map(String::as_str));
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let known = known_keys(schema, &error.schema_path().to_string());
            for key in unexpected {
                mistakes.push(unknown_key(at, key, &known));
            }
        }
        ValidationErrorKind::Required { property } => {
            let property = property.as_str().unwrap_or_default();
            let mistake = Mistake::new("missing_key", &at.span, format!("`{property}` is missing"));
            mistakes.push(mistake.mend(format!("add `{property}:`")));
        }
        ValidationErrorKind::FalseSchema => {
            // What a map without any known key says of a key; the library gives the place of the map and the value.
            let refused = at.entries().iter().find(|entry| entry.value.to_json() == **error.instance());
            mistakes.push(match refused {
                Some(entry) => unknown_key(at, &entry.key, &[]),
                None => {
                    Mistake::new("invalid_value", &at.span, "nothing can be written here").mend("remove it")
                }
            });
        }
        ValidationErrorKind::AnyOf { context } => {
            let words = alternatives(schema, &error.schema_path().to_string());
            report_alternatives(context, &words, schema, at, node, mistakes);
        }
        ValidationErrorKind::OneOfNotValid { context }
        | ValidationErrorKind::OneOfMultipleValid { context } => {
            let words = alternatives(schema, &error.schema_path().to_string());
            let given: Vec<&str> =
                at.entries().iter().map(|e| e.key.as_str()).filter(|k| words.contains(k)).collect();
            match given.as_slice() {
                [_, second, ..] => {
                    let span =
                        at.entries().iter().find(|e| e.key == *second).map_or(&at.span, |e| &e.key_span);
                    let text = format!("only one of {} can be written here", listed(&given));
                    mistakes.push(Mistake::new("wrong_shape", span, text).mend("keep one of them"));
                    // Whichever is kept, what is wrong in it is wrong.
                    let depth = path.len();
                    let inside = |e: &&ValidationError<'_>| {
                        pointer_parts(&e.instance_path().to_string()).len() > depth
                    };
                    for error in context.iter().flatten().filter(inside) {
                        report(error, schema, node, mistakes);
                    }
                }
                _ => report_alternatives(context, &words, schema, at, node, mistakes),
            }
        }
        ValidationErrorKind::Enum { options } => {
            let options = options.as_array().map(Vec::as_slice).unwrap_or_default();
            mistakes.push(not_in_list(at, options));
        }
        ValidationErrorKind::Constant { expected_value } => {
            mistakes.push(not_one_of(at, expected_value.as_str().as_slice()));
        }
        ValidationErrorKind::Type { kind } => {
            let text = format!("this is {}, not {}", at.kind(), type_names(kind));
            mistakes.push(Mistake::new("wrong_type", &at.span, text).mend(type_mend(at, kind)));
        }
        kind => {
            let text = match (kind, at.as_str()) {
                (ValidationErrorKind::Pattern { .. }, Some(given)) => {
                    format!("`{given}` has not the form that is wanted here")
                }
                _ => error.to_string(),
            };
            let mistake = Mistake::new("invalid_value", &at.span, redact(at, text));
            mistakes.push(match kind {
                ValidationErrorKind::Minimum { limit } => mistake.mend(format!("write {limit} or more")),
                ValidationErrorKind::Maximum { limit } => mistake.mend(format!("write {limit} or less")),
                ValidationErrorKind::MinItems { limit } => mistake.mend(format!("write at least {limit}")),
                ValidationErrorKind::MaxItems { limit } => mistake.mend(format!("write at most {limit}")),
                kind => match (description(schema, &error.schema_path().to_string()), kind) {
                    (Some(description), _) => mistake.mend(description),
                    (None, ValidationErrorKind::Pattern { pattern }) => {
                        mistake.mend(format!("write what fits `{pattern}`"))
                    }
                    (None, _) => mistake.mend("write what its schema allows"),
                },
            });
        }
    }
}

/// Of several alternatives of which none fits, the one that was meant: that which came nearest, which is the one that failed
/// deepest inside.
pub(super) enum Nearest<'e> {
    /// The errors of the one.
    One(&'e [ValidationError<'static>]),
    /// Several came as near.
    Several,
    /// Each wants another type.
    None,
}

pub(super) fn nearest_alternative<'e>(
    context: &'e [Vec<ValidationError<'static>>],
    has_words: bool,
) -> Nearest<'e> {
    let depth = |e: &ValidationError<'_>| pointer_parts(&e.instance_path().to_string()).len();
    let depth_of = |errors: &[ValidationError<'_>]| errors.iter().map(depth).max().unwrap_or(0);
    let here = context.iter().flatten().map(depth).min().unwrap_or(0);
    let is_other_type = |errors: &[ValidationError<'_>]| {
        errors.iter().any(|e| matches!(e.kind(), ValidationErrorKind::Type { .. }) && depth(e) == here)
    };
    let shallowest = context.iter().map(|e| depth_of(e)).min().unwrap_or(0);
    let candidates: Vec<_> = context.iter().filter(|errors| !is_other_type(errors)).collect();
    let best = candidates.iter().max_by_key(|errors| (depth_of(errors), std::cmp::Reverse(errors.len())));
    match best {
        Some(errors) if depth_of(errors) > shallowest || candidates.len() == 1 || !has_words => {
            Nearest::One(errors)
        }
        Some(_) => Nearest::Several,
        None => Nearest::None,
    }
}

/// None of several alternatives fits.
fn report_alternatives(
    context: &[Vec<ValidationError<'static>>],
    words: &[&str],
    schema: &Schema,
    at: &Node,
    node: &Node,
    mistakes: &mut Mistakes,
) {
    match nearest_alternative(context, !words.is_empty()) {
        Nearest::One(errors) => {
            for error in errors {
                report(error, schema, node, mistakes);
            }
        }
        Nearest::Several => match &at.value {
            Value::Map(entries) => {
                let wrong = entries.iter().find(|e| !words.contains(&e.key.as_str()));
                match wrong {
                    Some(entry) => mistakes.push(unknown_key(at, &entry.key, words)),
                    None => mistakes.push(
                        Mistake::new(
                            "wrong_shape",
                            &at.span,
                            "exactly one of the alternatives is wanted here",
                        )
                        .mend(format!("write one of {}", listed(words))),
                    ),
                }
            }
            _ => mistakes.push(not_one_of(at, words)),
        },
        Nearest::None => {
            let kinds = context.iter().flatten().filter_map(|e| match e.kind() {
                ValidationErrorKind::Type { kind } => Some(kind),
                _ => None,
            });
            let mut wanted: Vec<(String, String)> = kinds
                .map(|kind| (type_names(kind), type_mend(at, kind)))
                .filter(|(name, _)| name != "nothing")
                .collect();
            wanted.dedup();
            let names: Vec<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
            let text = format!("this is {}, not {}", at.kind(), names.join(" or "));
            let mistake = Mistake::new("wrong_type", &at.span, text);
            mistakes.push(match (words, wanted.first()) {
                ([], Some((_, mend))) => mistake.mend(mend.clone()),
                ([], None) => mistake,
                (words, _) => mistake.mend(format!("write one of {}", listed(words))),
            });
        }
    }
}

/// The words by which the alternatives at a place of the schema are chosen: the key that each requires, or the texts that
/// it is.
pub(super) fn alternatives<'s>(schema: &'s Schema, schema_path: &str) -> Vec<&'s str> {
    let (mut texts, mut keys) = (Vec::new(), Vec::new());
    if let Some(all) = schema_at(schema, &pointer_parts(schema_path)).and_then(Json::as_array) {
        collect_words(schema, all, &mut texts, &mut keys, MAX_ALTERNATIVES_DEPTH);
    }
    // A single map beside `null` is no choice between keys.
    if keys.len() > 1 {
        texts.extend(keys);
    }
    texts
}

fn collect_words<'s>(
    schema: &'s Schema,
    all: &'s [Json],
    texts: &mut Vec<&'s str>,
    keys: &mut Vec<&'s str>,
    depth: usize,
) {
    for alternative in all {
        let reference = alternative.get("$ref").and_then(Json::as_str);
        let resolved = reference.and_then(|r| schema.pointer(r.trim_start_matches('#')));
        let alternative = resolved.unwrap_or(alternative);
        let list = |key: &str| alternative.get(key).and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        texts.extend(alternative.get("const").and_then(Json::as_str));
        texts.extend(list("enum").iter().filter_map(Json::as_str));
        keys.extend(list("required").first().and_then(Json::as_str));
        if depth > 0 {
            collect_words(schema, list("oneOf"), texts, keys, depth - 1);
            collect_words(schema, list("anyOf"), texts, keys, depth - 1);
        }
    }
}

fn unknown_key(at: &Node, key: &str, known: &[&str]) -> Mistake {
    let span = at.entries().iter().find(|e| e.key == key).map_or(&at.span, |e| &e.key_span);
    let mistake = Mistake::new("unknown_key", span, format!("unknown key `{key}`"));
    match nearest(key, known.iter().copied()) {
        Some(near) => mistake.mend(format!("did you mean `{near}`?")),
        None if known.is_empty() => mistake.mend("no keys are known here"),
        None => mistake.mend(format!("known here: {}", listed(known))),
    }
}

/// Not one of these values: words, or what is written without quotes.
fn not_in_list(at: &Node, options: &[Json]) -> Mistake {
    let words: Vec<&str> = options.iter().filter_map(Json::as_str).collect();
    let others: Vec<String> = options.iter().filter(|it| !it.is_string()).map(Json::to_string).collect();
    if let Some(quoted) = others.iter().find(|it| at.as_str() == Some(it) && !at.is_substituted()) {
        let mistake = Mistake::new("wrong_type", &at.span, format!("`{quoted}` is text here"));
        return mistake.mend("write it without quotes");
    }
    let mistake = not_one_of(at, &words);
    if others.is_empty() {
        return mistake;
    }
    let all: Vec<&str> = others.iter().map(String::as_str).chain(words).collect();
    mistake.mend(format!("known here: {}", listed(&all)))
}

fn not_one_of(at: &Node, options: &[&str]) -> Mistake {
    let text = match at.as_str() {
        Some(given) if !at.is_substituted() => format!("`{given}` is not known here"),
        _ => format!("this is {}, and not one of the known words", at.kind()),
    };
    let mistake = Mistake::new("unknown_word", &at.span, text);
    match at.as_str().and_then(|given| nearest(given, options.iter().copied())) {
        Some(near) => mistake.mend(format!("did you mean `{near}`?")),
        None => mistake.mend(format!("known here: {}", listed(options))),
    }
}

fn listed(words: &[&str]) -> String {
    let mut words: Vec<&str> = words.to_vec();
    words.dedup();
    words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")
}

/// An error text of a library may quote the value.
fn redact(at: &Node, text: String) -> String {
    if has_substituted(at) {
        "the value (not shown: it was substituted) is not valid here".into()
    } else {
        text
    }
}

fn has_substituted(node: &Node) -> bool {
    node.is_substituted()
        || match &node.value {
            Value::List(items) => items.iter().any(has_substituted),
            Value::Map(entries) => entries.iter().any(|e| has_substituted(&e.value)),
            _ => false,
        }
}

/// The keys that the schema knows at the place whose `additionalProperties` failed.
fn known_keys<'s>(schema: &'s Schema, schema_path: &str) -> Vec<&'s str> {
    let mut parts = pointer_parts(schema_path);
    parts.pop();
    let properties = schema_at(schema, &parts).and_then(|s| s.get("properties")).and_then(Json::as_object);
    properties.map(|p| p.keys().map(String::as_str).collect()).unwrap_or_default()
}

/// The part of the schema at a path that an error gives, which goes through references.
pub(super) fn schema_at<'s>(schema: &'s Schema, path: &[String]) -> Option<&'s Schema> {
    path.iter().try_fold(schema, |here, part| {
        if part == "$ref" {
            here.get("$ref").and_then(Json::as_str).and_then(|r| schema.pointer(r.trim_start_matches('#')))
        } else {
            match here {
                Json::Array(items) => part.parse::<usize>().ok().and_then(|i| items.get(i)),
                _ => here.get(part),
            }
        }
    })
}

/// The first sentence of what the schema says of the place whose keyword failed: how it is to be written.
pub(super) fn description(schema: &Schema, schema_path: &str) -> Option<String> {
    let mut parts = pointer_parts(schema_path);
    parts.pop();
    let text = schema_at(schema, &parts)?.get("description")?.as_str()?;
    let text = text.replace('\n', " ");
    let sentence = text.split(". ").next()?;
    Some(sentence.trim_end_matches('.').to_owned())
}

/// How to mend a value of another type.
fn type_mend(at: &Node, kind: &TypeKind) -> String {
    let wants = |wanted: JsonType| match kind {
        TypeKind::Single(only) => *only == wanted,
        TypeKind::Multiple(set) => set.iter().any(|one| one == wanted),
    };
    let wants_number = wants(JsonType::Number) || wants(JsonType::Integer);
    let reads_as = |text: &str| match read_scalar(text) {
        Some(Json::Bool(_)) => wants(JsonType::Boolean),
        Some(Json::Number(n)) => wants(JsonType::Number) || wants(JsonType::Integer) && !n.is_f64(),
        _ => false,
    };
    let mend = match &at.value {
        Value::Bool(_) | Value::Int(_) | Value::Float(_) if wants(JsonType::String) => "put it in quotes",
        Value::String(text) if !at.is_substituted() && reads_as(text) => "write it without quotes",
        _ if wants(JsonType::Array) => "write a list: `[…]`, or lines that begin with `- `",
        _ if wants(JsonType::Object) => "write keys with their values: `key: value`",
        _ if wants(JsonType::String) => "write a text",
        _ if wants(JsonType::Integer) => "write a whole number",
        _ if wants_number => "write a number",
        _ if wants(JsonType::Boolean) => "write `true` or `false`",
        _ => "write nothing here",
    };
    mend.to_owned()
}

/// The JSON types in the words of [`Node::kind`].
fn type_names(kind: &TypeKind) -> String {
    let name = |t: JsonType| match t {
        JsonType::Array => "a list",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Null => "nothing",
        JsonType::Number => "a number",
        JsonType::Object => "a map",
        JsonType::String => "text",
    };
    match kind {
        TypeKind::Single(t) => name(*t).to_owned(),
        TypeKind::Multiple(set) => {
            set.iter().filter(|t| *t != JsonType::Null).map(name).collect::<Vec<_>>().join(" or ")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::config::{Span, SubstitutedPart, Substitution, schema_of};

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only parsed")]
    struct Listener {
        port: u16,
        #[serde(default)]
        mode: Option<Mode>,
        #[serde(default)]
        tls: Option<Tls>,
        #[serde(default)]
        then: Option<Then>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        Fast,
        Careful,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only parsed")]
    struct Tls {
        certificate: String,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    #[allow(dead_code, reason = "only parsed")]
    enum Then {
        DeadLetter(Tls),
        Release {},
    }

    fn mistakes_of(json: &Json) -> Vec<String> {
        let mut mistakes = Mistakes::new();
        let parsed = parse::<Listener>(&Node::from_json(json, &Span::nowhere("test")), &mut mistakes);
        assert!(parsed.is_some() || !mistakes.is_empty());
        mistakes
            .iter()
            .map(|m| format!("{}: {} -> {}", m.code, m.text, m.mend.as_deref().unwrap_or("-")))
            .collect()
    }

    #[test]
    fn what_is_right_is_there_for_further_checks() {
        let parsed = |json: Json| {
            let mut mistakes = Mistakes::new();
            let parsed = parse::<Listener>(&Node::from_json(&json, &Span::nowhere("test")), &mut mistakes);
            assert!(!mistakes.is_empty(), "{json}");
            parsed
        };
        let one =
            parsed(json!({"port": 80, "prt": 1, "mode": "carefull", "tls": {"certificat": "x"}})).unwrap();
        assert_eq!((one.port, one.mode.is_none(), one.tls.is_some()), (80, true, true));
        let one = parsed(json!({"port": "x", "mode": "fast"})).unwrap();
        assert!(one.port == 0 && one.mode.is_some(), "something stands for what is needed and wrong");
        assert!(parsed(json!({"port": 1, "then": {"dead_letter": 5}})).unwrap().then.is_none());
        assert!(parsed(json!([])).is_none());
    }

    #[test]
    fn every_mistake_is_found_and_named() {
        let found = mistakes_of(&json!({"prt": 1, "mode": "carefull", "tls": {"certificat": "x"}}));
        for expected in [
            "unknown_key: unknown key `prt` -> did you mean `port`?",
            "missing_key: `port` is missing -> add `port:`",
            "unknown_word: `carefull` is not known here -> did you mean `careful`?",
            "unknown_key: unknown key `certificat` -> did you mean `certificate`?",
            "missing_key: `certificate` is missing -> add `certificate:`",
        ] {
            assert!(found.iter().any(|f| f == expected), "{expected} not in {found:#?}");
        }
        assert_eq!(found.len(), 5, "{found:#?}");
    }

    #[test]
    fn types_are_named_in_plain_words() {
        assert_eq!(
            mistakes_of(&json!({"port": "eighty"})),
            ["wrong_type: this is text, not a whole number -> write a whole number"]
        );
        assert_eq!(
            mistakes_of(&json!({"port": 1, "tls": 3})),
            ["wrong_type: this is a whole number, not a map -> write keys with their values: `key: value`"]
        );
    }

    #[test]
    fn the_nearest_alternative_speaks() {
        assert_eq!(
            mistakes_of(&json!({"port": 1, "then": {"dead_leter": {}}})),
            ["unknown_key: unknown key `dead_leter` -> did you mean `dead_letter`?"]
        );
        assert_eq!(
            mistakes_of(
                &json!({"port": 1, "then": {"dead_letter": {"certificat": "x", "certificate": "y"}}})
            ),
            ["unknown_key: unknown key `certificat` -> did you mean `certificate`?"]
        );
    }

    #[test]
    fn a_choice_is_explained() {
        assert_eq!(
            mistakes_of(&json!({"port": 1, "then": {"release": {}, "dead_letter": {}}})),
            [
                "wrong_shape: only one of `release`, `dead_letter` can be written here -> keep one of them",
                "missing_key: `certificate` is missing -> add `certificate:`"
            ]
        );
        assert_eq!(
            mistakes_of(&json!({"port": "1", "then": "release"})),
            [
                "wrong_type: this is text, not a whole number -> write it without quotes",
                "wrong_type: this is text, not a map -> write one of `dead_letter`, `release`"
            ]
        );
        assert_eq!(
            mistakes_of(&json!({"port": 1, "tls": {"certificate": true}})),
            ["wrong_type: this is true or false, not text -> put it in quotes"]
        );
    }

    #[test]
    fn a_substituted_text_is_read_as_what_the_schema_wants_and_never_shown() {
        let mut node = Node::from_json(&json!({"port": "8080"}), &Span::nowhere("test"));
        let substitute = |node: &mut Node, text: &str| {
            if let Value::Map(entries) = &mut node.value {
                entries[0].value.value = Value::String(text.into());
                let part = SubstitutedPart::Value { written: "${env:X}".into(), value: text.into() };
                entries[0].value.substitution = Some(Arc::new(Substitution { parts: vec![part] }));
            }
        };
        substitute(&mut node, "8080");
        let mut mistakes = Mistakes::new();
        assert_eq!(parse::<Listener>(&node, &mut mistakes).unwrap().port, 8080);
        substitute(&mut node, "hunter2");
        assert_eq!(parse::<Listener>(&node, &mut mistakes).unwrap().port, 0);
        assert_eq!(mistakes.len(), 1);
        assert!(!format!("{mistakes:?} {node:?}").contains("hunter2"));
    }

    #[test]
    fn a_schema_that_is_none_is_a_mistake() {
        let mut mistakes = Mistakes::new();
        let node = Node::from_json(&json!({}), &Span::nowhere("test"));
        assert!(check_against(&json!({"type": 12}), &node, &mut mistakes).is_none());
        assert_eq!(mistakes.len(), 1);
        assert!(schema_of::<Listener>().is_object());
    }
    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only parsed")]
    struct Keyed {
        by: String,
        #[schemars(range(min = 1))]
        lanes: usize,
        #[serde(default)]
        count: Option<Count>,
        #[serde(default)]
        signed: Option<Signed>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(try_from = "String")]
    #[schemars(with = "String")]
    struct Count;

    impl TryFrom<String> for Count {
        type Error = String;
        fn try_from(text: String) -> Result<Self, String> {
            if text == "up" { Ok(Self) } else { Err(format!("`{text}` is no way to count")) }
        }
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only parsed")]
    struct Signed {
        header: String,
        mode: Mode,
        secret: String,
    }

    #[test]
    fn something_stands_for_what_is_needed_and_nothing_is_said_of_it() {
        let parsed = |json: Json| {
            let (mut mistakes, node) = (Mistakes::new(), placed(&json));
            let parsed = parse::<Keyed>(&node, &mut mistakes).unwrap();
            (parsed, mistakes, node)
        };
        let (keyed, mut mistakes, node) = parsed(json!({"by": "a b", "lanes": 0, "signed": {"header": "é"}}));
        let signed = keyed.signed.unwrap();
        assert_eq!((keyed.by.as_str(), keyed.lanes), ("a b", 1));
        assert_eq!((signed.header.as_str(), signed.secret.as_str()), ("é", ""));
        assert_eq!((mistakes.len(), mistakes.stand_ins()), (3, 3), "{mistakes:?}");
        let mut count = |code, span: &Span| {
            let before = mistakes.len();
            mistakes.push(Mistake::new(code, span, "more"));
            mistakes.len() - before
        };
        assert_eq!(count("invalid_value", &node.at(["lanes"]).span), 0, "it was made up");
        assert_eq!(count("invalid_value", &node.at(["signed", "secret"]).span), 0, "it was made up, too");
        assert_eq!(count("missing_key", &node.at(["signed"]).span), 1);
        assert_eq!(count("invalid_value", &node.at(["signed", "header"]).span), 1);
        assert_eq!(count("invalid_value", &node.at(["by"]).span), 1);
    }

    #[test]
    fn what_the_type_refuses_hides_nothing() {
        let (mut mistakes, node) = (Mistakes::new(), placed(&json!({"by": "x", "lanes": 2, "count": "off"})));
        let keyed = parse::<Keyed>(&node, &mut mistakes).unwrap();
        assert!(keyed.by == "x" && keyed.count.is_none() && mistakes.len() == 1, "{mistakes:?}");
    }

    /// A node whose parts have places of their own.
    fn placed(json: &Json) -> Node {
        fn place(node: &mut Node, at: &mut usize) {
            let start = *at;
            *at += 1;
            match &mut node.value {
                Value::Map(entries) => entries.iter_mut().for_each(|entry| place(&mut entry.value, at)),
                Value::List(items) => items.iter_mut().for_each(|item| place(item, at)),
                _ => {}
            }
            *at += 1;
            (node.span.start, node.span.end) = (start, *at);
        }
        let mut node = Node::from_json(json, &Span::nowhere("test"));
        place(&mut node, &mut 0);
        node
    }
}

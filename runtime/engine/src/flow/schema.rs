//! The JSON Schema of flow files, put together from the schemas of steps and adapters, so that an editor can complete and
//! check what `gristmill validate` checks.

use gristmill_core::{
    config::{Schema, schema_of},
    limits::FlowLimits,
};
use serde_json::{Value as Json, json};

use super::{
    Registry,
    check::{KEYS, OnRejectConfig, OrderConfig, ParallelConfig},
    policy::ErrorRuleConfig,
};
use crate::steps::VERBS;

/// What the id of a flow and the name of a connection look like.
const ID_PATTERN: &str = "^[a-z0-9_-]{1,64}$";

/// The JSON Schema (draft 2020-12) of a flow file for this set of adapters.
pub fn flow_schema(registry: &Registry) -> Schema {
    let summary_of = |key: &str| KEYS.iter().find(|(k, _)| *k == key).map_or("", |(_, summary)| *summary);
    let mut definitions = serde_json::Map::new();
    let mut define = |name: String, schema: Schema| {
        let schema = adopt(schema, &name);
        definitions.insert(name, schema);
    };

    let mut step_alternatives = Vec::new();
    for verb in VERBS {
        define(format!("step-{}", verb.name), (verb.schema)());
        step_alternatives.push(one_key(verb.name, &format!("step-{}", verb.name), verb.summary));
    }
    let (mut sources, mut sinks) = (Vec::new(), Vec::new());
    for (name, adapter) in registry.iter() {
        if let Some(schema) = adapter.source_schema() {
            define(format!("source-{name}"), schema);
            sources.push(one_key(name, &format!("source-{name}"), ""));
        }
        if let Some(schema) = adapter.sink_schema() {
            define(format!("sink-{name}"), schema);
            sinks.push(one_key(name, &format!("sink-{name}"), ""));
        }
    }
    define("limits".into(), schema_of::<FlowLimits>());
    define("error-rule".into(), schema_of::<ErrorRuleConfig>());
    define("order".into(), schema_of::<OrderConfig>());
    define("parallel".into(), schema_of::<ParallelConfig>());
    define("on-reject".into(), schema_of::<OnRejectConfig>());
    definitions.insert("step".into(), json!({ "oneOf": step_alternatives }));
    definitions.insert("steps".into(), json!({ "type": "array", "items": { "$ref": "#/$defs/step" } }));
    definitions.insert("source".into(), json!({ "oneOf": sources }));
    definitions.insert("sink".into(), json!({ "oneOf": sinks }));

    let reference =
        |name: &str, key: &str| json!({ "$ref": format!("#/$defs/{name}"), "description": summary_of(key) });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Gristmill flow",
        "type": "object",
        "additionalProperties": false,
        "required": ["flow", "source", "steps"],
        "properties": {
            "flow": { "type": "string", "pattern": ID_PATTERN, "description": summary_of("flow") },
            "description": { "type": "string", "description": summary_of("description") },
            "source": reference("source", "source"),
            "order": reference("order", "order"),
            "parallel": reference("parallel", "parallel"),
            "limits": reference("limits", "limits"),
            "steps": reference("steps", "steps"),
            "on_error": {
                "type": "array",
                "items": { "$ref": "#/$defs/error-rule" },
                "description": summary_of("on_error"),
            },
            "on_reject": reference("on-reject", "on_reject"),
        },
        "$defs": definitions,
    })
}

/// The JSON Schema of the runtime's configuration, with what this set of adapters wants under `connections:`: put where
/// the mark `x-connections` stands.
pub fn with_connections(mut schema: Schema, registry: &Registry) -> Schema {
    let mut definitions = serde_json::Map::new();
    let mut kinds = Vec::new();
    for (name, adapter) in registry.iter() {
        if let Some(schema) = adapter.connection_schema() {
            let definition = format!("connection-{name}");
            definitions.insert(definition.clone(), adopt(schema, &definition));
            kinds.push(one_key(name, &definition, ""));
        }
    }
    if let Some(at) = schema.pointer_mut("/properties/connections").and_then(Json::as_object_mut) {
        at.remove("x-connections");
        at.insert("additionalProperties".into(), json!({ "oneOf": kinds }));
        at.insert("propertyNames".into(), json!({ "pattern": ID_PATTERN }));
    }
    if let Some(root) = schema.as_object_mut() {
        let all = root.entry("$defs").or_insert_with(|| json!({}));
        if let Some(all) = all.as_object_mut() {
            all.append(&mut definitions);
        }
    }
    schema
}

/// A map with exactly this key.
fn one_key(key: &str, definition: &str, summary: &str) -> Json {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": [key],
        "properties": { key: { "$ref": format!("#/$defs/{definition}"), "description": summary } },
    })
}

/// Makes a schema of its own part of the whole: its references point below its new place, and the marks that stand for
/// steps and sinks become references.
fn adopt(mut schema: Schema, name: &str) -> Schema {
    fn walk(schema: &mut Json, prefix: &str) {
        match schema {
            Json::Object(map) => {
                if let Some(Json::String(reference)) = map.get_mut("$ref")
                    && let Some(rest) = reference.strip_prefix("#/$defs/")
                {
                    *reference = format!("{prefix}/$defs/{rest}");
                }
                for (mark, target) in [("x-steps", "#/$defs/steps"), ("x-sink", "#/$defs/sink")] {
                    if map.contains_key(mark) {
                        let description = map.get("description").cloned();
                        map.clear();
                        map.insert("$ref".into(), target.into());
                        if let Some(description) = description {
                            map.insert("description".into(), description);
                        }
                    }
                }
                let has_branches = map.remove("x-branches").is_some();
                map.values_mut().for_each(|value| walk(value, prefix));
                // After the walk: this reference is to the whole, and stays as it is.
                if has_branches {
                    map.insert("additionalProperties".into(), json!({ "$ref": "#/$defs/steps" }));
                }
            }
            Json::Array(items) => items.iter_mut().for_each(|item| walk(item, prefix)),
            _ => {}
        }
    }
    if let Json::Object(map) = &mut schema {
        map.remove("$schema");
    }
    walk(&mut schema, &format!("#/$defs/{name}"));
    schema
}

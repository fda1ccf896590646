//! What is left of a value in which something is wrong, so that the rest of it can be checked.
//!
//! What is wrong is taken out, and its default stands for it. A text, a number, a word or a list that is needed and has no
//! default is made up, as plain as the schema allows. What cannot be made up takes the map that needs it along.

use std::collections::HashSet;

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use serde_json::Value as Json;

use super::{
    mistake::StandIn,
    node::Node,
    parse::{Nearest, Schema, alternatives, description, nearest_alternative, pointer_parts, schema_at},
};

/// How often what is wrong is taken out: as deep as what a schema needs may nest, and some more for what is wrong in turn.
pub(super) const MAX_REPAIRS: usize = 16;

/// How deep references and alternatives are followed to what a value may be.
const MAX_SCHEMA_DEPTH: usize = 8;

/// The keys and indices that lead to a value.
type Path = Vec<String>;

/// A value that is being mended.
pub(super) struct Draft<'s> {
    schema: &'s Schema,
    validator: &'s Validator,
    json: Json,
    made_up: HashSet<Path>,
    /// Where nothing can be made up.
    hopeless: HashSet<Path>,
}

// === impl Draft ===

impl<'s> Draft<'s> {
    pub(super) fn new(schema: &'s Schema, validator: &'s Validator, json: Json) -> Self {
        Self { schema, validator, json, made_up: HashSet::new(), hopeless: HashSet::new() }
    }

    pub(super) fn json(&self) -> Json {
        self.json.clone()
    }

    /// Whether a value, or what it is in, was made up.
    pub(super) fn is_made_up(&self, path: &[String]) -> bool {
        self.made_up.iter().any(|made_up| path.starts_with(made_up))
    }

    /// The values that were made up, by what stands in their place in the file.
    pub(super) fn stand_ins<'n>(&'n self, node: &'n Node) -> impl Iterator<Item = StandIn> + 'n {
        self.made_up.iter().filter_map(|path| {
            let (key, above) = path.split_last()?;
            let above = node.at(above.iter().map(String::as_str));
            Some(match above.get(key) {
                Some(wrong) => StandIn::Wrong(wrong.span.clone()),
                None => StandIn::Missing(above.span.clone()),
            })
        })
    }

    /// What the schema says of a place.
    pub(super) fn description(&self, path: &[String]) -> Option<String> {
        let mut schema_path = String::new();
        for part in path {
            schema_path.push_str("/properties/");
            schema_path.push_str(&part.replace('~', "~0").replace('/', "~1"));
        }
        description(self.schema, &(schema_path + "/description"))
    }

    /// Goes on without a value that the type does not take though the schema does. `None` when nothing is left.
    pub(super) fn refuse(&mut self, path: &[String]) -> Option<()> {
        if self.is_made_up(path) {
            self.hopeless.insert(path.to_vec());
        }
        self.take_out(path)?;
        self.mend()
    }

    /// Takes out what is wrong until the schema takes the rest. `None` when nothing is left.
    pub(super) fn mend(&mut self) -> Option<()> {
        for _ in 0..MAX_REPAIRS {
            let (mut wrong, mut lacking) = (Vec::new(), Vec::new());
            for error in self.validator.iter_errors(&self.json) {
                self.sort(&error, &mut wrong, &mut lacking);
            }
            if wrong.is_empty() && lacking.is_empty() {
                return Some(());
            }
            for path in wrong {
                if self.made_up.contains(&path) {
                    self.hopeless.insert(path.clone());
                }
                self.take_out(&path)?;
            }
            for (path, value) in lacking {
                if let Some((key, above)) = path.split_last()
                    && let Some(Json::Object(map)) = self.json.pointer_mut(&pointer(above))
                {
                    map.entry(key.clone()).or_insert(value);
                    self.made_up.insert(path);
                }
            }
        }
        None
    }

    /// What has to be taken out, and what has to be made up.
    fn sort(&self, error: &ValidationError<'_>, wrong: &mut Vec<Path>, lacking: &mut Vec<(Path, Json)>) {
        let here = pointer_parts(&error.instance_path().to_string());
        let below = |key: &str| [here.as_slice(), &[key.to_owned()]].concat();
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                wrong.extend(unexpected.iter().map(|key| below(key)));
            }
            ValidationErrorKind::Required { property } => {
                let key = property.as_str().unwrap_or_default();
                let path = below(key);
                match self.made_up_for(key, &error.schema_path().to_string()) {
                    Some(value) if !self.hopeless.contains(&path) => lacking.push((path, value)),
                    _ => wrong.push(here),
                }
            }
            ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
                let has_words = !alternatives(self.schema, &error.schema_path().to_string()).is_empty();
                match nearest_alternative(context, has_words) {
                    Nearest::One(errors) => errors.iter().for_each(|e| self.sort(e, wrong, lacking)),
                    Nearest::Several | Nearest::None => wrong.push(here),
                }
            }
            _ => wrong.push(here),
        }
    }

    /// What can stand for a key that is needed.
    fn made_up_for(&self, key: &str, schema_path: &str) -> Option<Json> {
        let mut parts = pointer_parts(schema_path);
        parts.pop();
        let wanted = schema_at(self.schema, &parts)?.get("properties")?.get(key)?;
        plainest(self.schema, wanted, MAX_SCHEMA_DEPTH)
    }

    /// Takes a value out of the map that holds it; a list goes as a whole, so that the places of its items stay what they
    /// are. `None` when there is no map.
    fn take_out(&mut self, path: &[String]) -> Option<()> {
        let (key, above) = path.split_last()?;
        match self.json.pointer_mut(&pointer(above)) {
            Some(Json::Object(map)) => {
                map.remove(key);
                self.made_up.retain(|made_up| !made_up.starts_with(path));
                Some(())
            }
            Some(Json::Array(_)) => self.take_out(above),
            // It went with what held it.
            _ => Some(()),
        }
    }
}

fn pointer(path: &[String]) -> String {
    path.iter().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
}

/// The plainest value that a schema takes. `None` for what means too much to be made up: a map, a text of a certain form, a
/// list that may not be empty.
fn plainest(root: &Schema, schema: &Schema, depth: usize) -> Option<Json> {
    let depth = depth.checked_sub(1)?;
    let get = |key: &str| schema.get(key);
    if let Some(reference) = get("$ref").and_then(Json::as_str) {
        return plainest(root, root.pointer(reference.trim_start_matches('#'))?, depth);
    }
    if let Some(word) = get("const").or_else(|| get("enum")?.as_array()?.first()) {
        return Some(word.clone());
    }
    if let Some(all) = get("oneOf").or_else(|| get("anyOf")).and_then(Json::as_array) {
        return all.iter().find_map(|one| plainest(root, one, depth));
    }
    match get("type")?.as_str()? {
        "string" if get("pattern").is_none() && get("minLength").is_none() => Some(Json::from("")),
        "integer" | "number" => Some(get("minimum").cloned().unwrap_or_else(|| Json::from(0))),
        "boolean" => Some(Json::from(false)),
        "array" if get("minItems").is_none() => Some(Json::Array(Vec::new())),
        _ => None,
    }
}

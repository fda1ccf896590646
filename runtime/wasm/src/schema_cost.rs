//! What checking a configuration against a plugin's schema can cost. A schema is a program of its author: a few dozen
//! definitions, each of which refers twice to the next, make a validator work for years, and it cannot be interrupted.
//! So a schema is measured before anyone compiles it: how often at most parts of it are applied to the values on one way
//! from the root of a configuration to a leaf, with every reference written out. What is shared is measured once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    rc::Rc,
};

use serde_json::Value;

/// How many applications of a part of a schema are too many: a validator makes as many in a fraction of a second.
const MAX_COST: u64 = 200_000;

/// How deep the configurations are for which a schema that refers to itself is measured.
const MEASURED_DEPTH: usize = 8;

/// How many parts may be nested that apply to the same value, references included. Validators are recursive.
const MAX_IN_PLACE_NESTING: usize = 128;

/// The most different places that references may point to. Compilers of schemas are recursive.
const MAX_REFERENCED: usize = 512;

/// Checks that a schema is affordable.
///
/// # Errors
/// Says why it is not.
pub(crate) fn check_cost(schema: &Value) -> Result<(), String> {
    let mut targets = BTreeSet::new();
    check_references(schema, true, &mut targets)?;
    if targets.len() > MAX_REFERENCED {
        return Err(format!("it refers to {} places, at most {MAX_REFERENCED} may be", targets.len()));
    }
    let mut measure = Measure { root: schema, places: HashMap::new(), costs: HashMap::new(), spent: 0 };
    let mut seen = HashSet::new();
    let mut open = vec![schema];
    while let Some(part) = open.pop() {
        if !seen.insert(id(part)) {
            continue;
        }
        open.extend(
            measure.places(part, 0)?.below.values().flat_map(|parts| parts.values().map(|(p, _)| *p)),
        );
    }
    measure.cost(schema, MEASURED_DEPTH).map(drop)
}

/// Only references whose target is plain to see are measured.
fn check_references<'s>(
    part: &'s Value,
    is_root: bool,
    targets: &mut BTreeSet<&'s str>,
) -> Result<(), String> {
    match part {
        Value::Array(parts) => parts.iter().try_for_each(|p| check_references(p, false, targets)),
        Value::Object(keys) => {
            let text = |key| keys.get(key).and_then(Value::as_str);
            if text("$dynamicRef").is_some() || keys.get("$recursiveRef").is_some_and(Value::is_string) {
                return Err("`$dynamicRef` and `$recursiveRef` are not supported; use `$ref`".into());
            }
            if let Some(target) = text("$ref").filter(|t| *t != "#" && !t.starts_with("#/")) {
                return Err(format!("`$ref: {target:.80}` is not supported; use `#` or `#/$defs/…`"));
            }
            targets.extend(text("$ref"));
            if !is_root && text("$id").is_some() {
                return Err("`$id` is supported at the root only".into());
            }
            if text("$schema").is_some_and(|s| s.contains("draft-04")) {
                return Err("draft 4 is not supported; use draft 2020-12".into());
            }
            keys.values().try_for_each(|p| check_references(p, false, targets))
        }
        _ => Ok(()),
    }
}

/// A part of a schema, by where it is in memory.
fn id(part: &Value) -> usize {
    std::ptr::from_ref(part).addr()
}

/// Which values inside of a value a part of a schema applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place<'s> {
    Key(&'s str),
    AnyKey,
    Index(usize),
    AnyIndex,
}

/// What applying a part to a value comes to.
#[derive(Debug, Default)]
struct Applied<'s> {
    /// How many parts are applied to the value itself.
    here: u64,
    /// The parts that are applied inside of it, each with how often.
    below: BTreeMap<Place<'s>, BTreeMap<usize, (&'s Value, u64)>>,
}

struct Measure<'s> {
    root: &'s Value,
    /// `None` while it is being measured.
    places: HashMap<usize, Option<Rc<Applied<'s>>>>,
    costs: HashMap<(usize, usize), u64>,
    /// Measuring has its limit too, which also is that of compiling.
    spent: u64,
}

// === impl Measure ===

impl<'s> Measure<'s> {
    /// The most applications on one way through a value that is at most so deep.
    fn cost(&mut self, part: &'s Value, depth: usize) -> Result<u64, String> {
        if let Some(cost) = self.costs.get(&(id(part), depth)) {
            return Ok(*cost);
        }
        let applied = self.places(part, 0)?;
        let mut cost = applied.here;
        if let Some(depth) = depth.checked_sub(1) {
            let mut sums: BTreeMap<Place<'s>, u64> = BTreeMap::new();
            for (place, parts) in &applied.below {
                let mut sum = 0_u64;
                for (part, times) in parts.values() {
                    self.spend(1)?;
                    sum = sum.saturating_add(self.cost(part, depth)?.saturating_mul(*times));
                }
                sums.insert(*place, sum);
            }
            let of = |place| sums.get(&place).copied().unwrap_or(0);
            // One value is under one key or at one index, and what is for any applies to it as well.
            let most = sums.iter().map(|(place, sum)| match place {
                Place::Key(_) => sum.saturating_add(of(Place::AnyKey)),
                Place::Index(_) => sum.saturating_add(of(Place::AnyIndex)),
                Place::AnyKey | Place::AnyIndex => *sum,
            });
            cost = cost.saturating_add(most.max().unwrap_or(0));
        }
        if cost > MAX_COST {
            return Err(too_complex());
        }
        self.costs.insert((id(part), depth), cost);
        Ok(cost)
    }

    /// What applying a part comes to, with every part that applies to the same value.
    fn places(&mut self, part: &'s Value, nesting: usize) -> Result<Rc<Applied<'s>>, String> {
        match self.places.get(&id(part)) {
            Some(Some(applied)) => return Ok(applied.clone()),
            Some(None) => return Err("it refers to itself without going deeper into the value".into()),
            None => {}
        }
        if nesting > MAX_IN_PLACE_NESTING {
            return Err(format!("it nests more than {MAX_IN_PLACE_NESTING} parts for one value"));
        }
        self.places.insert(id(part), None);
        let mut applied = Applied { here: 1, ..Applied::default() };
        // What is not evaluated is found by evaluating the rest once more.
        let again = ["unevaluatedProperties", "unevaluatedItems"];
        let times = if again.iter().any(|key| part.get(key).is_some()) { 2 } else { 1 };
        for (key, value) in part.as_object().into_iter().flatten() {
            for sub in in_place(key, value) {
                let inner = self.places(sub, nesting + 1)?;
                self.add(&mut applied, &inner, times)?;
            }
            if key == "$ref"
                && let Some(target) = value.as_str()
            {
                let target = self.target(target)?;
                let inner = self.places(target, nesting + 1)?;
                self.add(&mut applied, &inner, times)?;
            }
            for (place, sub) in below(key, value) {
                let entry = applied.below.entry(place).or_default().entry(id(sub)).or_insert((sub, 0));
                entry.1 += times;
            }
        }
        let applied = Rc::new(applied);
        self.places.insert(id(part), Some(applied.clone()));
        Ok(applied)
    }

    fn add(&mut self, to: &mut Applied<'s>, inner: &Applied<'s>, times: u64) -> Result<(), String> {
        to.here = to.here.saturating_add(inner.here.saturating_mul(times));
        if to.here > MAX_COST {
            return Err(too_complex());
        }
        for (place, parts) in &inner.below {
            for (id, (part, inner_times)) in parts {
                self.spend(1)?;
                let entry = to.below.entry(*place).or_default().entry(*id).or_insert((*part, 0));
                entry.1 = entry.1.saturating_add(inner_times.saturating_mul(times));
            }
        }
        Ok(())
    }

    fn spend(&mut self, steps: u64) -> Result<(), String> {
        self.spent += steps;
        if self.spent > MAX_COST { Err(too_complex()) } else { Ok(()) }
    }

    fn target(&self, reference: &str) -> Result<&'s Value, String> {
        let pointer = percent_decoded(reference.trim_start_matches('#'));
        pointer
            .and_then(|pointer| self.root.pointer(&pointer))
            .ok_or_else(|| format!("`$ref: {reference:.80}` points to nothing"))
    }
}

fn too_complex() -> String {
    format!("checking one value may apply more than {MAX_COST} parts of it, with its references written out")
}

/// The parts of a keyword that apply to the same value as the keyword.
fn in_place<'s>(key: &str, value: &'s Value) -> Vec<&'s Value> {
    match key {
        "allOf" | "anyOf" | "oneOf" => value.as_array().into_iter().flatten().collect(),
        "not" | "if" | "then" | "else" => vec![value],
        "dependentSchemas" | "dependencies" => {
            value.as_object().into_iter().flat_map(|m| m.values()).collect()
        }
        _ => Vec::new(),
    }
}

/// The parts of a keyword that apply inside of the value.
fn below<'s>(key: &str, value: &'s Value) -> Vec<(Place<'s>, &'s Value)> {
    match (key, value) {
        ("properties", Value::Object(keys)) => keys.iter().map(|(k, v)| (Place::Key(k), v)).collect(),
        ("patternProperties", Value::Object(keys)) => keys.values().map(|v| (Place::AnyKey, v)).collect(),
        ("additionalProperties" | "unevaluatedProperties" | "propertyNames", part) => {
            vec![(Place::AnyKey, part)]
        }
        ("prefixItems" | "items", Value::Array(parts)) => {
            parts.iter().enumerate().map(|(index, part)| (Place::Index(index), part)).collect()
        }
        ("items" | "additionalItems" | "unevaluatedItems" | "contains", part) => {
            vec![(Place::AnyIndex, part)]
        }
        _ => Vec::new(),
    }
}

/// A fragment of a URI without its escapes (RFC 3986, 2.1).
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Definitions `d0` to `d20`, each of which is `part` of the next.
    fn chain(part: impl Fn(Value) -> Value) -> Value {
        let mut defs: serde_json::Map<_, _> = (0..20)
            .map(|n| (format!("d{n}"), part(json!({ "$ref": format!("#/$defs/d{}", n + 1) }))))
            .collect();
        defs.insert("d20".into(), json!({ "type": "object" }));
        json!({ "$ref": "#/$defs/d0", "$defs": defs })
    }

    #[test]
    fn what_grows_with_every_reference_is_refused() {
        for schema in [
            chain(|next| json!({ "allOf": [next, next] })),
            chain(|next| json!({ "if": next, "then": next, "else": next })),
            chain(|next| json!({ "allOf": [next], "unevaluatedProperties": false })),
            chain(|next| json!({ "not": { "anyOf": [next, { "allOf": [next] }] } })),
            json!({ "$defs": { "a": { "allOf": [
                { "additionalProperties": { "$ref": "#/$defs/a" } },
                { "patternProperties": { "x": { "$ref": "#/$defs/a" }, "y": { "$ref": "#/$defs/a" } } },
                { "properties": { "z": { "$ref": "#/$defs/a" } } },
            ] } }, "$ref": "#/$defs/a" }),
        ] {
            let error = check_cost(&schema).unwrap_err();
            assert!(error.contains("more than 200000 parts"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        for (schema, says) in [
            (json!({ "$dynamicRef": "#a" }), "$dynamicRef"),
            (json!({ "$ref": "#" }), "refers to itself"),
            (
                json!({ "allOf": [{ "$ref": "#/$defs/a" }], "$defs": { "a": { "not": { "$ref": "#" } } } }),
                "itself",
            ),
            (json!({ "properties": { "a": { "$ref": "other.json" } } }), "other.json"),
            (json!({ "$ref": "#/$defs/none" }), "points to nothing"),
            (json!({ "$defs": { "a": { "$id": "http://a" } } }), "`$id`"),
        ] {
            let error = check_cost(&schema).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let deep = (0..70).fold(json!({}), |inner, _| json!({ "not": { "not": inner } }));
        assert!(check_cost(&deep).unwrap_err().contains("nests"));
    }

    #[test]
    fn trees_alternatives_and_shared_definitions_are_fine() {
        let tree = json!({ "$ref": "#" });
        for schema in [
            json!(true),
            json!({ "properties": { "left": tree, "right": tree, "all": { "items": tree } } }),
            json!({ "oneOf": [
                { "properties": { "all": { "items": tree } }, "required": ["all"] },
                { "properties": { "any": { "items": tree } }, "required": ["any"] },
                { "properties": { "not": tree }, "required": ["not"] },
                { "properties": { "equals": { "type": "string" } }, "required": ["equals"] },
            ] }),
            json!({ "oneOf": [
                { "properties": { "is": { "const": "all" }, "of": { "items": tree } } },
                { "properties": { "is": { "const": "any" }, "of": { "items": tree } } },
            ] }),
            chain(|next| json!({ "properties": { "a": next, "b": next } })),
            json!({ "additionalProperties": { "$ref": "#/$defs/a%20b~1c" }, "$defs": { "a b/c": { "type": "string" } } }),
            json!({ "properties": { "$ref": { "type": "string" }, "$id": { "type": "string" } } }),
        ] {
            assert_eq!(check_cost(&schema), Ok(()), "{schema}");
        }
    }

    /// What is not refused must be within the stack of a thread of the runtime.
    #[test]
    fn the_longest_chain_of_references_can_be_compiled() {
        let defs: serde_json::Map<_, _> = (0..MAX_REFERENCED)
            .map(|n| {
                let next = (n + 1) % MAX_REFERENCED;
                (format!("d{n}"), json!({ "properties": { "a": { "$ref": format!("#/$defs/d{next}") } } }))
            })
            .collect();
        let schema = json!({ "$ref": "#/$defs/d0", "$defs": defs });
        assert_eq!(check_cost(&schema), Ok(()));
        jsonschema::options().build(&schema).unwrap();
    }
}

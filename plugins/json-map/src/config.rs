//! The configuration as the flow file gives it, and its check.

use std::{borrow::Cow, fmt};

use gristmill_json::{Path, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use crate::{
    JsonMap,
    convert::Type,
    field::{Condition, Each, Field, Place, Source, Test},
    shape::Shape,
    template::Template,
};

/// How deep fields may nest in the configuration, so that what comes out stays JSON that others take.
const MAX_NESTING: usize = 32;

/// Written before a path inside `each` that starts at the whole body and not at the item.
const ROOT: &str = "$root";

/// The shape of what comes out.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The fields of the object that comes out, in this order.
    #[serde(default)]
    fields: Fields,
    /// What becomes of the input's other fields.
    #[serde(default)]
    rest: Rest,
    /// With `rest: keep`: what to leave out all the same.
    #[serde(default)]
    remove: Vec<Path>,
    /// Map each value that this JSONPath selects instead of the whole body; an array of objects comes out.
    each: Option<Path>,
    /// Headers to set. A header whose field has no value stays as it is.
    #[serde(default)]
    headers: Fields,
    /// Headers to remove.
    #[serde(default)]
    remove_headers: Vec<String>,
}

/// What becomes of the input's fields that no `path` took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Rest {
    /// They are left out.
    #[default]
    Drop,
    /// They stay: the input comes out, without the fields that were renamed, with `fields` set.
    Keep,
}

/// Names and fields, in the order of the file.
#[derive(Debug, Default)]
struct Fields(Vec<(String, RawField)>);

/// One field: exactly one source (`path`, `all`, `header`, `value`, `template`, `fields`, `each` or `first_of`), and what
/// is done with its value. Without a value the field is left out, unless it has a `default` or is `required`. Null counts as no value.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("oneOf" = [
    { "required": ["path"] }, { "required": ["all"] }, { "required": ["header"] }, { "required": ["value"] },
    { "required": ["template"] }, { "required": ["fields"] }, { "required": ["each"] }, { "required": ["first_of"] },
]))]
struct RawField {
    /// The first value that this JSONPath selects. `$` is the body, or the item inside `each`; `$root` is always the body.
    path: Option<RawPath>,
    /// All values that this JSONPath selects, as an array, which may be empty.
    all: Option<RawPath>,
    /// The first value of this header.
    header: Option<String>,
    /// This constant.
    #[serde(deserialize_with = "present")]
    #[schemars(with = "serde_json::Value")]
    value: Option<serde_json::Value>,
    /// Text with values in braces: `{$.first} {$.last}`, `{header.x-id}`, `{message.id}`; `{{` and `}}` are braces.
    /// Without a value for each of them the field has no value.
    template: Option<String>,
    /// An object. If none of its fields has a value, it has none.
    fields: Option<Fields>,
    /// An array with one item for each selected value.
    each: Option<Box<RawEach>>,
    /// The first of these that has a value.
    first_of: Option<Vec<RawField>>,
    /// The field has a value only when this holds.
    when: Option<RawCondition>,
    /// Look the value up here, by its text; a value that is not listed counts as no value.
    lookup: Option<std::collections::BTreeMap<String, serde_json::Value>>,
    /// Convert the value to this type; a value that does not fit rejects the message.
    to: Option<Type>,
    /// The value when there is none; `null` writes null.
    #[serde(deserialize_with = "present")]
    #[schemars(with = "serde_json::Value")]
    default: Option<serde_json::Value>,
    /// Reject the message when there is no value.
    required: bool,
}

/// An array with one item for each selected value.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawEach {
    /// Which values; inside `item`, `$` is one of them.
    path: RawPath,
    /// What comes out for each. Items without a value are left out.
    item: RawField,
}

/// Holds when there is a value, and, with `equals`, when it is this one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["path"] }, { "required": ["header"] }]))]
struct RawCondition {
    /// A value that is not null at this JSONPath.
    path: Option<RawPath>,
    /// A header.
    header: Option<String>,
    /// The value it must have.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "serde_json::Value")]
    equals: Option<serde_json::Value>,
}

/// A path from the item or, with `$root`, from the body.
#[derive(Debug)]
struct RawPath(Place);

/// Tells a written `null` from a key that is not there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<serde_json::Value>, D::Error> {
    serde_json::Value::deserialize(deserializer).map(Some)
}

// === impl RawPath ===

impl<'de> Deserialize<'de> for RawPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        place(&String::deserialize(deserializer)?).map(RawPath).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for RawPath {
    fn schema_name() -> Cow<'static, str> {
        Path::schema_name()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Path::json_schema(generator)
    }
}

/// A path as it may be written in a field or a template.
pub(crate) fn place(text: &str) -> Result<Place, String> {
    let (from_root, path) = match text.strip_prefix(ROOT) {
        Some(rest) => (true, Path::parse(&format!("${rest}"))),
        None => (false, Path::parse(text)),
    };
    Ok(Place { from_root, path: path.map_err(|error| error.to_string())? })
}

// === impl Fields ===

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from names to fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    fields.push(entry);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

impl JsonSchema for Fields {
    fn schema_name() -> Cow<'static, str> {
        "Fields".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let field = generator.subschema_for::<RawField>();
        json_schema!({ "type": "object", "additionalProperties": field })
    }
}

// === check ===

impl Config {
    pub(crate) fn check(self) -> Result<JsonMap, String> {
        if self.fields.0.is_empty()
            && self.headers.0.is_empty()
            && self.remove.is_empty()
            && self.remove_headers.is_empty()
        {
            return Err("nothing to map: give `fields`, `headers`, `remove` or `remove_headers`".to_owned());
        }
        let keep = match self.rest {
            Rest::Keep => Some(self.remove),
            Rest::Drop if self.remove.is_empty() => None,
            Rest::Drop => return Err("`remove` has a meaning with `rest: keep` only".to_owned()),
        };
        let headers = self.headers.check("headers", 0)?;
        Ok(JsonMap {
            each: self.each,
            shape: Shape::new(self.fields.check("fields", 0)?, keep),
            headers: headers.into_iter().map(|(name, field)| (name.to_ascii_lowercase(), field)).collect(),
            remove_headers: self.remove_headers.iter().map(|name| name.to_ascii_lowercase()).collect(),
        })
    }
}

impl Fields {
    fn check(self, place: &str, depth: usize) -> Result<Vec<(String, Field)>, String> {
        let check = |(name, field): (String, RawField)| {
            let field = field.check(&format!("{place}.{name}"), depth + 1)?;
            Ok((name, field))
        };
        self.0.into_iter().map(check).collect()
    }
}

impl RawField {
    fn check(self, place: &str, depth: usize) -> Result<Field, String> {
        if depth > MAX_NESTING {
            return Err(format!("{place}: fields nest deeper than {MAX_NESTING}"));
        }
        let mut sources = Vec::new();
        if let Some(RawPath(place)) = self.path {
            sources.push(Source::Path(place));
        }
        if let Some(RawPath(place)) = self.all {
            sources.push(Source::All(place));
        }
        if let Some(name) = self.header {
            sources.push(Source::Header(name.to_ascii_lowercase()));
        }
        if let Some(value) = self.value {
            sources.push(Source::Constant(Value::from(value)));
        }
        if let Some(text) = self.template {
            sources.push(Source::Template(
                Template::parse(&text).map_err(|error| format!("{place}.template: {error}"))?,
            ));
        }
        if let Some(fields) = self.fields {
            sources.push(Source::Object(fields.check(&format!("{place}.fields"), depth)?));
        }
        if let Some(each) = self.each {
            let item = each.item.check(&format!("{place}.each.item"), depth + 1)?;
            sources.push(Source::Each(Box::new(Each { place: each.path.0, item })));
        }
        if let Some(fields) = self.first_of {
            let check =
                |(i, field): (usize, RawField)| field.check(&format!("{place}.first_of[{i}]"), depth + 1);
            sources
                .push(Source::FirstOf(fields.into_iter().enumerate().map(check).collect::<Result<_, _>>()?));
        }
        let (Some(source), true) = (sources.pop(), sources.is_empty()) else {
            return Err(format!(
                "{place}: give exactly one of path, all, header, value, template, fields, each or first_of"
            ));
        };
        if self.required && self.default.is_some() {
            return Err(format!(
                "{place}: a field with a default is never without a value, so it cannot be required"
            ));
        }
        Ok(Field {
            when: self.when.map(|when| when.check(place)).transpose()?,
            source,
            lookup: self
                .lookup
                .map(|entries| entries.into_iter().map(|(text, value)| (text, value.into())).collect()),
            to: self.to,
            default: self.default.map(Value::from),
            required: self.required,
        })
    }
}

impl RawCondition {
    fn check(self, place: &str) -> Result<Condition, String> {
        let test = match (self.path, self.header) {
            (Some(RawPath(place)), None) => Test::Path(place),
            (None, Some(name)) => Test::Header(name.to_ascii_lowercase()),
            _ => return Err(format!("{place}.when: give either path or header")),
        };
        Ok(Condition { test, equals: self.equals.map(Value::from) })
    }
}

//! The configuration as the flow file gives it, and its check.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{names, pattern::Pattern, to_json, to_xml};

/// Every element may become an object inside an array, and JSON's readers take 128 levels.
const MAX_DEPTH: usize = 60;

/// One direction, and its settings.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "direction", rename_all = "snake_case", deny_unknown_fields)]
pub enum Config {
    /// XML comes in, JSON goes out.
    XmlToJson {
        /// What the names of attributes begin with. Not a character that an element's name can begin with.
        #[serde(default = "at")]
        attribute_prefix: String,
        /// The member that holds the text of an element which also has attributes or children.
        #[serde(default = "text")]
        text_key: String,
        /// Elements that become an array even when there is only one: `/orders/order` from the root, `*` for any name,
        /// `//line` wherever it stands.
        #[serde(default)]
        always_array: Vec<String>,
        /// What becomes of namespace prefixes.
        #[serde(default)]
        namespaces: Namespaces,
        /// Take white space from both ends of texts.
        #[serde(default = "yes")]
        trim_text: bool,
        /// Texts that are JSON numbers, `true` or `false` become such values. `007` stays text.
        #[serde(default)]
        infer_types: bool,
        /// How deep elements may nest, at most 60.
        #[serde(default = "depth")]
        #[schemars(range(min = 1, max = 60))]
        max_depth: usize,
        /// How many elements and attributes the document may have.
        #[serde(default = "items")]
        #[schemars(range(min = 1))]
        max_items: usize,
    },
    /// JSON comes in, XML goes out.
    JsonToXml {
        /// The root element. Without it the body must be an object with a single member, which becomes the root.
        root: Option<String>,
        /// The element for each item of an array that has no name of its own: the body itself, or an array in an array.
        #[serde(default = "item")]
        item: String,
        /// Members whose names begin so become attributes.
        #[serde(default = "at")]
        attribute_prefix: String,
        /// The member that becomes text.
        #[serde(default = "text")]
        text_key: String,
        /// Begin with `<?xml version="1.0" encoding="UTF-8"?>`.
        #[serde(default = "yes")]
        declaration: bool,
    },
}

/// What becomes of namespace prefixes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Namespaces {
    /// Names stay as they are written, `ns:order`, and declarations are attributes, `@xmlns:ns`.
    #[default]
    Keep,
    /// Prefixes and declarations are left out.
    Strip,
}

/// A direction, checked.
#[derive(Debug)]
pub(crate) enum Direction {
    ToJson(to_json::Settings),
    ToXml(to_xml::Settings),
}

fn at() -> String {
    "@".to_owned()
}

fn text() -> String {
    "#text".to_owned()
}

fn item() -> String {
    "item".to_owned()
}

fn yes() -> bool {
    true
}

fn depth() -> usize {
    50
}

fn items() -> usize {
    100_000
}

impl Config {
    pub(crate) fn check(self) -> Result<Direction, String> {
        match self {
            Config::XmlToJson {
                attribute_prefix,
                text_key,
                always_array,
                namespaces,
                trim_text,
                infer_types,
                max_depth,
                max_items,
            } => {
                check_keys(&attribute_prefix, &text_key)?;
                if !(1..=MAX_DEPTH).contains(&max_depth) {
                    return Err(format!("max_depth must be between 1 and {MAX_DEPTH}"));
                }
                let patterns = always_array.iter().enumerate().map(|(i, pattern)| {
                    Pattern::parse(pattern).map_err(|error| format!("always_array[{i}]: {error}"))
                });
                Ok(Direction::ToJson(to_json::Settings {
                    always_array: patterns.collect::<Result<_, _>>()?,
                    strip_namespaces: namespaces == Namespaces::Strip,
                    attribute_prefix,
                    text_key,
                    trim_text,
                    infer_types,
                    max_depth,
                    max_items,
                }))
            }
            Config::JsonToXml { root, item, attribute_prefix, text_key, declaration } => {
                check_keys(&attribute_prefix, &text_key)?;
                for (key, name) in [("root", root.as_deref()), ("item", Some(&*item))] {
                    if let Some(name) = name.filter(|name| !names::is_name(name)) {
                        return Err(format!("{key}: `{name}` cannot be the name of an element"));
                    }
                }
                Ok(Direction::ToXml(to_xml::Settings { root, item, attribute_prefix, text_key, declaration }))
            }
        }
    }
}

/// Neither may be mistaken for an element, or for the other.
fn check_keys(attribute_prefix: &str, text_key: &str) -> Result<(), String> {
    for (key, value) in [("attribute_prefix", attribute_prefix), ("text_key", text_key)] {
        if value.chars().next().is_none_or(names::can_start) {
            return Err(format!(
                "{key}: `{value}` must begin with a character that no element's name begins with, such as @ or #"
            ));
        }
    }
    if text_key.starts_with(attribute_prefix) {
        return Err(format!(
            "text_key: `{text_key}` begins with attribute_prefix, so it would be an attribute"
        ));
    }
    Ok(())
}

//! JSON to XML, by the same convention. What XML cannot say is refused with its place: a name, a character, an attribute
//! that is no scalar.

use std::fmt;

use gristmill_json::{Object, Value};

use crate::names;

/// How this direction works, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) root: Option<String>,
    pub(crate) item: String,
    pub(crate) attribute_prefix: String,
    pub(crate) text_key: String,
    pub(crate) declaration: bool,
}

/// Why a value cannot be written as XML, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WriteError {
    /// Innermost first.
    place: Vec<String>,
    reason: String,
}

impl WriteError {
    fn new(reason: String) -> Self {
        WriteError { place: Vec::new(), reason }
    }

    fn inside(mut self, part: String) -> Self {
        self.place.push(part);
        self
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`$")?;
        self.place.iter().rev().try_for_each(|part| f.write_str(part))?;
        write!(f, "`: {}", self.reason)
    }
}

type Written = Result<(), WriteError>;

/// Converts a value.
pub(crate) fn convert(value: &Value<'_>, settings: &Settings) -> Result<Vec<u8>, WriteError> {
    let mut writer = Writer { settings, out: String::new() };
    if settings.declaration {
        writer.out.push_str(r#"<?xml version="1.0" encoding="UTF-8"?>"#);
    }
    match &settings.root {
        Some(root) => writer.element(root, value)?,
        None => writer.single_member(value)?,
    }
    Ok(writer.out.into_bytes())
}

struct Writer<'s> {
    settings: &'s Settings,
    out: String,
}

impl Writer<'_> {
    /// The body is its own root.
    fn single_member(&mut self, value: &Value<'_>) -> Written {
        const NO_ROOT: &str = "give `root` in the configuration";
        let Value::Object(object) = value else {
            return Err(WriteError::new(format!(
                "the body is {}, which names no root element; {NO_ROOT}",
                value.kind()
            )));
        };
        let mut members = object.iter();
        match (members.next(), members.next()) {
            (Some((name, Value::Array(items))), None) if items.len() != 1 => Err(WriteError::new(format!(
                "XML has one root element, and `{name}` is an array of {}; {NO_ROOT}",
                items.len()
            ))),
            (Some((name, value)), None) => self.member(name, value),
            _ => Err(WriteError::new(format!(
                "XML has one root element, and the body has {} members; {NO_ROOT}",
                object.len()
            ))),
        }
    }

    /// A member of an object: one element, or one for each item.
    fn member(&mut self, name: &str, value: &Value<'_>) -> Written {
        if !names::is_name(name) {
            return Err(
                WriteError::new(format!("`{name}` cannot be the name of an element")).inside(part(name))
            );
        }
        let Value::Array(items) = value else {
            return self.element(name, value).map_err(|error| error.inside(part(name)));
        };
        for (i, item) in items.iter().enumerate() {
            self.element(name, item).map_err(|error| error.inside(format!("{}[{i}]", part(name))))?;
        }
        Ok(())
    }

    /// An element whose name is known to be one.
    fn element(&mut self, name: &str, value: &Value<'_>) -> Written {
        self.out.push('<');
        self.out.push_str(name);
        if let Value::Object(object) = value {
            self.attributes(object)?;
        }
        if self.is_empty(value) {
            self.out.push_str("/>");
            return Ok(());
        }
        self.out.push('>');
        match value {
            Value::Object(object) => self.children(object)?,
            Value::Array(items) => {
                let item = self.settings.item.as_str();
                for (i, value) in items.iter().enumerate() {
                    self.element(item, value).map_err(|error| error.inside(format!("[{i}]")))?;
                }
            }
            scalar => self.text(scalar.as_text().unwrap_or_default(), false)?,
        }
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
        Ok(())
    }

    fn is_empty(&self, value: &Value<'_>) -> bool {
        match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(object) => object.iter().all(|(name, value)| {
                name.starts_with(&self.settings.attribute_prefix)
                    || value.is_null() && name == self.settings.text_key
            }),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => value.as_text() == Some(""),
        }
    }

    fn attributes(&mut self, object: &Object<'_>) -> Written {
        for (key, value) in object.iter() {
            let Some(name) = key.strip_prefix(&self.settings.attribute_prefix) else { continue };
            if value.is_null() {
                continue;
            }
            if !names::is_name(name) {
                return Err(
                    WriteError::new(format!("`{name}` cannot be the name of an attribute")).inside(part(key))
                );
            }
            let Some(text) = value.as_text() else {
                return Err(
                    WriteError::new(format!("an attribute cannot hold {}", value.kind())).inside(part(key))
                );
            };
            self.out.push(' ');
            self.out.push_str(name);
            self.out.push_str("=\"");
            self.text(text, true).map_err(|error| error.inside(part(key)))?;
            self.out.push('"');
        }
        Ok(())
    }

    fn children(&mut self, object: &Object<'_>) -> Written {
        for (key, value) in object.iter() {
            if key.starts_with(&self.settings.attribute_prefix) {
                continue;
            }
            if key != self.settings.text_key {
                self.member(key, value)?;
            } else if let Some(text) = value.as_text() {
                self.text(text, false).map_err(|error| error.inside(part(key)))?;
            } else if !value.is_null() {
                return Err(WriteError::new(format!("text cannot be {}", value.kind())).inside(part(key)));
            }
        }
        Ok(())
    }

    /// Escapes what would be markup, and what a reader would normalise away.
    fn text(&mut self, text: &str, attribute: bool) -> Written {
        if let Some(character) = names::forbidden(text) {
            return Err(WriteError::new(format!(
                "the character U+{:04X} is not allowed in XML",
                u32::from(character)
            )));
        }
        for character in text.chars() {
            match character {
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '&' => self.out.push_str("&amp;"),
                '\r' => self.out.push_str("&#13;"),
                '"' if attribute => self.out.push_str("&quot;"),
                '\n' if attribute => self.out.push_str("&#10;"),
                '\t' if attribute => self.out.push_str("&#9;"),
                other => self.out.push(other),
            }
        }
        Ok(())
    }
}

/// A member in a place.
fn part(name: &str) -> String {
    if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        format!(".{name}")
    } else {
        format!("['{name}']")
    }
}

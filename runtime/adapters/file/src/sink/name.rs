//! Names that come from messages. Whatever a message holds, its file is inside the folder: a name is taken apart into plain
//! parts here, and what is not plain is refused, not repaired.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use gristmill_core::{ErrorClass, Failure, Message};

use crate::{
    content_type,
    fnv::fnv1a,
    fsys::{MAX_NAME_BYTES, RESERVED_PREFIX},
};

/// How deep subfolders may nest.
const MAX_DEPTH: usize = 16;

/// How much of a message's id goes into a name that is made of it, in bytes: its end, where ids differ.
const MAX_ID_BYTES: usize = 220;

/// A name that stays inside its folder.
#[derive(Debug, Clone)]
pub(crate) struct SafeName {
    /// The subfolders, outermost first.
    pub(crate) folders: Vec<String>,
    /// The name of the file.
    pub(crate) name: String,
    /// What is shown in its place, where a part of it came from outside of the flow file. Makes no other name of it.
    written: Option<Arc<str>>,
}

impl SafeName {
    /// Takes a name apart. `written` is shown in its place, if given.
    ///
    /// # Errors
    /// What is wrong with it, for the operator.
    pub(crate) fn parse(text: &str, subdirectories: bool, written: Option<Arc<str>>) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the name is empty".into());
        }
        let text_shown = || shown(written.as_deref().unwrap_or(text));
        let mut parts: Vec<String> = Vec::new();
        for part in text.split('/') {
            let problem = if part.is_empty() {
                "it begins or ends with `/`, or has two in a row"
            } else if part == "." || part == ".." {
                "`.` and `..` could lead out of the folder"
            } else if part.chars().any(char::is_control) {
                "it holds a control character"
            } else if part.len() > MAX_NAME_BYTES {
                "a part of it is longer than 255 bytes"
            } else if part.starts_with(RESERVED_PREFIX) {
                "names that begin with `.gristmill` belong to the runtime"
            } else if parts.len() >= MAX_DEPTH {
                "it is more than 16 folders deep"
            } else {
                parts.push(part.to_owned());
                continue;
            };
            return Err(format!("`{}` is no name for a file: {problem}", text_shown()));
        }
        let name = parts.pop().unwrap_or_default();
        if !parts.is_empty() && !subdirectories {
            return Err(format!(
                "`{}` holds a `/`: say `subdirectories: true` to write into subfolders",
                text_shown()
            ));
        }
        Ok(Self { folders: parts, name, written })
    }

    /// The same for a name that was rendered for a message.
    pub(crate) fn of_message(
        text: &str,
        subdirectories: bool,
        written: Option<Arc<str>>,
    ) -> Result<Self, Failure> {
        Self::parse(text, subdirectories, written)
            .map_err(|problem| Failure::new(ErrorClass::SinkRejected, format!("file sink: {problem}")))
    }

    /// The name of a message that was given none: its id, made plain, and the extension of its content type.
    pub(crate) fn of_id(message: &Message, extension: Option<&str>) -> Self {
        let id = message.id().as_str();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let mut name: String = id.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        // One byte a character by now.
        name.drain(..name.len().saturating_sub(MAX_ID_BYTES));
        if name.starts_with('.') {
            name.replace_range(..1, "_");
        }
        if name != id {
            // Two ids must not become one name.
            name.push_str(&format!("-{:016x}", fnv1a(id.as_bytes())));
        }
        let extension = extension.or_else(|| message.content_type().and_then(content_type::extension));
        if let Some(extension) = extension {
            name.push('.');
            name.push_str(extension);
        }
        Self { folders: Vec::new(), name, written: None }
    }

    /// A name that is made of this one, unless it must not be shown.
    pub(crate) fn if_shown<'a>(&self, derived: &'a str) -> Option<&'a str> {
        self.written.is_none().then_some(derived)
    }

    fn parts(&self) -> (&[String], &str) {
        (&self.folders, &self.name)
    }
}

impl PartialEq for SafeName {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for SafeName {}

impl Hash for SafeName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

/// As it may be shown.
impl std::fmt::Display for SafeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(written) = &self.written {
            return f.write_str(written);
        }
        for folder in &self.folders {
            write!(f, "{folder}/")?;
        }
        f.write_str(&self.name)
    }
}

/// A name in a message, short and without what would break a line.
fn shown(text: &str) -> String {
    text.chars().flat_map(char::escape_debug).take(120).collect()
}

#[cfg(test)]
mod tests {
    use gristmill_core::Timestamp;

    use super::*;

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let long = "x".repeat(256);
        let deep = "a/".repeat(17) + "b";
        for bad in [
            "",
            ".",
            "..",
            "../a",
            "a/..",
            "a/../b",
            "/etc/passwd",
            "a//b",
            "a/",
            "./a",
            "a\0b",
            "a\nb",
            "\u{7f}",
            &long,
            &deep,
            ".gristmill",
            ".gristmill-tmp-1",
            "x/.gristmill/y",
        ] {
            assert!(SafeName::parse(bad, true, None).is_err(), "{bad:?}");
        }
        let safe = SafeName::parse("2026/01/a b.json", true, None).unwrap();
        assert_eq!((safe.folders.len(), safe.name.as_str()), (2, "a b.json"));
        assert_eq!(safe.to_string(), "2026/01/a b.json");
        assert!(SafeName::parse("a/b", false, None).unwrap_err().contains("subdirectories: true"));
        assert!(SafeName::parse("...", false, None).is_ok());
    }

    #[test]
    fn an_id_makes_a_plain_name_of_its_own() {
        let of = |id: &str| {
            let mut message = Message::new(id, Timestamp::from_millis(0), "");
            message.headers_mut().append("content-type", "application/json").unwrap();
            SafeName::of_id(&message, None).name
        };
        assert_eq!(of("abc-1"), "abc-1.json");
        let names =
            [of("a/../b"), of("a/../c"), of("../x"), of("a:b"), of("a_b"), of(&"x".repeat(500)), of(".x")];
        for name in &names {
            assert!(SafeName::parse(name, false, None).is_ok(), "{name}");
            assert!(!name.starts_with('.'));
        }
        let long = of(&format!("{}/in/orders.jsonl@0123456789abcdef:17", "x".repeat(300)));
        assert!(long.contains("x_in_orders.jsonl_0123456789abcdef_17-") && long.len() <= 245, "{long}");
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
    }
}

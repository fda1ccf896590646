//! `${env:NAME}` and `${file:path}`: resolved after parsing, into values only, never into structure, and marked so that
//! they are never shown.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use gristmill_core::config::{
    Mistake, Mistakes, Node, Piece, SubstitutedPart, Substitution, Value, split_expressions,
};

/// The largest file that `${file:…}` reads, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Where values come from.
pub trait Environment: Send + Sync {
    /// The value of an environment variable.
    fn variable(&self, name: &str) -> Option<String>;
    /// The text of a file, without the newline at its end. The error says what is wrong.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or is not UTF-8.
    fn file(&self, path: &str) -> Result<String, String>;
}

/// The environment of the process; files relative to a base folder.
#[derive(Debug, Clone)]
pub struct ProcessEnvironment {
    base_dir: PathBuf,
}

impl ProcessEnvironment {
    /// Relative paths are relative to `base_dir`.
    pub fn new(base_dir: impl Into<PathBuf>) -> Self {
        Self { base_dir: base_dir.into() }
    }
}

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &str) -> Result<String, String> {
        use std::io::Read;
        let path = self.base_dir.join(Path::new(path));
        let file = std::fs::File::open(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let mut text = String::new();
        file.take(MAX_FILE_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(format!("{} is larger than {MAX_FILE_BYTES} bytes", path.display()));
        }
        let length = text.trim_end_matches(['\n', '\r']).len();
        text.truncate(length);
        Ok(text)
    }
}

/// Resolves every `${env:…}` and `${file:…}` in the values of a tree. Other `${…}` are expressions and stay.
pub fn substitute(node: &mut Node, environment: &dyn Environment, mistakes: &mut Mistakes) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| substitute(item, environment, mistakes)),
        Value::Map(entries) => {
            entries.iter_mut().for_each(|entry| substitute(&mut entry.value, environment, mistakes));
        }
        Value::String(text) if text.contains("${env:") || text.contains("${file:") => {
            match resolve(text, environment) {
                Ok(Some(substitution)) => {
                    *text = substitution.resolved();
                    node.substitution = Some(Arc::new(substitution));
                }
                Ok(None) => {}
                Err((problem, mend)) => {
                    mistakes.push(Mistake::new("unresolved_value", &node.span, problem).mend(mend));
                }
            }
        }
        _ => {}
    }
}

/// `None` when there was nothing to resolve. What was put in is not read again, and may not hold a `${`; nor can it stand
/// inside of an expression in a text: a secret can never become an expression, or a part of one.
fn resolve(text: &str, environment: &dyn Environment) -> Result<Option<Substitution>, (String, String)> {
    let pieces = split_expressions(text)
        .ok_or_else(|| ("a `${` is not closed".to_owned(), "close it with `}`, or write `$${`".to_owned()))?;
    let mut parts = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let written = match piece {
            Piece::Literal(written) | Piece::Expression(written) => written.to_owned(),
        };
        let named = match piece {
            Piece::Literal(_) => None,
            Piece::Expression(written) => written.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')),
        };
        let value = match named.map(|named| (named, named.split_once(':'))) {
            Some((_, Some(("env", name)))) => environment.variable(name).ok_or_else(|| {
                (
                    format!("the environment variable `{name}` is not set"),
                    format!("set {name}, or write the value"),
                )
            })?,
            Some((_, Some(("file", path)))) => environment
                .file(path)
                .map_err(|e| (e, "make the file readable for the runtime, or write the value".into()))?,
            Some((named, _)) if named.contains("${env:") || named.contains("${file:") => {
                return Err((
                    "a value from outside stands inside of an expression, of which it would become a part"
                        .into(),
                    "let it stand in the text by itself, beside the expressions".into(),
                ));
            }
            _ => {
                parts.push(SubstitutedPart::Written(written));
                continue;
            }
        };
        if value.contains("${") {
            return Err((
                format!("the value of `{written}` holds `${{`, which would be read as an expression"),
                "use a value without `${`".into(),
            ));
        }
        parts.push(SubstitutedPart::Value { written, value });
    }
    let joins = |(one, next): (&SubstitutedPart, &SubstitutedPart)| {
        one.resolved().ends_with('$') && next.resolved().starts_with('{')
    };
    if parts.iter().zip(parts.iter().skip(1)).any(joins) {
        return Err((
            "a value and what stands beside it join to `${`, which would be read as an expression".into(),
            "put something between the two".into(),
        ));
    }
    let substitution = Substitution { parts };
    let is_changed = substitution.values().next().is_some();
    Ok(is_changed.then_some(substitution))
}

#[cfg(test)]
mod tests {
    use gristmill_core::config::Span;
    use serde_json::json;

    use super::*;

    struct Fixed;

    impl Environment for Fixed {
        fn variable(&self, name: &str) -> Option<String> {
            match name {
                "SECRET" => Some("hunter2".into()),
                "EVIL" => Some("${body.x}".into()),
                "DOLLAR" => Some("a$".into()),
                "BRACE" => Some("{body.x}".into()),
                _ => None,
            }
        }
        fn file(&self, path: &str) -> Result<String, String> {
            if path == "key" { Ok("k: [1".into()) } else { Err(format!("cannot read {path}")) }
        }
    }

    fn substituted(json: serde_json::Value) -> (Node, Mistakes) {
        let mut node = Node::from_json(&json, &Span::nowhere("test"));
        let mut mistakes = Mistakes::new();
        substitute(&mut node, &Fixed, &mut mistakes);
        (node, mistakes)
    }

    #[test]
    fn values_are_put_in_and_marked_and_never_become_structure_or_expressions() {
        let (node, mistakes) =
            substituted(json!({"a": "x ${env:SECRET} y", "b": ["${file:key}"], "c": "${body.id}"}));
        assert!(mistakes.is_empty());
        assert_eq!(node.to_json(), json!({"a": "x hunter2 y", "b": ["k: [1"], "c": "${body.id}"}));
        assert!(node.at(["a"]).is_substituted() && !node.at(["c"]).is_substituted());
        assert!(!format!("{node:?}").contains("hunter"));
    }

    #[test]
    fn a_value_never_becomes_a_part_of_an_expression_in_a_text() {
        let (_, mistakes) = substituted(json!({
            "a": "${body.x + '${env:SECRET}'}",
            "b": "${body.x + ${env:SECRET}}",
            "c": "${env:DOLLAR}{body.x}",
            "d": "${env:DOLLAR}${env:BRACE}",
            "e": "${env:SECRET} ${body.x",
        }));
        assert_eq!(mistakes.len(), 5, "{mistakes:?}");
        let (node, mistakes) = substituted(json!({"a": "$${env:SECRET} ${env:SECRET}"}));
        assert!(mistakes.is_empty());
        assert_eq!(node.to_json(), json!({"a": "$${env:SECRET} hunter2"}));
        let substitution = node.at(["a"]).substitution.as_ref().unwrap();
        assert_eq!(substitution.written(), "$${env:SECRET} ${env:SECRET}");
        assert_eq!(substitution.redacted(), "$${env:SECRET} [redacted]");
    }

    #[test]
    fn what_is_not_there_is_a_mistake_and_all_are_found() {
        let (_, mistakes) = substituted(
            json!({"a": "${env:NOPE}", "b": "${file:nope}", "c": "$${env:NOPE}", "d": "${env:EVIL}"}),
        );
        assert_eq!(mistakes.len(), 3);
        assert!(!format!("{mistakes:?}").contains("body.x"));
    }
}

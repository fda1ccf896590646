//! `${env:NAME}` and `${file:path}`: resolved after parsing, into values only, never into structure, and marked so that
//! they are never shown.

use std::path::{Path, PathBuf};

use gristmill_core::config::{Mistake, Mistakes, Node, Value};

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
                Ok(Some(resolved)) => {
                    *text = resolved;
                    node.substituted = true;
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

/// `None` when there was nothing to resolve. What was put in is not read again, and may not hold a `${`: a secret can never
/// become an expression.
fn resolve(text: &str, environment: &dyn Environment) -> Result<Option<String>, (String, String)> {
    let mut out = String::new();
    let mut rest = text;
    let mut changed = false;
    while let Some(at) = rest.find("${") {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let inner = after.get(2..).unwrap_or_default();
        let escaped = before.ends_with('$');
        let found = inner.split_once('}').and_then(|(name, tail)| {
            let value = if let Some(name) = name.strip_prefix("env:") {
                environment.variable(name).ok_or_else(|| {
                    (
                        format!("the environment variable `{name}` is not set"),
                        format!("set {name}, or write the value"),
                    )
                })
            } else if let Some(path) = name.strip_prefix("file:") {
                environment
                    .file(path)
                    .map_err(|e| (e, "make the file readable for the runtime, or write the value".into()))
            } else {
                return None;
            };
            Some((value, tail))
        });
        match found {
            Some((value, tail)) if !escaped => {
                let value = value?;
                if value.contains("${") {
                    return Err((
                        format!(
                            "the value of `${{{}}}` holds `${{`, which would be read as an expression",
                            tail_of(inner)
                        ),
                        "use a value without `${`".into(),
                    ));
                }
                out.push_str(&value);
                changed = true;
                rest = tail;
            }
            _ => {
                out.push_str("${");
                rest = inner;
            }
        }
    }
    out.push_str(rest);
    Ok(changed.then_some(out))
}

/// What is named between the braces.
fn tail_of(inner: &str) -> &str {
    inner.split('}').next().unwrap_or_default()
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
        assert!(node.at(["a"]).substituted && !node.at(["c"]).substituted);
        assert!(!format!("{node:?}").contains("hunter"));
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

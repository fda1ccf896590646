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

/// The code of a mistake by which nothing in a text can be resolved, and nothing more can be said of it.
pub(crate) const UNREADABLE: &str = "unreadable_value";

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

/// Resolves every `${env:…}` and `${file:…}` in the values of a tree. Other `${…}` are expressions and stay. An empty text
/// stands for what is not there, so that the rest of its text can be checked.
pub fn substitute(node: &mut Node, environment: &dyn Environment, mistakes: &mut Mistakes) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| substitute(item, environment, mistakes)),
        Value::Map(entries) => {
            entries.iter_mut().for_each(|entry| substitute(&mut entry.value, environment, mistakes));
        }
        Value::String(text) if text.contains("${env:") || text.contains("${file:") => {
            let (substitution, problems) = resolve(text, environment);
            let code = if substitution.is_some() { "unresolved_value" } else { UNREADABLE };
            if let Some(substitution) = substitution {
                *text = substitution.resolved();
                node.substitution = Some(Arc::new(substitution));
            }
            for (problem, mend) in problems {
                mistakes.push(Mistake::new(code, &node.span, problem).mend(mend));
            }
        }
        _ => {}
    }
}

/// What is wrong, and what to do about it.
type Problem = (String, String);

/// `None` when there was nothing to resolve. What was put in is not read again, and may not hold a `${`; nor can it stand
/// inside of an expression in a text: a secret can never become an expression, or a part of one.
fn resolve(text: &str, environment: &dyn Environment) -> (Option<Substitution>, Vec<Problem>) {
    let Some(pieces) = split_expressions(text) else {
        return (None, vec![("a `${` is not closed".into(), "close it with `}`, or write `$${`".into())]);
    };
    let (mut parts, mut problems) = (Vec::with_capacity(pieces.len()), Vec::new());
    for piece in pieces {
        match resolve_piece(piece, environment) {
            Ok(part) => parts.push(part),
            Err(problem) => {
                problems.push(problem);
                let (Piece::Literal(written) | Piece::Expression(written)) = piece;
                parts.push(SubstitutedPart::Value { written: written.to_owned(), value: String::new() });
            }
        }
    }
    let joins = |(one, next): (&SubstitutedPart, &SubstitutedPart)| {
        one.resolved().ends_with('$') && next.resolved().starts_with('{')
    };
    if parts.iter().zip(parts.iter().skip(1)).any(joins) {
        problems.push((
            "a value and what stands beside it join to `${`, which would be read as an expression".into(),
            "put something between the two".into(),
        ));
        return (None, problems);
    }
    let substitution = Substitution { parts };
    let is_changed = substitution.values().next().is_some();
    (is_changed.then_some(substitution), problems)
}

fn resolve_piece(piece: Piece<'_>, environment: &dyn Environment) -> Result<SubstitutedPart, Problem> {
    let value_of_variable = |name: &str| {
        if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            let problem =
                format!("`{name}` is no name of an environment variable: it has letters, digits and `_`");
            let mend =
                "write the name alone, `${env:NAME}`: that is a value, and no expression can stand in it";
            return Err((problem, mend.to_owned()));
        }
        environment.variable(name).ok_or_else(|| {
            (
                format!("the environment variable `{name}` is not set"),
                format!("set {name}, or write the value"),
            )
        })
    };
    let written = match piece {
        Piece::Literal(written) | Piece::Expression(written) => written.to_owned(),
    };
    let named = match piece {
        Piece::Literal(_) => None,
        Piece::Expression(written) => written.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')),
    };
    let value = match named.map(|named| (named, named.split_once(':'))) {
        Some((_, Some(("env", name)))) => value_of_variable(name)?,
        Some((_, Some(("file", path)))) => environment
            .file(path)
            .map_err(|e| (e, "make the file readable for the runtime, or write the value".into()))?,
        Some((named, _)) if named.contains("${env:") || named.contains("${file:") => {
            return Err((
                "a value from outside stands inside of an expression, of which it would become a part".into(),
                "let it stand in the text by itself, beside the expressions".into(),
            ));
        }
        _ => return Ok(SubstitutedPart::Written(written)),
    };
    if value.contains("${") {
        return Err((
            format!("the value of `{written}` holds `${{`, which would be read as an expression"),
            "use a value without `${`".into(),
        ));
    }
    Ok(SubstitutedPart::Value { written, value })
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
        let (_, mistakes) = substituted(json!({"a": "${env:NOPE} ${env:SECRET} ${env:NOR} ${file:nope}"}));
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
    }

    #[test]
    fn an_expression_is_no_name_of_a_variable() {
        for name in ["SECRET + 1", "", "1SECRET", "SECRET.x"] {
            let (_, mistakes) = substituted(json!({"a": format!("${{env:{name}}}")}));
            let mistakes = mistakes.into_sorted();
            assert!(mistakes[0].text.contains("no name of an environment variable"), "{mistakes:?}");
            assert!(mistakes[0].mend.as_deref().unwrap().contains("no expression"), "{mistakes:?}");
        }
    }
}

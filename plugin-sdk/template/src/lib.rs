//! The files of a new plugin: a package that builds and passes its test at once, anywhere.
//!
//! The SDK is not published, so a new plugin gets a copy of it beside its own source, under `sdk/`, from what is embedded
//! here. To update it, replace that folder with the one of a newer plugin.

use std::fmt;

/// A file of the new plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Relative to the plugin's folder, with `/`.
    pub path: &'static str,
    /// All of it.
    pub content: String,
}

/// Why a name cannot be a plugin's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameError {
    name: String,
    reason: &'static str,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` cannot be the name of a plugin: {}", self.name, self.reason)
    }
}

impl std::error::Error for NameError {}

/// The plugin itself, with `{{name}}` and `{{crate}}` (the name with underscores) to fill in. Templates have a suffix, so
/// that no tool takes them for packages or sources.
const TEMPLATES: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../files/Cargo.toml.template")),
    ("README.md", include_str!("../files/README.md.template")),
    (".cargo/config.toml", include_str!("../files/cargo-config.toml.template")),
    (".gitignore", include_str!("../files/gitignore.template")),
    ("src/lib.rs", include_str!("../files/src/lib.rs.template")),
];

/// The SDK, as it is. Its macro reads `../wit`, so both folders go together.
const SDK: &[(&str, &str)] = &[
    ("sdk/wit/plugin.wit", include_str!("../../wit/plugin.wit")),
    ("sdk/rust/Cargo.toml", include_str!("../../rust/Cargo.toml")),
    ("sdk/rust/src/lib.rs", include_str!("../../rust/src/lib.rs")),
    ("sdk/rust/src/allocator.rs", include_str!("../../rust/src/allocator.rs")),
    ("sdk/rust/src/bindings.rs", include_str!("../../rust/src/bindings.rs")),
    ("sdk/rust/src/configure.rs", include_str!("../../rust/src/configure.rs")),
    ("sdk/rust/src/export.rs", include_str!("../../rust/src/export.rs")),
    ("sdk/rust/src/host.rs", include_str!("../../rust/src/host.rs")),
    ("sdk/rust/src/host/clock.rs", include_str!("../../rust/src/host/clock.rs")),
    ("sdk/rust/src/host/double.rs", include_str!("../../rust/src/host/double.rs")),
    ("sdk/rust/src/host/log.rs", include_str!("../../rust/src/host/log.rs")),
    ("sdk/rust/src/host/metrics.rs", include_str!("../../rust/src/host/metrics.rs")),
    ("sdk/rust/src/host/random.rs", include_str!("../../rust/src/host/random.rs")),
    ("sdk/rust/src/host/state.rs", include_str!("../../rust/src/host/state.rs")),
    ("sdk/rust/src/message.rs", include_str!("../../rust/src/message.rs")),
    ("sdk/rust/src/testing.rs", include_str!("../../rust/src/testing.rs")),
    ("sdk/rust/src/traits.rs", include_str!("../../rust/src/traits.rs")),
];

/// The files of a new plugin of this name.
///
/// # Errors
/// When the name is not one that a plugin and a Rust package can have: up to 64 lower-case letters, digits and single hyphens,
/// beginning with a letter, and no word that Rust keeps for itself.
pub fn files(name: &str) -> Result<Vec<File>, NameError> {
    check(name).map_err(|reason| NameError { name: name.to_owned(), reason })?;
    let library = name.replace('-', "_");
    let fill = |text: &str| text.replace("{{name}}", name).replace("{{crate}}", &library);
    let own = TEMPLATES.iter().map(|(path, text)| File { path, content: fill(text) });
    let sdk = SDK.iter().map(|(path, text)| File { path, content: (*text).to_owned() });
    Ok(own.chain(sdk).collect())
}

fn check(name: &str) -> Result<(), &'static str> {
    const MAX_BYTES: usize = 64;
    /// Names of dependencies and of what Rust brings; a package of the same name would hide it.
    const TAKEN: &[&str] = &[
        "alloc",
        "build",
        "core",
        "deps",
        "examples",
        "gristmill-plugin",
        "incremental",
        "proc-macro",
        "schemars",
        "serde",
        "serde-json",
        "std",
        "test",
    ];
    /// Rust's keywords, of all editions.
    const KEYWORDS: &[&str] = &[
        "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do",
        "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let",
        "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self",
        "static", "struct", "super", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use",
        "virtual", "where", "while", "yield",
    ];
    if name.len() > MAX_BYTES {
        return Err("it has more than 64 characters");
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err("it must begin with a lower-case letter");
    }
    if !name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
        return Err("only lower-case letters, digits and hyphens are allowed");
    }
    if name.ends_with('-') || name.contains("--") {
        return Err("hyphens stand single and between others");
    }
    if KEYWORDS.contains(&name) || TAKEN.contains(&name) {
        return Err("Rust or a dependency has taken that word");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "order-normaliser", "v2", "a-1-b"] {
            assert!(files(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "A",
            "1a",
            "-a",
            "a-",
            "a--b",
            "a_b",
            "a/b",
            "../a",
            "é",
            "test",
            "fn",
            "serde",
            &"a".repeat(65),
        ] {
            assert!(files(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_placeholder_is_filled() {
        for file in files("my-plugin").unwrap().iter().filter(|file| !file.path.starts_with("sdk/")) {
            assert!(!file.content.contains("{{"), "{}", file.path);
        }
    }

    #[test]
    fn the_whole_sdk_is_embedded() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../rust/src");
        let mut folders = vec![source.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = format!("sdk/rust/src/{}", path.strip_prefix(&source).unwrap().display());
                assert!(SDK.iter().any(|(path, _)| *path == name), "{name} is not embedded");
            }
        }
    }
}

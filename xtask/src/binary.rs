//! Builds the runtime's binary.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Builds `gristmill` alone, in the development profile.
pub(crate) fn gristmill(root: &Path) -> Result<PathBuf> {
    build(root, &["build", "--package", "gristmill", "--bin", "gristmill"])
}

/// Builds with these arguments of cargo, and tells where they have put `gristmill`. Cargo shows what it does on stderr.
pub(crate) fn build(root: &Path, arguments: &[&str]) -> Result<PathBuf> {
    build_target(root, arguments, "gristmill", "bin")
}

/// The same for another target: its name and its kind, as `cargo metadata` has them.
pub(crate) fn build_target(root: &Path, arguments: &[&str], name: &str, kind: &str) -> Result<PathBuf> {
    let output = Command::new(crate::cargo())
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "`cargo {}` failed, see above", arguments.join(" "));
    let executable = |line: &[u8]| {
        let message: Value = serde_json::from_slice(line).ok()?;
        let is = |pointer: &str, wanted: &str| {
            message.pointer(pointer)?.as_str().filter(|is| *is == wanted).map(drop)
        };
        is("/target/name", name)?;
        is("/target/kind/0", kind)?;
        // A binary is built once more as the tests that are in it.
        message.pointer("/profile/test")?.as_bool().filter(|test| !test || kind != "bin")?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    };
    let built = output.stdout.split(|byte| *byte == b'\n').find_map(executable);
    built.with_context(|| format!("cargo did not tell where `{name}` is"))
}

//! Builds the runtime's binary.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Builds `gristmill` in the development profile and tells where it is. Cargo shows what it does on stderr.
pub(crate) fn gristmill(root: &Path) -> Result<PathBuf> {
    let output = Command::new(crate::cargo())
        .args(["build", "--package", "gristmill", "--bin", "gristmill"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "the runtime does not compile, see above");
    let executable = |line: &[u8]| {
        let message: Value = serde_json::from_slice(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    };
    let built = output.stdout.split(|byte| *byte == b'\n').find_map(executable);
    built.context("cargo did not tell where the runtime is")
}

//! A new plugin builds and passes its test at once, outside of this workspace.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{path::Path, process::Command};

#[test]
fn a_new_plugin_passes_its_test() {
    let folder = tempfile::tempdir().unwrap();
    for file in gristmill_template::files("my-plugin").unwrap() {
        let path = folder.path().join(file.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file.content).unwrap();
    }
    // The versions that this workspace has, so that nothing need be fetched.
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::copy(workspace.join("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["test", "--quiet"])
        .current_dir(folder.path())
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-plugin"))
        .output()
        .unwrap();
    let shown =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("2 passed"), "{shown}");
}

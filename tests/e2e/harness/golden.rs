//! What users are told, kept in files below `golden/`.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folder of these files.
pub(crate) fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/e2e/golden")
}

/// Holds a text against a file. `GRISTMILL_BLESS=1` writes the file.
#[track_caller]
pub(crate) fn assert_golden(path: &Path, actual: &str) {
    if std::env::var_os("GRISTMILL_BLESS").is_some() {
        fs::write(path, actual).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(
        expected == actual,
        "{} differs; if this is right, run the test with GRISTMILL_BLESS=1\n=== expected\n{expected}\n=== actual\n{actual}",
        path.display()
    );
}

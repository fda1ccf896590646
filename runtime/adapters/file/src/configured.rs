//! Paths as a flow file gives them. What came from the environment or a file (`${env:…}`) leads to the right folder and is
//! never shown: so a path carries beside it the text that may be.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use gristmill_core::config::Node;

use crate::fsys::name_text;

/// A folder of a flow file. Gives no text of its path but the one that may be shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ConfiguredPath {
    path: PathBuf,
    /// As it stands in the flow file.
    written: Arc<str>,
    is_substituted: bool,
}

impl ConfiguredPath {
    /// The path that stands at `node`, relative to `base`.
    pub(crate) fn new(base: &Path, configured: &Path, node: &Node) -> Self {
        let written = written(node).unwrap_or_else(|| name_text(configured.as_os_str()));
        Self { path: base.join(configured), written: written.into(), is_substituted: node.is_substituted() }
    }

    /// A folder in it.
    pub(crate) fn subfolder(&self, name: &str) -> Self {
        Self {
            path: self.path.join(name),
            written: self.written_path_of(name).into(),
            is_substituted: self.is_substituted,
        }
    }

    /// For the system: not to be shown.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// As it stands in the flow file.
    pub(crate) fn written(&self) -> &str {
        &self.written
    }

    /// The path of something in it, as the folder stands in the flow file.
    pub(crate) fn written_path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.written.trim_end_matches('/'))
    }

    /// Whether a part of it came from outside of the flow file.
    pub(crate) fn is_substituted(&self) -> bool {
        self.is_substituted
    }

    /// One of the folders above it, for messages.
    pub(crate) fn ancestor_text(&self, ancestor: &Path) -> String {
        if self.is_substituted { "what is above it".into() } else { format!("`{}`", text(ancestor)) }
    }
}

/// Where it leads, or how it was written where that must not be shown.
impl fmt::Display for ConfiguredPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_substituted { f.write_str(&self.written) } else { f.write_str(&text(&self.path)) }
    }
}

/// Shows what [`fmt::Display`] shows.
impl fmt::Debug for ConfiguredPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// The text at `node` as it was written, if a part of it came from outside of the flow file.
pub(crate) fn written(node: &Node) -> Option<String> {
    node.substitution.as_ref().map(|substitution| substitution.written())
}

fn text(path: &Path) -> String {
    name_text(path.as_os_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{SECRET, config};

    #[test]
    fn what_came_from_outside_is_used_and_not_shown() {
        let base = Path::new("/base");
        let path = Path::new("hunter2/in/");
        let plain = ConfiguredPath::new(base, path, &config(&json!(null)));
        assert_eq!((plain.to_string().as_str(), plain.written()), ("/base/hunter2/in/", "hunter2/in/"));
        assert_eq!(plain.ancestor_text(Path::new("/base")), "`/base`");

        let hidden = ConfiguredPath::new(base, path, &config(&json!("hunter2/in/")));
        assert_eq!(hidden.path(), plain.path());
        assert_eq!(hidden.subfolder("done").path(), Path::new("/base/hunter2/in/done"));
        let shown = format!(
            "{hidden} {hidden:?} {} {} {}",
            hidden.subfolder("done"),
            hidden.written_path_of("a"),
            hidden.ancestor_text(Path::new("/base/hunter2"))
        );
        assert!(!shown.contains(SECRET) && shown.contains("${env:SECRET}/in/done"), "{shown}");
    }
}

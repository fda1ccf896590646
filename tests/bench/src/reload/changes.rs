//! Saves that change nothing of what a flow does, and make it a new version: in turn another description in the flow file, and
//! a plugin in place of one that does the same.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::plugins::{self, marked};

/// How long a change may take until it has been applied.
const APPLIED_LIMIT: Duration = Duration::from_secs(20);

/// How often the log is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What the log says of a flow that is now what its file says.
const APPLIED: &str = "orders.yaml: running";

/// The plugin that the flow names.
pub(super) const PLUGIN: &str = "orders-rename";

/// The files of a running flow.
#[derive(Debug)]
pub(super) struct Files {
    flow: PathBuf,
    text: String,
    plugin: PathBuf,
    /// They do the same and differ.
    variants: [Vec<u8>; 2],
    log: PathBuf,
    /// How often something was saved.
    saves: usize,
}

impl Files {
    /// Those of a runtime that works in `folder`, where `flows` and `plugins` are. The plugin is written for the first time.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn new(folder: &Path, text: String, rename: &[u8]) -> Result<Self> {
        let files = Self {
            flow: folder.join("flows/orders.yaml"),
            text,
            plugin: plugins::file(&folder.join("plugins"), PLUGIN),
            variants: [marked(rename, 1), marked(rename, 2)],
            log: folder.join("log"),
            saves: 0,
        };
        for file in [&files.flow, &files.plugin] {
            let parent = file.parent().context("a file without a folder")?;
            fs::create_dir_all(parent)?;
        }
        fs::write(&files.plugin, &files.variants[0])?;
        fs::write(&files.flow, &files.text)?;
        Ok(files)
    }

    /// Saves a change and waits until it has been applied; meanwhile it does `besides` again and again. Gives how long it took.
    ///
    /// # Errors
    /// When it was not applied in time, or that of `besides`.
    pub(super) fn change(&mut self, mut besides: impl FnMut() -> Result<()>) -> Result<Duration> {
        let before = self.applied()?;
        self.saves += 1;
        let (number, saved) = (self.saves, Instant::now());
        if number % 2 == 1 {
            let text = format!("{}description: saved {number} times\n", self.text);
            replace(&self.flow, text.as_bytes())?;
        } else {
            let variant = self.variants.get(number / 2 % 2).context("there are two variants")?;
            replace(&self.plugin, variant)?;
        }
        while self.applied()? == before {
            let log = || fs::read_to_string(&self.log).unwrap_or_default();
            ensure!(saved.elapsed() < APPLIED_LIMIT, "save {number} was not applied: {}", log());
            besides()?;
            thread::sleep(LOOK_EVERY);
        }
        Ok(saved.elapsed())
    }

    /// Whether they run.
    ///
    /// # Errors
    /// When there is no log.
    pub(super) fn are_applied(&self) -> Result<bool> {
        Ok(self.applied()? > 0)
    }

    /// How often a version was applied so far.
    fn applied(&self) -> Result<usize> {
        Ok(fs::read_to_string(&self.log)?.matches(APPLIED).count())
    }
}

/// As careful editors save: a new file in the place of the old one, so that nobody sees half of it.
fn replace(file: &Path, content: &[u8]) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, content)?;
    fs::rename(&new, file).with_context(|| format!("cannot replace {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flow_and_plugin_are_changed_in_turn_and_no_two_versions_in_a_row_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Files::new(folder.path(), "flow: orders\n".into(), b"wasm").unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "").unwrap();
        let state = || {
            let flow = fs::read_to_string(folder.path().join("flows/orders.yaml")).unwrap();
            (flow, fs::read(folder.path().join("plugins/orders-rename.wasm")).unwrap())
        };
        let mut states = vec![state()];
        for _ in 0..6 {
            // The runtime, as it were.
            files
                .change(|| Ok(fs::write(&log, format!("{}{APPLIED}\n", fs::read_to_string(&log)?))?))
                .unwrap();
            states.push(state());
        }
        for (number, pair) in states.windows(2).enumerate() {
            let changed = (pair[0].0 != pair[1].0, pair[0].1 != pair[1].1);
            assert_eq!(changed, (number % 2 == 0, number % 2 == 1), "{number}");
        }
        assert!(states.iter().all(|(flow, _)| flow.starts_with("flow: orders\n")));
    }
}

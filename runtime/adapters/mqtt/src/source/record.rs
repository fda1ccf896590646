//! Which topic filters the broker's session of a source has, on disk. The protocol has no way to ask, and a session outlives
//! the process: a filter that was taken out of the flow while no runtime ran would stay subscribed for ever.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::connection::SessionKey;

/// Its name in the folder of the flow.
const FILE: &str = "mqtt-subscriptions.json";

/// The form of the record. One of another form says nothing.
const FORM: u32 = 1;

/// The largest record that is read, in bytes: a thousand filters of the longest, and then some.
const MAX_BYTES: u64 = 128 * 1024 * 1024;

/// What is on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    form: u32,
    session: SessionKey,
    filters: BTreeSet<String>,
}

/// Where the record of a flow is kept.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    path: PathBuf,
}

// === impl Record ===

impl Record {
    /// In the folder of a flow, which is made when something is noted.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self { path: folder.join(FILE) }
    }

    /// What a session is known to have subscribed. Nothing when it was not noted, or cannot be read: then what is not wanted any
    /// more is not known either.
    pub(crate) async fn read(&self, session: SessionKey) -> BTreeSet<String> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        match read.map_err(io::Error::other).and_then(|read| read) {
            Ok(Some(content)) if content.session == session => content.filters,
            Ok(_) => BTreeSet::new(),
            Err(error) => {
                tracing::warn!(
                    target: "gristmill::mqtt", file = %self.path.display(),
                    "it is not known what the session at the broker has subscribed: {error}"
                );
                BTreeSet::new()
            }
        }
    }

    /// Notes what a session has subscribed, in the place of what was noted before.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) async fn write(&self, session: SessionKey, filters: BTreeSet<String>) -> io::Result<()> {
        let (path, content) = (self.path.clone(), Content { form: FORM, session, filters });
        tokio::task::spawn_blocking(move || write(&path, &content)).await.map_err(io::Error::other)?
    }

    /// There is no session any more.
    pub(crate) async fn remove(&self) {
        // What stays is of no session, or of one that begins anew.
        let _gone = tokio::fs::remove_file(&self.path).await;
    }
}

fn read(path: &Path) -> io::Result<Option<Content>> {
    let size = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata?.len(),
    };
    if size > MAX_BYTES {
        return Err(io::Error::other("the file is too large"));
    }
    let content: Content = serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)?;
    Ok((content.form == FORM).then_some(content))
}

/// In one step: a record that is half written would be none.
fn write(path: &Path, content: &Content) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let beside = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(&serde_json::to_vec(content).map_err(io::Error::other)?)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_finds_what_was_noted_of_it_and_no_other_does() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::in_folder(&folder.path().join("flow"));
        let session = |client_id: &str| SessionKey { host: "h".into(), port: 1, client_id: client_id.into() };
        let filters = |filters: &[&str]| filters.iter().map(|it| (*it).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(record.read(session("one")).await, filters(&[]));
        record.write(session("one"), filters(&["a", "b/#"])).await.unwrap();
        record.write(session("one"), filters(&["a"])).await.unwrap();
        assert_eq!(record.read(session("one")).await, filters(&["a"]));
        assert_eq!(record.read(session("two")).await, filters(&[]));
        fs::write(&record.path, "damaged").unwrap();
        assert_eq!(record.read(session("one")).await, filters(&[]));
        record.remove().await;
        assert!(!record.path.exists());
    }
}

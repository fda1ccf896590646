//! Which sessions at brokers a source has, and which topic filters each has subscribed, on disk. The protocol has no way to ask,
//! and a session outlives the process: a filter that was taken out of the flow while no runtime ran would stay subscribed for
//! ever, and a session that was given up for another would go on collecting messages of which nobody knows.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::connection::SessionKey;

/// Its name in the folder of the flow.
const FILE: &str = "mqtt-subscriptions.json";

/// The form of the record. One of another form says nothing.
const FORM: u32 = 2;

/// The largest record that is read, in bytes: a thousand filters of the longest, and then some.
const MAX_BYTES: u64 = 128 * 1024 * 1024;

/// A session that is given up and the one in its place are noted in one file.
static WRITING: Mutex<()> = Mutex::new(());

/// What is on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    form: u32,
    sessions: Vec<Noted>,
}

/// A session that a broker keeps for this source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Noted {
    pub(crate) session: SessionKey,
    /// For texts: nothing that was substituted is in it.
    pub(crate) shown: String,
    /// What it may have subscribed.
    pub(crate) filters: BTreeSet<String>,
}

/// Where the record of a flow is kept.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) path: PathBuf,
}

// === impl Record ===

impl Record {
    /// In the folder of a flow, which is made when something is noted.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self { path: folder.join(FILE) }
    }

    /// The sessions that are noted. None when there is no record, or it cannot be read: then what is not wanted any more is not
    /// known either.
    pub(crate) async fn read(&self) -> Vec<Noted> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        match read.map_err(io::Error::other).and_then(|read| read) {
            Ok(sessions) => sessions,
            Err(error) => {
                tracing::warn!(
                    target: "gristmill::mqtt", file = %self.path.display(),
                    "it is not known what the session at the broker has subscribed: {error}"
                );
                Vec::new()
            }
        }
    }

    /// The flow in whose record this session is as well, in the folder beside that of this one. Who has it now noted it.
    pub(crate) async fn also_of(&self, session: &SessionKey) -> Option<String> {
        let (path, session) = (self.path.clone(), session.clone());
        let look = move || {
            let own = path.parent()?;
            let folders = fs::read_dir(own.parent()?).ok()?.flatten().map(|entry| entry.path());
            let mut others = folders.filter(|folder| folder != own);
            let has = |folder: &PathBuf| {
                read(&folder.join(FILE)).is_ok_and(|all| all.iter().any(|it| it.session == session))
            };
            Some(others.find(has)?.file_name()?.to_string_lossy().into_owned())
        };
        tokio::task::spawn_blocking(look).await.ok()?
    }

    /// Notes a session, in the place of what was noted of it before and of those in `instead_of`.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) async fn write(&self, noted: Noted, instead_of: Vec<SessionKey>) -> io::Result<()> {
        self.change(move |sessions| {
            sessions.retain(|it| it.session != noted.session && !instead_of.contains(&it.session));
            sessions.push(noted);
        })
        .await
    }

    /// There is no such session any more.
    pub(crate) async fn remove(&self, session: SessionKey) {
        // What stays noted is at worst looked for in vain.
        let _gone = self.change(move |sessions| sessions.retain(|it| it.session != session)).await;
    }

    async fn change(&self, change: impl FnOnce(&mut Vec<Noted>) + Send + 'static) -> io::Result<()> {
        let path = self.path.clone();
        let changed = tokio::task::spawn_blocking(move || {
            let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
            // What cannot be read is written anew.
            let mut sessions = read(&path).unwrap_or_default();
            change(&mut sessions);
            if sessions.is_empty() { remove(&path) } else { write(&path, sessions) }
        });
        changed.await.map_err(io::Error::other)?
    }
}

fn read(path: &Path) -> io::Result<Vec<Noted>> {
    let size = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        metadata => metadata?.len(),
    };
    if size > MAX_BYTES {
        return Err(io::Error::other("the file is too large"));
    }
    let content: Content = serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)?;
    Ok(if content.form == FORM { content.sessions } else { Vec::new() })
}

/// In one step: a record that is half written would be none.
fn write(path: &Path, sessions: Vec<Noted>) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let beside = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    let content = Content { form: FORM, sessions };
    file.write_all(&serde_json::to_vec(&content).map_err(io::Error::other)?)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(client_id: &str) -> SessionKey {
        SessionKey { host: "h".into(), port: 1, client_id: client_id.into() }
    }

    fn noted(client_id: &str, filters: &[&str]) -> Noted {
        let filters = filters.iter().map(|it| (*it).to_owned()).collect();
        Noted { session: session(client_id), shown: client_id.to_owned(), filters }
    }

    #[tokio::test]
    async fn each_session_is_noted_by_itself_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::in_folder(&folder.path().join("flow"));
        assert_eq!(record.read().await, []);
        record.write(noted("one", &["a", "b/#"]), Vec::new()).await.unwrap();
        record.write(noted("two", &["c"]), Vec::new()).await.unwrap();
        record.write(noted("one", &["a"]), Vec::new()).await.unwrap();
        assert_eq!(record.read().await, [noted("two", &["c"]), noted("one", &["a"])]);
        record.write(noted("three", &["c"]), vec![session("two")]).await.unwrap();
        assert_eq!(record.read().await, [noted("one", &["a"]), noted("three", &["c"])]);
        record.remove(session("one")).await;
        assert_eq!(record.read().await, [noted("three", &["c"])]);
        record.remove(session("three")).await;
        assert!(!record.path.exists());
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_read_says_nothing_and_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::in_folder(folder.path());
        fs::write(&record.path, "damaged").unwrap();
        assert_eq!(record.read().await, []);
        record.write(noted("one", &["a"]), Vec::new()).await.unwrap();
        assert_eq!(record.read().await, [noted("one", &["a"])]);
    }
}

//! The contract of adapters, kept by the file source (whole, by line, and following) and by the file sink (both modes).

use std::{fs, io::Write, path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use gristmill_core::{
    SystemClock,
    adapter::{Adapter, Checker, SinkUse},
    config::Mistakes,
    limits::FlowLimits,
    observe::Unobserved,
    sink::{Sink, SinkContext},
    source::{EndpointContext, PreparedSource, Source, SourceSpec},
    testkit::contract::{
        PATIENCE, SinkHarness, SourceHarness, config_node, no_mistakes, sink_suite, source_suite,
        spec_is_sound,
    },
};
use gristmill_file::FileAdapter;
use notify::{Event, RecursiveMode, Watcher};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::sync::Notify;

/// Waits until changes in a folder have made something true; not for ever.
async fn changes_until(folder: &Path, is_true: impl Fn() -> bool) -> bool {
    // Watched before it is looked at, so that no change goes unseen.
    let changed = Arc::new(Notify::new());
    let told = Arc::clone(&changed);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // Looking is no change.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            told.notify_one();
        }
    })
    .unwrap();
    watcher.watch(folder, RecursiveMode::Recursive).unwrap();
    let wait = async {
        while !is_true() {
            changed.notified().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.is_ok()
}

/// A folder into which files are moved.
struct Folder {
    folder: TempDir,
    by_line: bool,
    count: usize,
}

impl Folder {
    fn new(by_line: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        Self { folder, by_line, count: 0 }
    }

    fn spec(&self, done: &str) -> Arc<dyn SourceSpec> {
        let read = if self.by_line { json!({"lines": {}}) } else { json!({"whole": {}}) };
        let config = json!({
            "directory": "in", "settle_ms": 0, "poll_ms": 50, "read": read, "done": {"move": {"directory": done}}
        });
        let (mut mistakes, limits) = (Mistakes::new(), FlowLimits::default());
        let mut checker = Checker::new(&mut mistakes, self.folder.path(), &limits);
        let spec = FileAdapter::new().check_source(&config_node(&config), &mut checker);
        no_mistakes(&mistakes);
        spec.unwrap()
    }

    async fn prepare(&self, done: &str) -> Box<dyn PreparedSource> {
        let context = EndpointContext {
            flow: "contract".into(),
            limits: FlowLimits { release_delay_ms: 20, ..FlowLimits::default() },
            state_dir: self.folder.path().join("state"),
            clock: Arc::new(SystemClock),
            observer: Arc::new(Unobserved),
        };
        self.spec(done).prepare(context).await.unwrap()
    }

    fn holds_nothing(&self) -> bool {
        let files = |path: &Path| {
            fs::read_dir(path)
                .into_iter()
                .flatten()
                .filter(|e| e.as_ref().is_ok_and(|e| e.path().is_file()))
                .count()
        };
        let folder = self.folder.path().join("in");
        let owners = fs::read_dir(folder.join(".gristmill")).into_iter().flatten();
        files(&folder) == 0 && owners.flatten().all(|owner| files(&owner.path().join("files")) == 0)
    }
}

#[async_trait]
impl SourceHarness for Folder {
    async fn start(&mut self) -> Box<dyn Source> {
        self.prepare("done").await.start().await.unwrap()
    }

    async fn take_over(&mut self, old: Box<dyn Source>) -> Box<dyn Source> {
        self.prepare("elsewhere").await.take_over(old).await.ok().unwrap()
    }

    async fn inject(&mut self, body: Bytes) {
        self.count += 1;
        let folder = self.folder.path().join("in");
        fs::write(folder.join(".half"), body).unwrap();
        fs::rename(folder.join(".half"), folder.join(format!("{:04}.json", self.count))).unwrap();
    }

    fn redelivers(&self) -> bool {
        true
    }

    async fn is_empty(&mut self) -> bool {
        // The work folder of the source is there by now.
        changes_until(&self.folder.path().join("in"), || self.holds_nothing()).await
    }
}

/// A file to which lines are added.
struct Growing {
    folder: TempDir,
}

impl Growing {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["in", "state"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    fn spec(&self, content_type: &str) -> Arc<dyn SourceSpec> {
        let config = json!({
            "directory": "in", "poll_ms": 50, "read": {"follow": {}}, "content_type": content_type
        });
        let (mut mistakes, limits) = (Mistakes::new(), FlowLimits::default());
        let mut checker = Checker::new(&mut mistakes, self.folder.path(), &limits);
        let spec = FileAdapter::new().check_source(&config_node(&config), &mut checker);
        no_mistakes(&mistakes);
        spec.unwrap()
    }

    async fn prepare(&self, content_type: &str) -> Box<dyn PreparedSource> {
        let context = EndpointContext {
            flow: "contract".into(),
            limits: FlowLimits { release_delay_ms: 20, ..FlowLimits::default() },
            state_dir: self.folder.path().join("state"),
            clock: Arc::new(SystemClock),
            observer: Arc::new(Unobserved),
        };
        self.spec(content_type).prepare(context).await.unwrap()
    }

    /// Whether the checkpoint tells that all of the file is settled.
    fn is_settled(&self) -> bool {
        let mut entries = fs::read_dir(self.folder.path().join("state")).unwrap().flatten();
        let checkpoint = entries.find(|entry| entry.path().extension().is_some_and(|e| e == "json"));
        let content = checkpoint.and_then(|entry| fs::read(entry.path()).ok()).unwrap_or_default();
        let checkpoint: Json = serde_json::from_slice(&content).unwrap_or_default();
        let size = fs::metadata(self.folder.path().join("in/app.log")).unwrap().len();
        checkpoint["files"][0]["offset"] == json!(size)
    }
}

#[async_trait]
impl SourceHarness for Growing {
    async fn start(&mut self) -> Box<dyn Source> {
        self.prepare("text/plain").await.start().await.unwrap()
    }

    async fn take_over(&mut self, old: Box<dyn Source>) -> Box<dyn Source> {
        self.prepare("text/x-log").await.take_over(old).await.ok().unwrap()
    }

    async fn inject(&mut self, body: Bytes) {
        let path = self.folder.path().join("in/app.log");
        let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
        file.write_all(&[&body, &b"\n"[..]].concat()).unwrap();
    }

    fn redelivers(&self) -> bool {
        true
    }

    async fn is_empty(&mut self) -> bool {
        changes_until(&self.folder.path().join("state"), || self.is_settled()).await
    }
}

/// A folder into which a sink writes.
struct Output {
    folder: TempDir,
    append: bool,
}

impl Output {
    fn new(append: bool) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), append }
    }
}

#[async_trait]
impl SinkHarness for Output {
    async fn open(&mut self) -> (Arc<dyn Sink>, Vec<String>) {
        let config: Json = if self.append {
            json!({"directory": "out", "name": "all.jsonl", "mode": {"append": {}}})
        } else {
            json!({"directory": "out"})
        };
        let (mut mistakes, limits) = (Mistakes::new(), FlowLimits::default());
        let mut checker = Checker::new(&mut mistakes, self.folder.path(), &limits);
        let checked = FileAdapter::new().check_sink(&config_node(&config), SinkUse::Send, &mut checker);
        no_mistakes(&mistakes);
        let context = SinkContext { flow: "contract".into(), body_bytes: 1 << 20 };
        (checked.unwrap().spec.open(context).await.unwrap(), Vec::new())
    }

    async fn arrived(&mut self) -> Vec<Bytes> {
        let folder = self.folder.path().join("out");
        if self.append {
            let content = fs::read_to_string(folder.join("all.jsonl")).unwrap_or_default();
            return content.lines().map(|line| Bytes::from(line.to_owned())).collect();
        }
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        files.map(|file| fs::read(file.path()).unwrap().into()).collect()
    }

    fn keeps_order(&self) -> bool {
        self.append
    }

    async fn break_it(&mut self) {
        // A file in the place of the folder.
        let folder = self.folder.path().join("out");
        fs::rename(&folder, self.folder.path().join("away")).unwrap();
        fs::write(folder, "in the way").unwrap();
    }
}

#[tokio::test]
async fn the_source_of_whole_files_keeps_the_contract() {
    source_suite(|| Folder::new(false)).await;
}

#[tokio::test]
async fn the_source_of_lines_keeps_the_contract() {
    source_suite(|| Folder::new(true)).await;
}

#[tokio::test]
async fn the_source_that_follows_keeps_the_contract() {
    source_suite(Growing::new).await;
}

#[test]
fn the_spec_of_the_source_is_sound() {
    spec_is_sound(&*Growing::new().spec("text/plain"));
    spec_is_sound(&*Folder::new(false).spec("done"));
}

#[tokio::test]
async fn the_sink_of_files_keeps_the_contract() {
    sink_suite(|| Output::new(false)).await;
}

#[tokio::test]
async fn the_sink_of_lines_keeps_the_contract() {
    sink_suite(|| Output::new(true)).await;
}

//! The sink as the engine sees it: checked, opened, sent to by many at once; and what is on disk then.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
};

use futures_util::{
    FutureExt,
    future::{join_all, maybe_done},
};
use gristmill_core::{
    ErrorClass, Failure, Message, Timestamp,
    adapter::{Adapter, CheckedSink, Checker, SinkUse},
    config::Mistakes,
    limits::FlowLimits,
    sink::{Outgoing, Sink, SinkContext},
    testkit::ManualClock,
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::{
    FileAdapter,
    testing::{self, SECRET, fail_syncs, syncs},
};

struct Bench {
    folder: TempDir,
    clock: Arc<ManualClock>,
    adapter: FileAdapter,
}

impl Bench {
    fn new() -> Self {
        Self::over(tempfile::tempdir().unwrap())
    }

    fn over(folder: TempDir) -> Self {
        let clock = Arc::new(ManualClock::default());
        Self { folder, adapter: FileAdapter::with_clock(clock.clone()), clock }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("out").join(name)
    }

    fn check(&self, mut config: Json, usage: SinkUse) -> Result<CheckedSink, Vec<String>> {
        config.as_object_mut().unwrap().entry("directory").or_insert(json!("out"));
        let (mut mistakes, limits) = (Mistakes::new(), FlowLimits::default());
        let mut checker = Checker::new(&mut mistakes, self.folder.path(), &limits);
        let node = testing::config(&config);
        let checked = self.adapter.check_sink(&node, usage, &mut checker);
        let texts: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        // There may be a spec along with mistakes, for more of them to be found.
        checked.filter(|_| texts.is_empty()).ok_or(texts)
    }

    async fn try_open(&self, config: Json) -> Result<Arc<dyn Sink>, Failure> {
        let context = SinkContext { flow: "test".into(), body_bytes: 1 << 20 };
        self.check(config, SinkUse::Send).unwrap().spec.open(context).await
    }

    async fn open(&self, config: Json) -> Arc<dyn Sink> {
        self.try_open(config).await.unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        names(&self.path(""))
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names: BTreeSet<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.into_iter().collect()
}

fn message(id: &str, body: &str) -> Message {
    Message::new(id, Timestamp::from_millis(0), body.to_owned())
}

/// Sends a body; `name` is what the template of the name was rendered to.
async fn send(sink: &Arc<dyn Sink>, name: &str, body: &str) -> Result<(), Failure> {
    let (message, texts) = (message("id", body), [name.to_owned()]);
    sink.send(Outgoing::new(&message, &texts)).await
}

fn append(extra: Json) -> Json {
    json!({"name": "a.log", "mode": {"append": extra}})
}

fn rendered(extra: Json) -> Json {
    let mut config = json!({"name": "${headers.x}"});
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    config
}

// === One file a message ===

#[tokio::test]
async fn a_file_has_its_name_and_nothing_else_is_left() {
    let bench = Bench::new();
    let sink = bench.open(rendered(json!({}))).await;
    send(&sink, "a.json", "{}").await.unwrap();
    send(&sink, "empty", "").await.unwrap();
    assert_eq!(bench.names(), ["a.json", "empty"]);
    assert_eq!(bench.read("a.json"), "{}");
}

#[tokio::test]
async fn what_happens_when_the_name_is_taken_is_chosen() {
    let bench = Bench::new();
    let with = |how: &str| rendered(json!({"mode": {"one_file": {"if_exists": how}}}));

    let fail = bench.open(with("fail")).await;
    send(&fail, "a.txt", "one").await.unwrap();
    let failure = send(&fail, "a.txt", "two").await.unwrap_err();
    assert_eq!(failure.class(), ErrorClass::SinkRejected);
    assert!(!failure.is_retryable() && failure.text().contains("if_exists"), "{failure}");
    // An attempt whose confirmation was lost is made again.
    send(&fail, "a.txt", "one").await.unwrap();

    send(&bench.open(with("skip")).await, "a.txt", "two").await.unwrap();
    assert_eq!((bench.read("a.txt").as_str(), bench.names().len()), ("one", 1));
    let number = bench.open(with("number")).await;
    send(&number, "a.txt", "two").await.unwrap();
    send(&number, "a.txt", "three").await.unwrap();
    assert_eq!((bench.read("a-1.txt"), bench.read("a-2.txt")), ("two".into(), "three".into()));
    send(&bench.open(with("replace")).await, "a.txt", "new").await.unwrap();
    assert_eq!(bench.read("a.txt"), "new");
    assert_eq!(bench.names(), ["a-1.txt", "a-2.txt", "a.txt"]);
}

#[tokio::test]
async fn of_many_with_one_name_one_wins_and_numbers_lose_none() {
    let bench = Bench::new();
    let number = bench.open(rendered(json!({"mode": {"one_file": {"if_exists": "number"}}}))).await;
    let bodies: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    for result in join_all(bodies.iter().map(|body| send(&number, "n", body))).await {
        result.unwrap();
    }
    let written: BTreeSet<String> = bench.names().iter().map(|name| bench.read(name)).collect();
    assert_eq!(written.len(), 50);

    let fail = bench.open(rendered(json!({}))).await;
    let results = join_all(bodies.iter().map(|body| send(&fail, "f", body))).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
}

#[tokio::test]
async fn no_message_writes_outside_the_folder() {
    let bench = Bench::new();
    let outside = bench.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(bench.path("")).unwrap();
    symlink(&outside, bench.path("link")).unwrap();
    symlink(outside.join("target"), bench.path("file-link")).unwrap();
    let sink = bench.open(rendered(json!({"subdirectories": true}))).await;
    for name in ["../outside/a", "/etc/a", "link/a", "x/../../outside/a", "..", "a\0b", "", "file-link"] {
        let failure = send(&sink, name, "x").await.unwrap_err();
        assert_eq!(failure.class(), ErrorClass::SinkRejected, "{name:?}: {failure}");
    }
    let replace = rendered(json!({"mode": {"one_file": {"if_exists": "replace"}}}));
    send(&bench.open(replace).await, "file-link", "replaces the link itself").await.unwrap();
    let lines = rendered(json!({"mode": {"append": {}}, "subdirectories": true}));
    let lines = bench.open(lines).await;
    assert!(send(&lines, "link/a", "x").await.is_err());
    symlink(outside.join("target"), bench.path("line-link")).unwrap();
    assert!(send(&lines, "line-link", "x").await.is_err());
    assert_eq!(names(&outside), [""; 0]);
    assert!(fs::symlink_metadata(bench.path("file-link")).unwrap().is_file());

    let flat = bench.open(rendered(json!({}))).await;
    assert!(send(&flat, "a/b", "x").await.unwrap_err().text().contains("subdirectories: true"));
}

#[tokio::test]
async fn subfolders_are_made_where_allowed() {
    let bench = Bench::new();
    let sink = bench.open(rendered(json!({"subdirectories": true}))).await;
    send(&sink, "2026/01/a", "x").await.unwrap();
    assert_eq!(bench.read("2026/01/a"), "x");
    assert_eq!(bench.names(), ["2026"]);
}

#[tokio::test]
async fn without_a_name_the_id_is_the_name_and_dead_letters_get_numbers() {
    let bench = Bench::new();
    let context = SinkContext { flow: "test".into(), body_bytes: 1 << 20 };
    let dead = bench.check(json!({}), SinkUse::DeadLetter).unwrap().spec.open(context).await.unwrap();
    for body in ["{\"n\":1}", "{\"n\":2}"] {
        let message = message("orders.csv:17/0", body);
        dead.send(Outgoing::new(&message, &[])).await.unwrap();
    }
    let names = bench.names();
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|n| n.starts_with("orders.csv_17_0-") && n.ends_with(".json")), "{names:?}");
}

#[tokio::test]
async fn a_name_that_is_too_long_is_the_messages_fault() {
    let bench = Bench::new();
    let sink = bench.open(rendered(json!({}))).await;
    let failure = send(&sink, &"x".repeat(256), "x").await.unwrap_err();
    assert!(failure.class() == ErrorClass::SinkRejected && failure.text().contains("255"), "{failure}");
}

#[tokio::test]
async fn a_folder_in_the_way_is_said_and_a_missing_one_is_made_or_not() {
    let bench = Bench::new();
    let failure = bench.try_open(rendered(json!({"create_directory": false}))).await.err().unwrap();
    assert_eq!(failure.class(), ErrorClass::SinkUnavailable);
    assert!(failure.text().contains("cannot be opened"), "{failure}");
    let sink = bench.open(rendered(json!({}))).await;
    fs::create_dir(bench.path("a")).unwrap();
    assert_eq!(send(&sink, "a", "x").await.unwrap_err().class(), ErrorClass::SinkRejected);
    let replace = bench.open(rendered(json!({"mode": {"one_file": {"if_exists": "replace"}}}))).await;
    assert_eq!(send(&replace, "a", "x").await.unwrap_err().class(), ErrorClass::SinkRejected);
    assert_eq!(bench.names(), ["a"], "no temporary file is left");
    // The folder goes away while the sink is open.
    fs::remove_dir_all(bench.path("")).unwrap();
    send(&sink, "b", "x").await.unwrap();
    assert_eq!(bench.names(), ["b"]);
}

#[tokio::test]
async fn a_folder_that_cannot_be_had_is_said_with_what_to_do() {
    let bench = Bench::new();
    fs::write(bench.folder.path().join("file"), "in the way").unwrap();
    let append = append(json!({}));
    for base in [json!({}), append] {
        let open = async |directory: &str, create: bool| {
            let mut config = base.clone();
            config["directory"] = json!(directory);
            config["create_directory"] = json!(create);
            let failure = bench.try_open(config).await.err().unwrap();
            assert_eq!(failure.class(), ErrorClass::SinkUnavailable, "{failure}");
            failure.text().to_owned()
        };
        let kernel = open("/proc/nope", true).await;
        assert!(
            kernel.contains("`/proc/nope` cannot be made") && kernel.contains("another `directory`"),
            "{kernel}"
        );
        let missing = open("nope", false).await;
        assert!(
            missing.contains("cannot be opened") && missing.contains("create_directory: true"),
            "{missing}"
        );
        for (directory, create) in [("file/out", true), ("file", true), ("file", false)] {
            let file = open(directory, create).await;
            assert!(file.contains("is not a folder"), "{file}");
        }
    }
    // While the sink is open.
    let sink = bench.open(rendered(json!({"create_directory": false, "directory": "."}))).await;
    send(&sink, "a", "x").await.unwrap();
    let sink = bench.open(rendered(json!({}))).await;
    fs::rename(bench.path(""), bench.folder.path().join("away")).unwrap();
    fs::write(bench.folder.path().join("out"), "in the way").unwrap();
    let failure = send(&sink, "a", "x").await.unwrap_err();
    assert!(failure.is_retryable() && failure.text().contains("is not a folder"), "{failure}");
}

#[tokio::test]
async fn no_error_shows_a_substituted_folder_or_name() {
    let bench = Bench::new();
    let hides = |text: &str| {
        assert!(!text.contains(SECRET) && text.contains("${env:SECRET}"), "{text}");
    };
    let missing = json!({"directory": "hunter2", "create_directory": false});
    hides(bench.try_open(missing).await.err().unwrap().text());
    let mistakes = bench.check(json!({"name": "../hunter2"}), SinkUse::Send).unwrap_err();
    assert!(!mistakes.concat().contains(SECRET), "{mistakes:?}");
    fs::create_dir_all(bench.path("hunter2")).unwrap();
    for mode in [json!({"one_file": {}}), json!({"append": {}})] {
        // A folder has that name.
        let rendered = bench.open(json!({"name": "hunter2${headers.x}", "mode": mode})).await;
        hides(send(&rendered, "hunter2", "x").await.unwrap_err().text());
        hides(send(&rendered, "../hunter2", "x").await.unwrap_err().text());
        match bench.try_open(json!({"name": "hunter2", "mode": mode})).await {
            Ok(fixed) => hides(send(&fixed, "", "x").await.unwrap_err().text()),
            Err(failure) => hides(failure.text()),
        }
    }
}

#[tokio::test]
async fn half_written_files_of_the_dead_are_removed_and_those_of_the_living_are_not() {
    let bench = Bench::new();
    fs::create_dir(bench.path("")).unwrap();
    fs::write(bench.path(".gristmill-tmp-1-1"), "dead").unwrap();
    fs::write(bench.path(".gristmill-tmp-1-2"), "alive").unwrap();
    let alive = fs::File::open(bench.path(".gristmill-tmp-1-2")).unwrap();
    rustix::fs::flock(&alive, rustix::fs::FlockOperation::LockExclusive).unwrap();
    bench.open(rendered(json!({}))).await;
    assert_eq!(bench.names(), [".gristmill-tmp-1-2"]);
}

// === Append ===

#[tokio::test]
async fn lines_are_in_the_order_of_the_first_poll() {
    let bench = Bench::new();
    let sink = bench.open(append(json!({}))).await;
    let bodies: Vec<String> = (0..1_000).map(|n| format!("line {n}")).collect();
    let messages: Vec<Message> = bodies.iter().map(|body| message("id", body)).collect();
    let mut sends: Vec<_> = messages.iter().map(|m| maybe_done(sink.send(Outgoing::new(m, &[])))).collect();
    // Polled in order, and awaited in the other. One that is written at once is done with its first poll.
    let mut context = Context::from_waker(Waker::noop());
    for send in &mut sends {
        let _ = send.poll_unpin(&mut context);
    }
    // One that is given up in between has its place all the same.
    drop(sends.remove(500));
    join_all(sends.iter_mut().rev()).await;
    for mut send in sends {
        Pin::new(&mut send).take_output().unwrap().unwrap();
    }
    assert_eq!(bench.read("a.log").lines().collect::<Vec<_>>(), bodies);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn flows_and_versions_share_a_file() {
    let bench = Bench::new();
    let mut tasks = Vec::new();
    for flow in 0..4 {
        let sink = bench.open(append(json!({}))).await;
        tasks.push(tokio::spawn(async move {
            let bodies: Vec<String> = (0..500).map(|n| format!("{flow}:{n}:{}", "x".repeat(100))).collect();
            let sends = join_all(bodies.iter().map(|body| send(&sink, "", body))).await;
            assert!(sends.iter().all(Result::is_ok));
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let content = bench.read("a.log");
    assert_eq!(content.lines().collect::<BTreeSet<_>>().len(), 2_000);
    assert!(content.lines().all(|line| line.ends_with(&"x".repeat(100))));
}

#[tokio::test]
async fn another_process_is_kept_out() {
    let bench = Bench::new();
    let first = bench.open(append(json!({}))).await;
    send(&first, "", "one").await.unwrap();
    // Another adapter is another process, as far as the lock is concerned.
    let other = FileAdapter::new();
    let (mut mistakes, limits) = (Mistakes::new(), FlowLimits::default());
    let mut checker = Checker::new(&mut mistakes, bench.folder.path(), &limits);
    let mut config = append(json!({}));
    config["directory"] = json!("out");
    let node = testing::config(&config);
    let spec = other.check_sink(&node, SinkUse::Send, &mut checker).unwrap().spec;
    let second = spec.open(SinkContext { flow: "b".into(), body_bytes: 1 }).await.unwrap();
    let failure = send(&second, "", "two").await.unwrap_err();
    assert!(failure.is_retryable() && failure.text().contains("another process"), "{failure}");
    drop(first);
    send(&second, "", "two").await.unwrap();
    assert_eq!(bench.read("a.log"), "one\ntwo\n");
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_kept() {
    for (before, whole, torn) in [
        ("one\ntwo\nthr".to_owned(), "one\ntwo\n", "thr\n".to_owned()),
        ("no line at all".into(), "", "no line at all\n".into()),
        (format!("one\n{}", "x".repeat(200_000)), "one\n", "x".repeat(200_000) + "\n"),
    ] {
        let bench = Bench::new();
        fs::create_dir(bench.path("")).unwrap();
        fs::write(bench.path("a.log"), before).unwrap();
        let sink = bench.open(append(json!({}))).await;
        assert_eq!(bench.read("a.log"), whole, "cut when the sink is opened");
        assert_eq!(bench.read("a.log.torn"), torn);
        send(&sink, "", "next").await.unwrap();
        assert_eq!(bench.read("a.log"), format!("{whole}next\n"));
    }
}

#[tokio::test]
async fn a_file_that_is_whole_is_added_to() {
    let bench = Bench::new();
    fs::create_dir(bench.path("")).unwrap();
    fs::write(bench.path("a.log"), "one\n").unwrap();
    let sink = bench.open(append(json!({}))).await;
    send(&sink, "", "two\n").await.unwrap();
    assert_eq!((bench.read("a.log").as_str(), bench.names().len()), ("one\ntwo\n", 1));
}

#[tokio::test]
async fn line_breaks_in_a_body_are_rejected_or_written_as_asked() {
    let bench = Bench::new();
    let sink = bench.open(append(json!({}))).await;
    assert_eq!(send(&sink, "", "a\nb").await.unwrap_err().class(), ErrorClass::SinkRejected);
    let space = bench.open(append(json!({"newline": "space"}))).await;
    send(&space, "", "{\n  \"a\": 1\n}\n").await.unwrap();
    let escape = bench.open(append(json!({"newline": "escape"}))).await;
    send(&escape, "", "a\nb").await.unwrap();
    assert_eq!(bench.read("a.log"), "{   \"a\": 1 }\na\\nb\n");
}

#[tokio::test]
async fn files_are_set_aside_by_size_and_the_oldest_deleted() {
    let bench = Bench::new();
    let sink = bench.open(append(json!({"rotate": {"max_bytes": 1024, "keep": 2}}))).await;
    let bodies: Vec<String> = (0..50).map(|n| format!("{n:0>99}")).collect();
    for result in join_all(bodies.iter().map(|body| send(&sink, "", body))).await {
        result.unwrap();
    }
    // Ten lines a file: five files in all, of which the last is not set aside and two are kept.
    let names = bench.names();
    assert_eq!(
        names,
        ["a-20260131T120000.002Z.log", "a-20260131T120000.003Z.log", "a.log"],
        "all in one moment by the clock, and still in order"
    );
    let last: String = names.iter().map(|name| bench.read(name)).collect();
    assert_eq!(last.lines().collect::<Vec<_>>(), bodies[20..]);
}

#[tokio::test]
async fn files_are_set_aside_by_age() {
    let bench = Bench::new();
    let sink = bench.open(append(json!({"rotate": {"max_age_ms": 60_000}}))).await;
    let begun = Timestamp::from_millis(1_800_000_000_000);
    bench.clock.set(begun);
    send(&sink, "", "one").await.unwrap();
    bench.clock.set(Timestamp::from_millis(begun.as_millis() + 59_999));
    send(&sink, "", "two").await.unwrap();
    bench.clock.set(Timestamp::from_millis(begun.as_millis() + 60_000));
    send(&sink, "", "three").await.unwrap();
    assert_eq!(bench.names(), ["a-20270115T080100.000Z.log", "a.log"]);
    assert_eq!(bench.read("a.log"), "three\n");
}

#[tokio::test]
async fn a_file_that_others_moved_or_deleted_is_begun_anew() {
    let bench = Bench::new();
    let sink = bench.open(append(json!({}))).await;
    send(&sink, "", "one").await.unwrap();
    fs::rename(bench.path("a.log"), bench.path("moved")).unwrap();
    send(&sink, "", "two").await.unwrap();
    fs::remove_file(bench.path("a.log")).unwrap();
    send(&sink, "", "three").await.unwrap();
    assert_eq!((bench.read("moved").as_str(), bench.read("a.log").as_str()), ("one\n", "three\n"));
}

#[tokio::test]
async fn names_may_come_from_messages_and_only_some_files_stay_open() {
    let bench = Bench::new();
    let sink = bench.open(rendered(json!({"mode": {"append": {}}, "subdirectories": true}))).await;
    for round in 0..2 {
        for n in 0..100 {
            send(&sink, &format!("d/{n}"), &format!("{round}")).await.unwrap();
        }
    }
    assert_eq!(names(&bench.path("d")).len(), 100);
    assert!((0..100).all(|n| bench.read(&format!("d/{n}")) == "0\n1\n"));
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    assert!(open < 150, "{open}");
}

// === Permissions ===

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn dead_letters_are_for_the_processs_user_alone_unless_said_otherwise() {
    for (usage, file_mode, expected) in [
        (SinkUse::DeadLetter, None, Some((0o600, 0o700))),
        (SinkUse::DeadLetter, Some("0640"), Some((0o640, 0o750))),
        // More than the umask of most processes leaves.
        (SinkUse::Send, Some("662"), Some((0o662, 0o772))),
        (SinkUse::Send, None, None),
    ] {
        for mode in [json!({"one_file": {}}), json!({"append": {}})] {
            let bench = Bench::new();
            let mut config = json!({"name": "sub/a", "subdirectories": true, "mode": mode});
            if let Some(file_mode) = file_mode {
                config["file_mode"] = json!(file_mode);
            }
            let context = SinkContext { flow: "test".into(), body_bytes: 1 << 20 };
            let sink = bench.check(config.clone(), usage).unwrap().spec.open(context).await.unwrap();
            send(&sink, "", "x").await.unwrap();
            let expected = expected.unwrap_or_else(|| {
                let (file, folder) = (bench.folder.path().join("file"), bench.folder.path().join("folder"));
                fs::write(&file, "").unwrap();
                fs::create_dir(&folder).unwrap();
                (mode_of(&file), mode_of(&folder))
            });
            let made = (mode_of(&bench.path("sub/a")), mode_of(&bench.path("sub")));
            assert_eq!((made, mode_of(&bench.path(""))), (expected, expected.1), "{config}");
        }
    }
}

#[tokio::test]
async fn what_is_cut_off_a_dead_letter_is_as_private() {
    let bench = Bench::new();
    fs::create_dir(bench.path("")).unwrap();
    fs::write(bench.path("a.log"), "torn").unwrap();
    let context = SinkContext { flow: "test".into(), body_bytes: 1 << 20 };
    bench.check(append(json!({})), SinkUse::DeadLetter).unwrap().spec.open(context).await.unwrap();
    assert_eq!(mode_of(&bench.path("a.log.torn")), 0o600);
}

// === Names on disk ===

#[tokio::test]
async fn nothing_is_confirmed_before_its_name_is_synced_also_not_by_a_second_attempt() {
    let skip = rendered(json!({"mode": {"one_file": {"if_exists": "skip"}}}));
    for config in [append(json!({})), rendered(json!({})), skip] {
        let bench = Bench::new();
        let sink = bench.open(config.clone()).await;
        assert!(syncs(bench.folder.path()) > 0, "the name of the folder itself");
        fail_syncs(&bench.path(""), true);
        for _ in 0..2 {
            let failure = send(&sink, "a.log", "x").await.unwrap_err();
            assert!(failure.is_retryable(), "{config}: {failure}");
            assert_eq!(bench.names(), ["a.log"]);
        }
        fail_syncs(&bench.path(""), false);
        send(&sink, "a.log", "x").await.unwrap();
        assert_eq!(bench.read("a.log").trim_end(), "x");
    }
}

#[tokio::test]
async fn the_way_into_subfolders_is_synced_whoever_made_them() {
    for mode in [json!({"one_file": {}}), json!({"append": {}})] {
        let bench = Bench::new();
        let sink = bench.open(rendered(json!({"subdirectories": true, "mode": mode}))).await;
        fs::create_dir_all(bench.path("a/b")).unwrap();
        fail_syncs(&bench.path(""), true);
        for _ in 0..2 {
            assert!(send(&sink, "a/b/c", "x").await.unwrap_err().is_retryable());
        }
        fail_syncs(&bench.path(""), false);
        let before = [syncs(&bench.path("a")), syncs(&bench.path("a/b"))];
        send(&sink, "a/b/c", "x").await.unwrap();
        let after = [syncs(&bench.path("a")), syncs(&bench.path("a/b"))];
        assert!(before[0] < after[0] && before[1] < after[1], "{before:?}, {after:?}");
    }
}

#[tokio::test]
async fn a_link_to_a_folder_is_the_same_folder() {
    let bench = Bench::new();
    fs::create_dir(bench.path("")).unwrap();
    symlink(bench.path(""), bench.folder.path().join("link")).unwrap();
    let mut through_link = append(json!({}));
    through_link["directory"] = json!("link");
    let (first, second) = (bench.open(append(json!({}))).await, bench.open(through_link).await);
    // Two appenders would keep each other out.
    send(&first, "", "one").await.unwrap();
    send(&second, "", "two").await.unwrap();
    assert_eq!(bench.read("a.log"), "one\ntwo\n");
}

// === What is in the way ===

/// Runs this test once more, in a process that cannot write much: on a file system of 256 KiB where this process may mount
/// one, else under a limit on the size of files. Either way the system itself says no, in the middle of a write.
fn with_little_room(test: &str) -> bool {
    if std::env::var_os("GRISTMILL_LITTLE_ROOM").is_some() {
        return true;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
        if unshare -rm sh -c 'mount -t tmpfs -o size=256k little "$GRISTMILL_LITTLE_ROOM"' 2>/dev/null; then
            exec unshare -rm sh -c 'mount -t tmpfs -o size=256k little "$GRISTMILL_LITTLE_ROOM" && exec "$0" "$@"' "$0" "$@"
        fi
        trap '' XFSZ
        ulimit -f 256
        exec "$0" "$@"
    "#;
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("GRISTMILL_LITTLE_ROOM", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

fn little_room() -> Bench {
    let folder = std::env::var_os("GRISTMILL_LITTLE_ROOM").unwrap();
    Bench::over(tempfile::tempdir_in(folder).unwrap())
}

#[test]
fn a_full_disk_confirms_nothing_and_leaves_nothing_half_written() {
    if !with_little_room("sink::tests::a_full_disk_confirms_nothing_and_leaves_nothing_half_written") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = little_room();
        let sink = bench.open(append(json!({}))).await;
        let mut confirmed = Vec::new();
        let failure = loop {
            let body = format!("{:05}{}", confirmed.len(), "x".repeat(1_500));
            match send(&sink, "", &body).await {
                Ok(()) => confirmed.push(body),
                Err(failure) => break failure,
            }
        };
        assert_eq!(failure.class(), ErrorClass::SinkUnavailable);
        assert!(failure.is_retryable(), "{failure}");
        // Many at once: no more of them are confirmed than are there.
        let bodies: Vec<String> = (0..100).map(|n| format!("g{n}{}", "y".repeat(1_500))).collect();
        let results = join_all(bodies.iter().map(|body| send(&sink, "", body))).await;
        confirmed.extend(results.iter().zip(&bodies).filter(|(r, _)| r.is_ok()).map(|(_, b)| b.clone()));
        assert_eq!(bench.read("a.log").lines().collect::<Vec<_>>(), confirmed);
        assert!(bench.read("a.log").ends_with('\n') && confirmed.len() > 10);

        let one_file = bench.open(rendered(json!({}))).await;
        let failure = send(&one_file, "large", &"z".repeat(1_000_000)).await.unwrap_err();
        assert!(failure.is_retryable(), "{failure}");
        assert_eq!(bench.names(), ["a.log"]);

        // Room again: it goes on where it was.
        fs::rename(bench.path("a.log"), bench.path("b.log")).unwrap();
        fs::File::create(bench.path("b.log")).unwrap();
        send(&sink, "", "goes on").await.unwrap();
        assert_eq!(bench.read("a.log"), "goes on\n");
    });
}

#[test]
fn a_missing_permission_is_said_with_what_to_do() {
    let bench = Bench::new();
    crate::testing::unprivileged(bench.folder.path(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let one_file = bench.open(rendered(json!({}))).await;
            let lines = bench.open(append(json!({}))).await;
            fs::set_permissions(bench.path(""), fs::Permissions::from_mode(0o500)).unwrap();
            for sink in [&one_file, &lines] {
                let failure = send(sink, "a", "x").await.unwrap_err();
                assert_eq!(failure.class(), ErrorClass::SinkUnavailable);
                assert!(failure.is_retryable() && failure.text().contains("permissions"), "{failure}");
            }
            fs::set_permissions(bench.path(""), fs::Permissions::from_mode(0o700)).unwrap();
            send(&lines, "", "x").await.unwrap();
        });
    });
}

// === Configuration ===

#[test]
fn mistakes_are_found_without_touching_the_disk() {
    let bench = Bench::new();
    for (config, expected) in [
        (json!({"mode": {"append": {}}}), "`append` needs a file"),
        (json!({"name": "../a"}), "could lead out of the folder"),
        (json!({"name": "a/b"}), "subdirectories: true"),
        (json!({"name": "${headers.x}/b"}), "subdirectories: true"),
        (json!({"name": "../${headers.x}"}), "could lead out of the folder"),
        (json!({"name": "${headers.x}/../b", "subdirectories": true}), "could lead out of the folder"),
        (json!({"name": "/${headers.x}", "subdirectories": true}), "begins or ends with `/`"),
        (json!({"name": "a", "mode": {"append": {"rotate": {}}}}), "`max_bytes:` or `max_age_ms:`"),
        (json!({"name": "a", "mode": {"one_file": {"if_exist": "fail"}}}), "did you mean `if_exists`"),
        (
            json!({"name": "a", "mode": {"one_file": {"if_exists": "overwrite"}}}),
            "`overwrite` is not known here",
        ),
        (json!({"directry": "x"}), "unknown key `directry`"),
        (json!({"file_mode": "0755"}), "0755"),
        (json!({"file_mode": "0240"}), "0240"),
        (json!({"file_mode": 640}), "a whole number, not text"),
    ] {
        let mistakes = bench.check(config.clone(), SinkUse::Send).unwrap_err();
        assert!(mistakes.iter().any(|m| m.contains(expected)), "{config}: {mistakes:#?}");
    }
    let checked = bench.check(json!({"name": "${message.id}.json"}), SinkUse::Send).unwrap();
    assert_eq!(checked.templates[0].text, "${message.id}.json");
    assert!(!checked.answers && !bench.path("").exists());
    let inside = json!({"name": "${a['/']}", "mode": {"append": {}}});
    assert!(bench.check(inside, SinkUse::Send).is_ok(), "a `/` in an expression is not one in the name");
}

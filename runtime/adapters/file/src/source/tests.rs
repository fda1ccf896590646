//! The source as the engine sees it: prepared, started, asked, settled, closed, killed, taken over. Time is tokio's, paused;
//! nothing sleeps.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use gristmill_core::{
    ErrorClass, Failure,
    adapter::Checker,
    config::Mistakes,
    limits::FlowLimits,
    observe::Unobserved,
    source::{EndpointContext, SourceSpec},
    testkit::ManualClock,
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::*;
use crate::testing::{self, SECRET};

/// A folder with an endpoint over it.
struct Bench {
    folder: TempDir,
    limits: FlowLimits,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), limits: FlowLimits::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("in").join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path("")).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    fn check(&self, mut config: Json) -> Result<FileSourceSpec, Vec<String>> {
        config.as_object_mut().unwrap().entry("directory").or_insert(json!("in"));
        let mut mistakes = Mistakes::new();
        let mut checker = Checker::new(&mut mistakes, self.folder.path(), &self.limits);
        let spec = FileSourceSpec::check(&testing::config(&config), &mut checker);
        let texts: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        // There may be a spec along with mistakes, for more of them to be found.
        spec.filter(|_| texts.is_empty()).ok_or(texts)
    }

    fn context(&self) -> EndpointContext {
        EndpointContext {
            flow: "test".into(),
            limits: self.limits.clone(),
            state_dir: self.folder.path().join("state"),
            clock: Arc::new(ManualClock::default()),
            observer: Arc::new(Unobserved),
        }
    }

    async fn prepare(&self, config: Json) -> Result<Box<dyn PreparedSource>, SourceError> {
        fs::create_dir_all(self.path("")).unwrap();
        self.check(config).unwrap().prepare(self.context()).await
    }

    async fn start(&self, config: Json) -> FileSource {
        let source = self.prepare(config).await.unwrap().start().await.unwrap();
        *(source as Box<dyn Any>).downcast().unwrap()
    }

    /// Everything below the folder that is a file, work folder aside, with its content.
    fn files(&self) -> BTreeMap<String, String> {
        fn walk(folder: &Path, prefix: &str, files: &mut BTreeMap<String, String>) {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                if name == ".gristmill" {
                } else if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), &format!("{name}/"), files);
                } else if entry.file_type().unwrap().is_file() {
                    files.insert(name, String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).into());
                }
            }
        }
        let mut files = BTreeMap::new();
        walk(&self.path(""), "", &mut files);
        files
    }

    fn names(&self) -> Vec<String> {
        self.files().into_keys().collect()
    }

    /// Awaits what the flush does in its own time.
    async fn until(&self, what: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if what(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it does not come to that; there is {:#?}", self.files());
    }
}

fn lines(config: Json) -> Json {
    let mut config = config;
    let entries = config.as_object_mut().unwrap();
    entries.entry("read").or_insert(json!({"lines": {}}));
    entries.entry("settle_ms").or_insert(json!(0));
    config
}

fn at_once() -> Json {
    json!({"settle_ms": 0})
}

fn body(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.message.body()).into()
}

/// The id of a message without the stamp of its file.
fn id(delivery: &Delivery) -> String {
    without_stamp(delivery.message.id().as_str())
}

fn without_stamp(id: &str) -> String {
    let (path, rest) = id.rsplit_once('@').unwrap();
    let (stamp, offset) = rest.split_once(':').unwrap();
    assert!(stamp.len() == 16 && stamp.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    format!("{path}:{offset}")
}

async fn take(source: &mut FileSource, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for _ in 0..count {
        deliveries.push(source.next().await.unwrap().unwrap());
    }
    deliveries
}

fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(body).collect()
}

/// Whether the source has nothing to offer for the next while.
async fn is_idle(source: &mut FileSource) -> bool {
    tokio::time::timeout(Duration::from_secs(5), source.next()).await.is_err()
}

fn reject(delivery: Delivery, text: &str) {
    let failure = Failure::new(ErrorClass::BodyFormat, text);
    delivery.acknowledgement.rejected(Some(Arc::new(failure)));
}

#[tokio::test(start_paused = true)]
async fn whole_files_come_in_order_and_are_moved_to_done() {
    let bench = Bench::new();
    for name in ["b.json", "a.json", "c.txt"] {
        bench.write(name, name);
    }
    let mut source = bench.start(json!({"settle_ms": 0, "pattern": "*.json"})).await;
    let deliveries = take(&mut source, 2).await;
    assert_eq!(bodies(&deliveries), ["a.json", "b.json"]);
    let message = &deliveries[0].message;
    assert_eq!(id(&deliveries[0]), "in:a.json:0");
    let header = |name| message.headers().get(name).unwrap();
    assert_eq!(header("content-type"), "application/json");
    assert_eq!((header("file-name"), header("file-path")), ("a.json", "in/a.json"));
    assert_eq!((header("file-offset"), header("file-size")), ("0", "6"));
    assert!(header("file-modified").ends_with('Z'));
    assert_eq!(bench.names(), ["c.txt"]);
    for delivery in deliveries {
        delivery.acknowledgement.delivered();
    }
    bench.until(|b| b.names() == ["c.txt", "done/a.json", "done/b.json"]).await;
    assert!(is_idle(&mut source).await);
}

#[tokio::test(start_paused = true)]
async fn lines_come_in_order_with_place_and_number() {
    let bench = Bench::new();
    bench.write("a.jsonl", "{\"n\":1}\r\n\n{\"n\":2}");
    let mut source = bench.start(lines(json!({}))).await;
    let deliveries = take(&mut source, 2).await;
    assert_eq!(bodies(&deliveries), ["{\"n\":1}", "{\"n\":2}"]);
    let message = &deliveries[1].message;
    assert_eq!(id(&deliveries[1]), "in:a.jsonl:10");
    let header = |name| message.headers().get(name).unwrap();
    assert_eq!((header("file-offset"), header("file-line")), ("10", "3"));
    assert_eq!(header("content-type"), "application/json");
    // In the wrong order: nothing is done before both are.
    let mut deliveries = deliveries.into_iter().rev();
    deliveries.next().unwrap().acknowledgement.delivered();
    assert!(is_idle(&mut source).await && bench.files().is_empty());
    deliveries.next().unwrap().acknowledgement.delivered();
    bench.until(|b| b.names() == ["done/a.jsonl"]).await;
}

#[tokio::test(start_paused = true)]
async fn empty_lines_are_messages_where_wanted_and_empty_files_are_done_at_once() {
    let bench = Bench::new();
    bench.write("a", "\nx\n");
    bench.write("b", "");
    let keep = json!({"read": {"lines": {"empty_lines": "keep"}}});
    let mut source = bench.start(lines(keep)).await;
    let deliveries = take(&mut source, 2).await;
    assert_eq!(bodies(&deliveries), ["", "x"]);
    bench.until(|_| !is_there(&bench, "b")).await;
    deliveries.into_iter().for_each(|d| d.acknowledgement.delivered());
    assert!(is_idle(&mut source).await);
    bench.until(|b| b.names() == ["done/a", "done/b"]).await;
}

fn is_there(bench: &Bench, name: &str) -> bool {
    bench.path(name).exists()
}

#[tokio::test(start_paused = true)]
async fn by_time_of_change_the_oldest_comes_first() {
    let bench = Bench::new();
    for (name, seconds) in [("a", 30), ("b", 10), ("c", 20)] {
        bench.write(name, name);
        let file = fs::File::options().write(true).open(bench.path(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    }
    let mut source = bench.start(json!({"settle_ms": 0, "order": "modified"})).await;
    assert_eq!(bodies(&take(&mut source, 3).await), ["b", "c", "a"]);
}

#[tokio::test(start_paused = true)]
async fn a_file_is_taken_when_it_has_rested() {
    let bench = Bench::new();
    bench.write("a", "1");
    let mut source = bench.start(json!({"settle_ms": 1000, "poll_ms": 100})).await;
    let begun = Instant::now();
    for content in ["12", "123"] {
        let early = tokio::time::timeout(Duration::from_millis(600), source.next()).await;
        assert!(early.is_err(), "it still grows");
        bench.write("a", content);
    }
    let deliveries = take(&mut source, 1).await;
    assert_eq!(bodies(&deliveries), ["123"]);
    assert!(begun.elapsed() >= Duration::from_millis(2_100), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn new_files_are_found_by_polling_alone() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("")).unwrap();
    let mut spec = bench.check(json!({"settle_ms": 0, "poll_ms": 700})).unwrap();
    spec.watch = false;
    let mut source = spec.prepare(bench.context()).await.unwrap().start().await.unwrap();
    let begun = Instant::now();
    let early = tokio::time::timeout(Duration::from_millis(100), source.next()).await;
    assert!(early.is_err());
    bench.write("late", "late");
    assert_eq!(body(&source.next().await.unwrap().unwrap()), "late");
    assert!(begun.elapsed() <= Duration::from_millis(1_500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn new_files_are_found_by_watching_long_before_polling() {
    let bench = Bench::new();
    let mut source = bench.start(json!({"settle_ms": 0, "poll_ms": 3_600_000})).await;
    let next = tokio::spawn(async move {
        let delivery = source.next().await.unwrap().unwrap();
        (body(&delivery), source)
    });
    // The first listing is over when the work folder has been looked through; a file that comes before is found as well.
    bench.write(".hidden", "half");
    fs::rename(bench.path(".hidden"), bench.path("whole")).unwrap();
    assert_eq!(next.await.unwrap().0, "half");
}

#[tokio::test(start_paused = true)]
async fn what_was_rejected_is_kept_with_the_reason() {
    let bench = Bench::new();
    bench.write("bad.xml", "<a>");
    let mut source = bench.start(at_once()).await;
    reject(take(&mut source, 1).await.remove(0), "no end tag");
    bench.until(|b| b.names() == ["failed/bad.xml", "failed/bad.xml.error"]).await;
    let error: Json = serde_json::from_str(&bench.files()["failed/bad.xml.error"]).unwrap();
    assert_eq!(error["error"], "no end tag");
    assert_eq!(error["class"], "body_format");
    assert_eq!(without_stamp(error["message"].as_str().unwrap()), "in:bad.xml:0");

    // The name again: nothing is replaced.
    bench.write("bad.xml", "<b>");
    reject(take(&mut source, 1).await.remove(0), "again");
    bench.until(|b| b.names().len() == 4).await;
    assert_eq!(bench.files()["failed/bad-1.xml"], "<b>");
    assert!(bench.files()["failed/bad-1.xml.error"].contains("again"));
}

#[tokio::test(start_paused = true)]
async fn rejected_lines_are_kept_and_the_file_goes_on() {
    let bench = Bench::new();
    bench.write("a.csv", "1\r\n2\n3");
    let mut source = bench.start(lines(json!({}))).await;
    for delivery in take(&mut source, 3).await {
        if body(&delivery) == "2" {
            delivery.acknowledgement.delivered();
        } else {
            reject(delivery, "odd");
        }
    }
    bench.until(|b| b.names().contains(&"done/a.csv".into())).await;
    let files = bench.files();
    assert_eq!(files["failed/a.csv.rejected"], "1\r\n3\n");
    let synced = |name: &str| crate::testing::syncs(&bench.path(name));
    assert!(
        synced("failed") > 0 && synced("") > 0,
        "the files have their names on disk, and so has their folder"
    );
    let errors: Vec<Json> = files["failed/a.csv.rejected.error"]
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let messages = errors.iter().map(|error| without_stamp(error["message"].as_str().unwrap()));
    assert_eq!(messages.collect::<Vec<_>>(), ["in:a.csv:0", "in:a.csv:5"]);
    assert_eq!(errors[1]["line"], 3);
}

#[tokio::test(start_paused = true)]
async fn what_a_kill_left_half_written_among_the_rejected_is_cut_off() {
    let bench = Bench::new();
    bench.write("a.csv", "1\n2\n");
    fs::create_dir(bench.path("failed")).unwrap();
    fs::write(bench.path("failed/a.csv.rejected"), "whole\nhal").unwrap();
    fs::write(bench.path("failed/a.csv.rejected.error"), "{\"message\":").unwrap();
    let mut source = bench.start(lines(json!({}))).await;
    for delivery in take(&mut source, 2).await {
        reject(delivery, "odd");
    }
    bench.until(|b| b.names().contains(&"done/a.csv".into())).await;
    let files = bench.files();
    assert_eq!(files["failed/a.csv.rejected"], "whole\n1\n2\n");
    assert_eq!(files["failed/a.csv.rejected.torn"], "hal\n");
    let notes = &files["failed/a.csv.rejected.error"];
    let notes: Vec<Json> = notes.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(notes.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_too_long_is_rejected_and_the_others_come() {
    let bench = Bench::new();
    bench.write("a", format!("ok\n{}\nok too\n", "x".repeat(1_000_000)));
    let mut source = bench.start(lines(json!({"read": {"lines": {"max_line_bytes": 100}}}))).await;
    let deliveries = take(&mut source, 2).await;
    assert_eq!(bodies(&deliveries), ["ok", "ok too"]);
    deliveries.into_iter().for_each(|d| d.acknowledgement.delivered());
    bench.until(|b| is_there(b, "done/a")).await;
    assert_eq!(bench.files()["failed/a.rejected"].len(), 1_000_001);
    assert!(bench.files()["failed/a.rejected.error"].contains("max_line_bytes"));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_too_large_is_rejected_unread() {
    let mut bench = Bench::new();
    bench.limits.body_bytes = 10;
    bench.write("large", "x".repeat(11));
    bench.write("right", "x".repeat(10));
    let mut source = bench.start(at_once()).await;
    let deliveries = take(&mut source, 1).await;
    assert_eq!(id(&deliveries[0]), "in:right:0");
    bench.until(|b| is_there(b, "failed/large")).await;
    assert!(bench.files()["failed/large.error"].contains("limits.body_bytes"));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_comes_again_gives_other_ids_and_a_file_that_comes_again_the_same() {
    let bench = Bench::new();
    let mut source = bench.start(lines(json!({}))).await;
    let (staged, modified) =
        (bench.folder.path().join("staged"), std::time::UNIX_EPOCH + Duration::from_secs(1_000));
    let mut ids = Vec::new();
    for name in ["done/a", "done/a-1"] {
        fs::write(&staged, "monday\n").unwrap();
        // As `cp -p` does it.
        let file = fs::File::options().write(true).open(&staged).unwrap();
        file.set_modified(modified).unwrap();
        fs::rename(&staged, bench.path("a")).unwrap();
        let delivery = take(&mut source, 1).await.remove(0);
        ids.push(delivery.message.id().clone());
        delivery.acknowledgement.delivered();
        bench.until(|b| is_there(b, name)).await;
    }
    assert_ne!(ids[0], ids[1]);
    fs::rename(bench.path("done/a"), bench.path("a")).unwrap();
    assert_eq!(take(&mut source, 1).await[0].message.id(), &ids[0]);
}

#[tokio::test(start_paused = true)]
async fn what_was_released_comes_again_after_its_delay() {
    for (config, content) in [(at_once(), "one"), (lines(json!({})), "one\r\n")] {
        let mut bench = Bench::new();
        bench.limits.release_delay_ms = 3_000;
        bench.write("a", content);
        let mut source = bench.start(config).await;
        let first = take(&mut source, 1).await.remove(0);
        assert!(!first.redelivered);
        let (id, headers) = (first.message.id().clone(), first.message.headers().clone());
        let begun = Instant::now();
        drop(first);
        let again = take(&mut source, 1).await.remove(0);
        assert!(again.redelivered);
        assert!(begun.elapsed() >= Duration::from_secs(3));
        assert_eq!((again.message.id(), again.message.headers()), (&id, &headers));
        assert_eq!(body(&again), "one");
        again.acknowledgement.delivered();
        bench.until(|b| b.names() == ["done/a"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_kill_reading_goes_on_where_acknowledged_work_ended() {
    let bench = Bench::new();
    let content: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
    bench.write("a.log", content.join("\n"));
    let mut source = bench.start(lines(json!({}))).await;
    let deliveries = take(&mut source, 60).await;
    // 0 to 39 and 50 are delivered, the others are on their way.
    let mut unsettled = Vec::new();
    for (n, delivery) in deliveries.into_iter().enumerate() {
        if n < 40 || n == 50 {
            delivery.acknowledgement.delivered();
        } else {
            unsettled.push(delivery);
        }
    }
    bench.until(|b| progress_files(b) == 1).await;
    source.shared.flush(true);
    source.die().await;
    let unsettled: Vec<_> = unsettled.into_iter().map(|d| d.message.id().clone()).collect();

    let mut source = bench.start(lines(json!({}))).await;
    let deliveries = take(&mut source, 59).await;
    assert!(unsettled.iter().all(|id| deliveries.iter().any(|d| d.message.id() == id)), "the ids stay");
    let expected: Vec<String> = content[40..50].iter().chain(&content[51..]).cloned().collect();
    assert_eq!(bodies(&deliveries), expected);
    let ids: BTreeSet<_> = deliveries.iter().map(|d| d.message.id().to_string()).collect();
    assert_eq!(ids.len(), 59);
    assert_eq!(deliveries[0].message.headers().get("file-line"), Some("41"));
    deliveries.into_iter().for_each(|d| d.acknowledgement.delivered());
    bench.until(|b| b.names() == ["done/a.log"]).await;
    assert_eq!(progress_files(&bench), 0);
}

fn progress_files(bench: &Bench) -> usize {
    let work = bench.path(work::WORK_FOLDER);
    let owners =
        fs::read_dir(work).unwrap().filter_map(|e| fs::read_dir(e.unwrap().path().join("progress")).ok());
    owners.flatten().count()
}

#[tokio::test(start_paused = true)]
async fn after_a_kill_whole_files_that_were_not_settled_come_again() {
    let bench = Bench::new();
    for n in 0..5 {
        bench.write(&format!("{n}"), format!("{n}"));
    }
    let mut source = bench.start(at_once()).await;
    let mut deliveries = take(&mut source, 3).await;
    deliveries.remove(1).acknowledgement.delivered();
    bench.until(|b| is_there(b, "done/1")).await;
    source.die().await;
    drop(deliveries);
    let mut source = bench.start(at_once()).await;
    assert_eq!(bodies(&take(&mut source, 4).await), ["0", "2", "3", "4"]);
}

#[tokio::test(start_paused = true)]
async fn killed_again_and_again_every_line_comes_and_few_come_twice() {
    let mut bench = Bench::new();
    bench.limits.in_flight = 8;
    let count = 3_000;
    let content: String = (0..count).map(|n| format!("{n}\n")).collect();
    bench.write("a", content);
    let mut seen = vec![0_usize; count];
    let mut kills = 0;
    // A walk that is the same each time: takes, settles out of order, dies.
    let mut walk = 7_u64;
    while !is_there(&bench, "done/a") {
        let mut source = bench.start(lines(json!({}))).await;
        let mut held: Vec<Delivery> = Vec::new();
        walk = walk.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        for step in 0..(walk >> 33) % 400 {
            if held.len() == bench.limits.in_flight {
                let which = usize::try_from(walk >> 40).unwrap().wrapping_add(step as usize) % held.len();
                held.swap_remove(which).acknowledgement.delivered();
            }
            match tokio::time::timeout(Duration::from_secs(3), source.next()).await {
                Ok(delivery) => {
                    let delivery = delivery.unwrap().unwrap();
                    seen[body(&delivery).parse::<usize>().unwrap()] += 1;
                    held.push(delivery);
                }
                Err(_) => held.drain(..).for_each(|d| d.acknowledgement.delivered()),
            }
        }
        source.die().await;
        kills += 1;
    }
    assert!(seen.iter().all(|n| *n > 0));
    let repeated: usize = seen.iter().map(|n| n - 1).sum();
    assert!(kills > 5 && repeated <= kills * bench.limits.in_flight, "{repeated} in {kills}");
}

#[tokio::test(start_paused = true)]
async fn no_more_is_offered_than_a_crash_may_repeat() {
    let mut bench = Bench::new();
    bench.limits.in_flight = 4;
    bench.write("a", "x\n".repeat(20));
    let mut source = bench.start(lines(json!({}))).await;
    // A flush that cannot write: the folder of the progress is a file.
    let owner = source.shared.renew_owner().unwrap().unwrap();
    let progress = owner.progress(0);
    let folder = progress.parent().unwrap();
    let deliveries = take(&mut source, 4).await;
    fs::remove_dir(folder).unwrap();
    fs::write(folder, "in the way").unwrap();
    deliveries.into_iter().for_each(|d| d.acknowledgement.delivered());
    let error = source.next().await;
    let text = match error {
        Err(error) => error.text,
        Ok(_) => loop {
            // What fits before the bound is still offered.
            if let Err(error) = source.next().await {
                break error.text;
            }
        },
    };
    assert!(text.contains("cannot be brought to disk"), "{text}");
    fs::remove_file(folder).unwrap();
    fs::create_dir(folder).unwrap();
    let delivery = loop {
        match source.next().await {
            Ok(delivery) => break delivery,
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    };
    assert!(delivery.is_some());
}

#[tokio::test(start_paused = true)]
async fn close_puts_back_what_was_not_begun_and_keeps_what_was() {
    let bench = Bench::new();
    bench.write("a", "1\n2\n3\n");
    bench.write("b", "4\n5\n");
    bench.write("c", "6\n");
    let mut source = bench.start(lines(json!({}))).await;
    let mut deliveries = take(&mut source, 4).await;
    source.close().await;
    assert!(source.next().await.unwrap().is_none());
    // Settled after the close: still counts. The first line of `a` is delivered, all else released.
    deliveries.remove(0).acknowledgement.delivered();
    drop(deliveries);
    drop(source);
    assert_eq!(bench.names(), ["b", "c"], "`a` was begun and stays claimed");

    let mut source = bench.start(lines(json!({}))).await;
    let deliveries = take(&mut source, 5).await;
    assert_eq!(bodies(&deliveries), ["2", "3", "4", "5", "6"]);
    deliveries.into_iter().for_each(|d| d.acknowledgement.delivered());
    bench.until(|b| b.names() == ["done/a", "done/b", "done/c"]).await;
    drop(source);
    let left: Vec<_> =
        fs::read_dir(bench.path(work::WORK_FOLDER)).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"]);
}

#[tokio::test(start_paused = true)]
async fn what_settles_last_before_the_drop_is_on_disk() {
    let bench = Bench::new();
    bench.write("a", "1\n2\n");
    let mut source = bench.start(lines(json!({}))).await;
    let deliveries = take(&mut source, 2).await;
    source.close().await;
    deliveries.into_iter().for_each(|d| d.acknowledgement.delivered());
    drop(source);
    // Not known to be at its end: the end was not read, or it was. Either way nothing comes again.
    let mut source = bench.start(lines(json!({}))).await;
    assert!(is_idle(&mut source).await);
    bench.until(|b| b.names() == ["done/a"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_version_takes_over_claims_and_what_is_unsettled() {
    let bench = Bench::new();
    bench.write("a", "1\n2\n3\n");
    bench.write("b", "4\n");
    let mut old = bench.start(lines(json!({}))).await;
    let mut deliveries = take(&mut old, 2).await;
    let changed = lines(json!({"done": {"move": {"directory": "elsewhere"}}, "content_type": "text/x-new"}));
    let prepared = bench.prepare(changed).await.unwrap();
    let source = prepared.take_over(Box::new(old)).await.ok().unwrap();
    let mut source: FileSource = *(source as Box<dyn Any>).downcast().unwrap();
    deliveries.extend(take(&mut source, 2).await);
    assert_eq!(bodies(&deliveries), ["1", "2", "3", "4"]);
    deliveries.into_iter().for_each(|d| d.acknowledgement.delivered());
    let elsewhere = bench.folder.path().join("elsewhere");
    bench.until(|_| elsewhere.join("a").exists() && elsewhere.join("b").exists()).await;
    bench.write("c", "5\n");
    let delivery = take(&mut source, 1).await.remove(0);
    assert_eq!(delivery.message.content_type(), Some("text/x-new"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_sources_never_take_one_file() {
    let bench = Arc::new(Bench::new());
    for n in 0..500 {
        bench.write(&format!("{n:03}"), format!("{n}"));
    }
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let mut source = bench.start(json!({"settle_ms": 0, "poll_ms": 10})).await;
        let bench = Arc::clone(&bench);
        tasks.push(tokio::spawn(async move {
            let mut taken = Vec::new();
            while bench.path("done").read_dir().map_or(0, Iterator::count) < 500 {
                let next = tokio::time::timeout(Duration::from_millis(50), source.next()).await;
                if let Ok(delivery) = next {
                    let delivery = delivery.unwrap().unwrap();
                    taken.push(body(&delivery));
                    delivery.acknowledgement.delivered();
                }
            }
            taken
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    assert_eq!(all.len(), 500);
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), 500);
}

#[tokio::test(start_paused = true)]
async fn a_living_source_takes_over_from_one_that_died() {
    let bench = Bench::new();
    bench.write("a", "a");
    let mut first = bench.start(at_once()).await;
    let delivery = take(&mut first, 1).await;
    let mut second = bench.start(at_once()).await;
    assert!(is_idle(&mut second).await);
    first.die().await;
    assert_eq!(bodies(&take(&mut second, 1).await), bodies(&delivery));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_plain_file_is_left_where_it_is() {
    let bench = Bench::new();
    let secret = bench.folder.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    bench.write("z-real", "real");
    symlink(&secret, bench.path("a-link")).unwrap();
    fs::create_dir(bench.path("b-folder")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        bench.path("c-fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    bench.write(".hidden", "hidden");
    let mut source = bench.start(at_once()).await;
    let deliveries = take(&mut source, 1).await;
    assert_eq!(bodies(&deliveries), ["real"]);
    assert!(is_idle(&mut source).await);
    for name in ["a-link", "b-folder", "c-fifo", ".hidden"] {
        assert!(fs::symlink_metadata(bench.path(name)).is_ok(), "{name}");
    }
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_takes_the_place_of_a_listed_file_is_not_followed() {
    let bench = Bench::new();
    let secret = bench.folder.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    bench.write("a", "a");
    bench.write("b", "b");
    let source = bench.start(at_once()).await;
    let mut listing = listing::Listing::default();
    let settings = source.shared.settings();
    listing.scan(&settings, Instant::now()).unwrap();
    fs::remove_file(bench.path("a")).unwrap();
    symlink(&secret, bench.path("a")).unwrap();
    fs::remove_file(bench.path("b")).unwrap();
    let mut producer = Producer::with_listing(listing);
    let produced = producer.produce(&source.shared, Vec::new(), Instant::now()).unwrap();
    assert!(produced.pieces.is_empty(), "neither the link nor what vanished");
    assert!(fs::symlink_metadata(bench.path("a")).unwrap().is_symlink());
}

#[tokio::test(start_paused = true)]
async fn names_that_are_not_utf8_are_told_apart() {
    let bench = Bench::new();
    for name in [&b"caf\xE9"[..], b"caf\xE8"] {
        fs::create_dir_all(bench.path("")).unwrap();
        fs::write(bench.path("").join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    let mut source = bench.start(at_once()).await;
    let deliveries = take(&mut source, 2).await;
    assert_eq!(deliveries.iter().map(id).collect::<Vec<_>>(), ["in:caf%E8:0", "in:caf%E9:0"]);
    assert_eq!(deliveries[0].message.headers().get("file-name"), Some("caf%E8"));
    deliveries.into_iter().for_each(|d| d.acknowledgement.delivered());
    let done = bench.path("done").join(std::ffi::OsStr::from_bytes(b"caf\xE9"));
    bench.until(|_| done.exists()).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_grew_after_it_was_read_is_not_taken_for_done() {
    let bench = Bench::new();
    bench.write("a", "1\n2\n");
    let mut writer = fs::File::options().append(true).open(bench.path("a")).unwrap();
    let mut source = bench.start(lines(json!({"done": {"delete": {}}}))).await;
    let deliveries = take(&mut source, 2).await;
    assert!(is_idle(&mut source).await);
    std::io::Write::write_all(&mut writer, b"3\n").unwrap();
    deliveries.into_iter().for_each(|d| d.acknowledgement.delivered());
    bench.until(|b| b.names() == ["failed/a", "failed/a.error"]).await;
    assert!(bench.files()["failed/a.error"].contains("settle_ms"));
}

#[tokio::test(start_paused = true)]
async fn done_files_can_be_deleted() {
    let bench = Bench::new();
    bench.write("a", "a");
    let mut source = bench.start(json!({"settle_ms": 0, "done": {"delete": {}}})).await;
    let delivery = take(&mut source, 1).await.remove(0);
    delivery.acknowledgement.delivered();
    drop(source);
    assert!(bench.files().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_goes_away_and_comes_back_is_read_again() {
    let bench = Bench::new();
    let mut source = bench.start(at_once()).await;
    assert!(is_idle(&mut source).await);
    // In one step, for the source may be looking into it.
    fs::rename(bench.folder.path().join("in"), bench.folder.path().join("away")).unwrap();
    let error = loop {
        match tokio::time::timeout(Duration::from_secs(5), source.next()).await {
            Ok(Err(error)) => break error,
            Ok(Ok(_)) => panic!("there is nothing"),
            Err(_) => {}
        }
    };
    assert!(error.text.contains("Check that it exists"), "{error}");
    bench.write("a", "a");
    assert_eq!(bodies(&take(&mut source, 1).await), ["a"]);
}

#[tokio::test]
async fn prepare_says_what_is_in_the_way_and_leaves_no_trace() {
    let bench = Bench::new();
    let prepare = async |config: Json| {
        let spec = bench.check(config).unwrap();
        spec.prepare(bench.context()).await.err().map(|error| error.text)
    };
    let missing = prepare(at_once()).await.unwrap();
    assert!(missing.contains("does not exist: make it, mend `directory`"), "{missing}");
    fs::write(bench.folder.path().join("in"), "a file").unwrap();
    let file = prepare(at_once()).await.unwrap();
    assert!(file.contains("is not a folder"), "{file}");
    let through =
        prepare(json!({"directory": ".", "done": {"move": {"directory": "in/done"}}})).await.unwrap();
    assert!(through.contains("cannot be made"), "{through}");
    fs::remove_file(bench.folder.path().join("in")).unwrap();
    fs::create_dir(bench.folder.path().join("in")).unwrap();
    symlink(bench.folder.path().join("in"), bench.folder.path().join("link")).unwrap();
    let itself = prepare(json!({"failed": {"directory": "link"}})).await.unwrap();
    assert!(itself.contains("for ever"), "{itself}");
    let across = prepare(json!({"done": {"move": {"directory": "/proc"}}})).await.unwrap();
    assert!(across.contains("another file system"), "{across}");
    assert_eq!(prepare(at_once()).await, None);
    assert_eq!(fs::read_dir(bench.path("")).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_missing_folder_is_made_when_the_source_starts_and_when_it_goes_away() {
    let bench = Bench::new();
    let config = json!({
        "directory": "deep/in", "create_directory": true, "settle_ms": 0, "done": {"move": {"directory": "."}}
    });
    let directory = bench.folder.path().join("deep/in");
    let prepared = bench.check(config).unwrap().prepare(bench.context()).await.unwrap();
    assert!(!bench.folder.path().join("deep").exists(), "preparing leaves no trace");
    let mut source = prepared.start().await.unwrap();
    fs::write(directory.join("a"), "a").unwrap();
    let delivery = source.next().await.unwrap().unwrap();
    assert_eq!(body(&delivery), "a");
    delivery.acknowledgement.delivered();
    bench.until(|b| b.folder.path().join("a").exists()).await;

    fs::rename(bench.folder.path().join("deep"), bench.folder.path().join("away")).unwrap();
    let next = async {
        let made = async {
            while !directory.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            fs::write(directory.join("b"), "b").unwrap();
            std::future::pending::<()>().await
        };
        tokio::select! {
            next = source.next() => next.unwrap().unwrap(),
            () = made => unreachable!(),
        }
    };
    assert_eq!(body(&next.await), "b");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_said_before_anything_starts() {
    let bench = Bench::new();
    fs::write(bench.folder.path().join("file"), "a file").unwrap();
    let config = json!({"directory": "file/in", "create_directory": true});
    let error = bench.check(config).unwrap().prepare(bench.context()).await.err().unwrap();
    assert!(error.text.contains("cannot be made") && error.text.contains("is not a folder"), "{error}");
}

#[test]
fn mistakes_are_found_without_touching_the_disk() {
    let bench = Bench::new();
    for (config, expected) in [
        (json!({"pattern": "a/*.xml"}), "a pattern is for names"),
        (json!({"pattern": "[a"}), "this is no pattern"),
        (json!({"done": {"move": {"directory": "x/../in"}}}), "for ever"),
        (json!({"failed": {"directory": "./in"}}), "for ever"),
        (json!({"content_type": "a\nb"}), "no content type"),
        (json!({"read": {"line": {}}}), "did you mean `lines`"),
        (json!({"settle": 1}), "unknown key `settle`"),
        (json!({"poll_ms": 1}), "1 is less than the minimum of 10"),
    ] {
        let mistakes = bench.check(config.clone()).unwrap_err();
        assert!(mistakes.iter().any(|m| m.contains(expected)), "{config}: {mistakes:#?}");
    }
}

#[test]
fn one_endpoint_has_one_name() {
    let bench = Bench::new();
    fs::create_dir(bench.path("")).unwrap();
    symlink(bench.path(""), bench.folder.path().join("link")).unwrap();
    let one = bench.check(json!({"pattern": "*.xml"})).unwrap();
    let same = bench.check(json!({"pattern": "*.xml", "directory": "./in", "settle_ms": 7})).unwrap();
    let link = bench.check(json!({"pattern": "*.xml", "directory": "link"})).unwrap();
    let other = bench.check(json!({"pattern": "*.csv"})).unwrap();
    assert_eq!(one.identity(), same.identity());
    assert_ne!(one.identity(), other.identity());
    assert_eq!(one.claims(), link.claims());
    assert_ne!(one.claims(), other.claims());
}

#[test]
fn two_sources_of_one_folder_conflict_when_a_name_can_match_both() {
    let bench = Bench::new();
    let of = |directory: &str, pattern: &str| {
        bench.check(json!({"directory": directory, "pattern": pattern})).unwrap()
    };
    let one = of("in", "*.xml");
    let why = one.conflict(&of("./x/../in/", "order-*")).unwrap();
    assert!(why.contains("`*.xml` and `order-*`"), "{why}");
    assert_eq!(one.conflict(&of("in", "*.json")), None);
    assert_eq!(one.conflict(&of("elsewhere", "order-*")), None);
    assert_eq!(one.conflict(&of("in", "*.xml")), None, "said by the claims");
    let why = of("hunter2", "a").conflict(&of("hunter2", "*")).unwrap();
    assert!(!why.contains(SECRET) && why.contains("`${env:SECRET}`"), "{why}");
    let why = of("in", "hunter2").conflict(&of("in", "*")).unwrap();
    assert!(!why.contains(SECRET) && why.contains("`${env:SECRET}`"), "{why}");
}

#[test]
fn the_name_of_an_endpoint_holds_no_value_and_tells_values_apart() {
    let bench = Bench::new();
    let of = |directory: &str, pattern: &str| {
        bench.check(json!({"directory": directory, "pattern": pattern})).unwrap()
    };
    let one = of("hunter2/in", "*");
    assert_eq!(one.identity(), of("hunter2/in", "*").identity());
    assert_ne!(one.identity(), of("hunter2/hunter2/in", "*").identity());
    assert_ne!(of("in", "hunter2*").identity(), of("in", "hunter2").identity());
    for spec in [one, of("in", "hunter2*")] {
        let claims = spec.claims();
        let shown = format!("{} {} {spec:?}", spec.identity(), claims[0]);
        assert!(!shown.contains(SECRET) && shown.contains("${env:SECRET}"), "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_error_and_no_message_shows_a_substituted_folder() {
    let bench = Bench::new();
    let secret = bench.folder.path().join(SECRET);
    let config = || json!({"directory": "hunter2", "settle_ms": 0});
    let prepare = async |config: Json| {
        let error = bench.check(config).unwrap().prepare(bench.context()).await.err().unwrap();
        assert!(!error.text.contains(SECRET) && error.text.contains("${env:SECRET}"), "{error}");
        error.text
    };
    assert!(prepare(config()).await.contains("does not exist"));
    fs::write(&secret, "a file").unwrap();
    assert!(prepare(config()).await.contains("is not a folder"));
    let deep = json!({"directory": "hunter2/in", "create_directory": true});
    assert!(prepare(deep).await.contains("cannot be made: what is above it"));
    let done = json!({"directory": ".", "done": {"move": {"directory": "hunter2/done"}}});
    assert!(prepare(done).await.contains("cannot be made"));
    fs::remove_file(&secret).unwrap();
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join(work::WORK_FOLDER), "in the way").unwrap();
    let spec = bench.check(config()).unwrap();
    let error = spec.prepare(bench.context()).await.unwrap().start().await.err().unwrap();
    assert!(!error.text.contains(SECRET) && error.text.contains("in the way"), "{error}");

    fs::remove_file(secret.join(work::WORK_FOLDER)).unwrap();
    let limited = Bench { limits: FlowLimits { in_flight: 1, ..FlowLimits::default() }, ..bench };
    fs::write(secret.join("a"), "a").unwrap();
    let spec = limited.check(json!({"directory": "hunter2", "settle_ms": 0, "pattern": "a"})).unwrap();
    let mut source = spec.prepare(limited.context()).await.unwrap().start().await.unwrap();
    fs::write(secret.join("done"), "in the way").unwrap();
    let delivery = source.next().await.unwrap().unwrap();
    let headers = format!("{:?} {:?}", delivery.message.id(), delivery.message.headers().get("file-path"));
    assert!(
        !headers.contains(SECRET)
            && headers.contains("${env:SECRET}/a")
            && headers.contains("${env:SECRET}:a@"),
        "{headers}"
    );
    delivery.acknowledgement.delivered();
    let error = source.next().await.err().unwrap();
    assert!(!error.text.contains(SECRET) && error.text.contains("`${env:SECRET}/done`"), "{error}");
}

#[tokio::test]
async fn what_the_system_says_of_a_folder_that_cannot_be_made_is_said() {
    let bench = Bench::new();
    let config = json!({
        "directory": "/proc/nope", "create_directory": true, "done": {"delete": {}}, "failed": {"directory": "/proc/failed"}
    });
    let prepared = bench.check(config).unwrap().prepare(bench.context()).await;
    let error = match prepared {
        Ok(prepared) => prepared.start().await.err().unwrap(),
        // Who is not root hears of it earlier.
        Err(error) => error,
    };
    assert!(error.text.contains("cannot be made") || error.text.contains("may not write"), "{error}");
    assert!(!error.text.contains("Check that it exists"), "{error}");
}

#[test]
fn an_unreadable_file_is_moved_to_the_failed_ones_and_the_others_come() {
    let bench = Bench::new();
    crate::testing::unprivileged(bench.folder.path(), || {
        bench.write("a", "secret");
        bench.write("b", "b");
        fs::set_permissions(bench.path("a"), fs::Permissions::from_mode(0o000)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut source = bench.start(at_once()).await;
            let deliveries = take(&mut source, 1).await;
            assert_eq!(bodies(&deliveries), ["b"]);
            let error = fs::read_to_string(bench.path("failed/a.error")).unwrap();
            assert!(error.contains("read permission") && is_there(&bench, "failed/a"), "{error}");

            fs::set_permissions(bench.path(""), fs::Permissions::from_mode(0o500)).unwrap();
            let error = bench.prepare(at_once()).await.err().unwrap();
            assert!(error.text.contains("may not write to"), "{error}");
            fs::set_permissions(bench.path(""), fs::Permissions::from_mode(0o700)).unwrap();
        });
    });
}

/// What settles while a file is flushed queues it once more, and may be what finishes it in that very flush.
#[tokio::test]
async fn a_file_that_was_finished_is_not_finished_again_when_another_has_its_place() {
    let bench = Bench::new();
    let source = bench.start(lines(json!({"pattern": "*.txt"}))).await;
    let (shared, claimed) = (&source.shared, bench.path("claimed"));
    let claim = || {
        let facts = claimed::Facts::of(
            "a".into(),
            claimed.clone(),
            |_| bench.path("progress"),
            &fs::File::open(&claimed).unwrap(),
            true,
            &shared.settings(),
        );
        let mut ledger = ledger::Ledger::new(None);
        ledger.skip(4, 2);
        ledger.read_to_end();
        Arc::new(claimed::ClaimedFile::new(facts.unwrap(), ledger))
    };
    bench.write("claimed", "old\n");
    let file = claim();
    shared.mark_dirty(&file);
    shared.flush(false);
    assert_eq!(bench.files(), BTreeMap::from([("done/a".into(), "old\n".into())]));
    bench.write("claimed", "new\n");
    shared.mark_dirty(&file);
    shared.flush(false);
    assert!(claimed.exists(), "{:?}", bench.files());
    // Nor does one that does not know of it move what is not its own.
    let replaced = claim();
    fs::rename(&claimed, bench.path("elsewhere")).unwrap();
    bench.write("claimed", "of another\n");
    shared.mark_dirty(&replaced);
    shared.flush(false);
    assert!(claimed.exists(), "{:?}", bench.files());
}

//! The source that follows, as the engine sees it. Time is tokio's, paused; nothing sleeps but to let the source's own timers
//! pass.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
};

use gristmill_core::{
    Clock, ErrorClass, Failure, Timestamp,
    adapter::Checker,
    config::Mistakes,
    limits::FlowLimits,
    observe::Unobserved,
    source::{EndpointContext, Order, SourceSpec},
    testkit::ManualClock,
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::*;
use crate::{source::FileSourceSpec, testing};

/// A folder with an endpoint over it.
struct Bench {
    folder: TempDir,
    clock: Arc<ManualClock>,
    limits: FlowLimits,
}

/// What a test waits at most for something that does not come, in the source's time.
const WHILE: Duration = Duration::from_secs(5);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        Self { folder, clock: Arc::default(), limits: FlowLimits::default() }
    }

    fn with_in_flight(in_flight: usize) -> Self {
        Self { limits: FlowLimits { in_flight, ..FlowLimits::default() }, ..Self::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("in").join(name)
    }

    fn add(&self, name: &str, text: &str) {
        let mut file = File::options().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn check(&self, config: Json) -> Result<FileSourceSpec, Vec<String>> {
        let mut config = config;
        let entries = config.as_object_mut().unwrap();
        entries.entry("directory").or_insert(json!("in"));
        entries.entry("pattern").or_insert(json!("*.log"));
        entries.entry("read").or_insert(json!({"follow": {}}));
        let mut mistakes = Mistakes::new();
        let mut checker = Checker::new(&mut mistakes, self.folder.path(), &self.limits);
        let spec = FileSourceSpec::check(&testing::config(&config), &mut checker);
        let texts: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        spec.filter(|_| texts.is_empty()).ok_or(texts)
    }

    fn context(&self) -> EndpointContext {
        EndpointContext {
            flow: "test".into(),
            limits: self.limits.clone(),
            state_dir: self.folder.path().join("state"),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            observer: Arc::new(Unobserved),
        }
    }

    async fn prepare(&self, config: Json) -> Box<dyn PreparedSource> {
        self.check(config).unwrap().prepare(self.context()).await.unwrap()
    }

    async fn start(&self, config: Json) -> FollowSource {
        ours(self.prepare(config).await.start().await.unwrap())
    }

    fn kept(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join("state/failed").join(name)).unwrap_or_default()
    }
}

fn ours(source: Box<dyn Source>) -> FollowSource {
    *(source as Box<dyn Any>).downcast().unwrap()
}

fn follow(settings: Json) -> Json {
    json!({"read": {"follow": settings}})
}

async fn take(source: &mut FollowSource, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for _ in 0..count {
        let next = tokio::time::timeout(Duration::from_secs(600), source.next()).await;
        deliveries.push(next.expect("nothing comes").unwrap().unwrap());
    }
    deliveries
}

fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|delivery| String::from_utf8_lossy(delivery.message.body()).into()).collect()
}

fn deliver(deliveries: Vec<Delivery>) {
    deliveries.into_iter().for_each(|delivery| delivery.acknowledgement.delivered());
}

/// Takes as many, which are these, and settles them.
async fn expect(source: &mut FollowSource, expected: &[&str]) {
    let deliveries = take(source, expected.len()).await;
    assert_eq!(bodies(&deliveries), expected);
    deliver(deliveries);
}

async fn is_idle(source: &mut FollowSource) -> bool {
    tokio::time::timeout(WHILE, source.next()).await.is_err()
}

/// Kills it, with everything that has settled on disk.
async fn kill(source: FollowSource) {
    source.shared.flush();
    source.die().await;
}

#[tokio::test(start_paused = true)]
async fn lines_come_as_they_are_added() {
    let bench = Bench::new();
    bench.add("app.log", "one\r\n\ntwo\n");
    bench.add("other.txt", "not wanted\n");
    let mut source = bench.start(json!({})).await;
    let deliveries = take(&mut source, 2).await;
    assert_eq!(bodies(&deliveries), ["one", "two"]);
    let message = &deliveries[1].message;
    assert!(message.id().as_str().starts_with("in:app.log@"), "{}", message.id());
    assert!(message.id().as_str().ends_with(":6"), "{}", message.id());
    let header = |name| message.headers().get(name).unwrap();
    assert_eq!((header("file-name"), header("file-path")), ("app.log", "in/app.log"));
    assert_eq!((header("file-offset"), header("file-line")), ("6", "3"));
    assert_eq!(header("content-type"), "text/plain");
    deliver(deliveries);
    for n in 0..5 {
        bench.add("app.log", &format!("{n}\n"));
        expect(&mut source, &[&n.to_string()]).await;
    }
    assert!(bench.path("app.log").exists() && !bench.path(".gristmill").exists());
}

#[tokio::test(start_paused = true)]
async fn a_line_without_an_end_waits_for_it() {
    let bench = Bench::new();
    bench.add("app.log", "whole\nha");
    let mut source = bench.start(json!({})).await;
    expect(&mut source, &["whole"]).await;
    assert!(is_idle(&mut source).await);
    bench.add("app.log", "l");
    assert!(is_idle(&mut source).await);
    bench.add("app.log", "f\nne");
    expect(&mut source, &["half"]).await;
    kill(source).await;
    let mut source = bench.start(json!({})).await;
    bench.add("app.log", "xt\n");
    expect(&mut source, &["next"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_renamed_file_is_read_to_its_end_before_the_new_one_of_its_name() {
    let bench = Bench::new();
    bench.add("app.log", "1\n");
    let mut source = bench.start(json!({})).await;
    expect(&mut source, &["1"]).await;
    let mut writer = File::options().append(true).open(bench.path("app.log")).unwrap();
    bench.add("app.log", "2\n");
    bench.rename("app.log", "app.log.1");
    bench.add("app.log", "4\n");
    writer.write_all(b"3\n").unwrap();
    expect(&mut source, &["2", "3", "4"]).await;
    // Its writer has not noticed yet.
    writer.write_all(b"late\n").unwrap();
    expect(&mut source, &["late"]).await;
    bench.add("app.log", "5\n");
    expect(&mut source, &["5"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_renamed_file_is_read_to_its_end_also_when_the_new_one_of_its_name_is_made_later() {
    let bench = Bench::new();
    let mut source = bench.start(json!({})).await;
    bench.add("app.log", "1\n");
    expect(&mut source, &["1"]).await;
    bench.rename("app.log", "app.log.1");
    // Long enough for a look, and shorter than a renamed file is waited for.
    assert!(tokio::time::timeout(Duration::from_secs(3), source.next()).await.is_err());
    bench.add("app.log.1", "2\n");
    bench.add("app.log", "3\n");
    expect(&mut source, &["2", "3"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_renamed_file_is_read_to_its_end_before_the_new_one_of_its_name_after_a_restart_too() {
    let bench = Bench::with_in_flight(10_000);
    // More than one batch holds, of which the first is in the air when the process dies.
    let count = 5_000;
    let old: Vec<String> = (0..count).map(|n| format!("old {n}")).collect();
    bench.add("app.log", &(old.join("\n") + "\n"));
    let mut source = bench.start(json!({})).await;
    let mut in_the_air = take(&mut source, 1).await;
    bench.rename("app.log", "app.log.1");
    bench.add("app.log", "new\n");
    tokio::time::advance(WHILE).await;
    in_the_air.extend(take(&mut source, 1_500).await);
    assert_eq!(source.known().await, 2);
    kill(source).await;
    let mut source = bench.start(json!({})).await;
    let taken = take(&mut source, count + 1).await;
    let expected: Vec<String> = old.into_iter().chain(["new".to_owned()]).collect();
    assert_eq!(bodies(&taken), expected);
}

#[tokio::test(start_paused = true)]
async fn a_renamed_file_is_given_up_with_the_line_that_has_no_end() {
    let bench = Bench::new();
    bench.add("app.log", "1\nend");
    let mut source = bench.start(follow(json!({"rotated_wait_ms": 20_000}))).await;
    expect(&mut source, &["1"]).await;
    bench.rename("app.log", "app.log.1");
    assert!(is_idle(&mut source).await);
    expect(&mut source, &["end"]).await;
    assert!(is_idle(&mut source).await);
    // Though it was given up, it is known.
    bench.add("app.log.1", "ing\n");
    expect(&mut source, &["ing"]).await;
    kill(source).await;
    let mut source = bench.start(json!({})).await;
    assert!(is_idle(&mut source).await);
}

#[tokio::test(start_paused = true)]
async fn a_rotated_file_whose_name_is_wanted_too_is_not_read_twice() {
    for killed in [false, true] {
        let bench = Bench::new();
        bench.add("app.log", "1\n2\nend");
        let mut source = bench.start(json!({"pattern": "*"})).await;
        expect(&mut source, &["1", "2"]).await;
        if killed {
            kill(source).await;
            source = bench.start(json!({"pattern": "*"})).await;
        }
        bench.rename("app.log", "app.log.1");
        bench.add("app.log", "3\n");
        expect(&mut source, &["3", "end"]).await;
        bench.rename("app.log.1", "app.log.2");
        bench.rename("app.log", "app.log.1");
        bench.add("app.log", "4\n");
        expect(&mut source, &["4"]).await;
        // Packed: what stays is another file, of a name that is not wanted here.
        fs::remove_file(bench.path("app.log.2")).unwrap();
        assert!(is_idle(&mut source).await);
        kill(source).await;
        let mut source = bench.start(json!({"pattern": "*"})).await;
        assert!(is_idle(&mut source).await);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_in_the_air_at_a_truncation_does_not_move_the_new_checkpoint() {
    let bench = Bench::new();
    bench.add("app.log", "old one\nold two\n");
    let mut source = bench.start(json!({})).await;
    let old = take(&mut source, 2).await;
    File::create(bench.path("app.log")).unwrap();
    bench.add("app.log", "new\n");
    let new = take(&mut source, 1).await;
    deliver(old);
    kill(source).await;
    drop(new);
    let mut source = bench.start(json!({})).await;
    let again = take(&mut source, 1).await;
    assert_eq!(bodies(&again), ["new"]);
    deliver(again);
    assert!(is_idle(&mut source).await);
}

#[tokio::test(start_paused = true)]
async fn another_file_in_the_place_of_one_that_was_in_the_air_has_other_ids() {
    let bench = Bench::new();
    bench.add("app.log", "old\n");
    let mut source = bench.start(json!({})).await;
    let old = take(&mut source, 1).await;
    // Killed before anything has settled; the same inode is written anew meanwhile.
    source.die().await;
    fs::write(bench.path("app.log"), "new\n").unwrap();
    let mut source = bench.start(json!({})).await;
    let new = take(&mut source, 1).await;
    assert_eq!(bodies(&new), ["new"]);
    assert_ne!(new[0].message.id(), old[0].message.id());
}

#[tokio::test(start_paused = true)]
async fn what_was_read_while_the_checkpoint_could_not_be_written_is_offered_later() {
    let bench = Bench::new();
    let mut source = bench.start(json!({})).await;
    assert!(is_idle(&mut source).await);
    let path = source.shared.settings().checkpoint.with_extension("new");
    fs::create_dir(&path).unwrap();
    bench.add("app.log", "1\n2\n");
    let error = loop {
        if let Ok(Err(error)) = tokio::time::timeout(WHILE, source.next()).await {
            break error;
        }
    };
    assert!(error.text.contains("json` cannot be worked with"), "{error}");
    fs::remove_dir(&path).unwrap();
    expect(&mut source, &["1", "2"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_missing_or_may_not_be_read_is_told_at_once() {
    let bench = Bench::new();
    let refused = |config: Json| {
        let (spec, context) = (bench.check(config).unwrap(), bench.context());
        async move { spec.prepare(context).await.err().unwrap().text }
    };
    let missing = refused(json!({"directory": "nowhere"})).await;
    assert!(missing.contains("nowhere` does not exist: make it, mend `directory`"), "{missing}");
    fs::write(bench.folder.path().join("file"), "").unwrap();
    let file = refused(json!({"directory": "file"})).await;
    assert!(file.contains("is not a folder: `directory` names the folder"), "{file}");
    // It is made when that is asked for, and nothing else is needed of it than reading.
    let mut source = bench.start(json!({"directory": "made", "create_directory": true})).await;
    assert!(is_idle(&mut source).await);
    assert!(bench.folder.path().join("made").is_dir());
}

#[tokio::test(start_paused = true)]
async fn polling_alone_is_enough() {
    let bench = Bench::new();
    let mut spec = bench.check(json!({})).unwrap();
    spec.watch = false;
    let mut source = ours(spec.prepare(bench.context()).await.unwrap().start().await.unwrap());
    assert!(is_idle(&mut source).await);
    bench.add("app.log", "1\n");
    expect(&mut source, &["1"]).await;
    bench.add("app.log", "2\n");
    bench.rename("app.log", "app.log.1");
    bench.add("app.log", "3\n");
    expect(&mut source, &["2", "3"]).await;
}

#[tokio::test]
async fn nothing_is_lost_while_writers_write_and_files_are_rotated() {
    let bench = Arc::new(Bench::new());
    let mut source = bench.start(json!({"poll_ms": 10})).await;
    let (count, a_file) = (20_000, 2_000);
    let writing = Arc::clone(&bench);
    let (met, is_met) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        let open = || File::options().create(true).append(true).open(writing.path("app.log")).unwrap();
        let mut file = open();
        for n in 0..count {
            file.write_all(format!("{n}\n").as_bytes()).unwrap();
            if n % a_file == a_file - 1 {
                // One that comes and goes while nobody looks is not seen at all.
                is_met.recv().unwrap();
                writing.rename("app.log", &format!("app.log.{n}"));
                // The old one is written to for a while.
                file.write_all(format!("old {n}\n").as_bytes()).unwrap();
                file = open();
            }
        }
    });
    let mut seen = Vec::new();
    let mut old = 0;
    while seen.len() < count || old < count / a_file {
        let delivery = source.next().await.unwrap().unwrap();
        let text = String::from_utf8_lossy(delivery.message.body()).into_owned();
        match text.parse::<usize>() {
            Ok(n) => {
                if n % a_file == 0 {
                    met.send(()).unwrap();
                }
                seen.push(n);
            }
            Err(_) => old += 1,
        }
        delivery.acknowledgement.delivered();
    }
    writer.join().unwrap();
    assert_eq!(seen, (0..count).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_truncated_file_is_read_from_its_beginning() {
    let bench = Bench::new();
    bench.add("app.log", "a long first line\nand another\n");
    let mut source = bench.start(json!({})).await;
    let before = take(&mut source, 2).await;
    let old_id = before[0].message.id().clone();
    deliver(before);
    assert!(is_idle(&mut source).await);
    File::create(bench.path("app.log")).unwrap();
    assert!(is_idle(&mut source).await);
    bench.add("app.log", "new\n");
    let delivery = take(&mut source, 1).await;
    assert_eq!(bodies(&delivery), ["new"]);
    assert_ne!(delivery[0].message.id(), &old_id, "the same offset of another life");
    deliver(delivery);
    kill(source).await;
    let mut source = bench.start(json!({})).await;
    assert!(is_idle(&mut source).await);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_written_anew_past_the_offset_is_noticed() {
    for killed in [false, true] {
        let bench = Bench::new();
        bench.add("app.log", "12:00 begun\n12:01 more\n");
        let mut source = bench.start(json!({})).await;
        expect(&mut source, &["12:00 begun", "12:01 more"]).await;
        assert!(is_idle(&mut source).await);
        // As copytruncate does it: copied away, truncated, written on.
        let copytruncate = || {
            fs::copy(bench.path("app.log"), bench.path("app.log.1")).unwrap();
            File::create(bench.path("app.log")).unwrap();
            bench.add("app.log", "12:02 one\n12:03 two\n12:04 three\n");
        };
        if killed {
            kill(source).await;
            copytruncate();
            source = bench.start(json!({})).await;
        } else {
            copytruncate();
        }
        expect(&mut source, &["12:02 one", "12:03 two", "12:04 three"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_file_is_read_to_its_end() {
    let bench = Bench::new();
    bench.add("app.log", "1\n");
    let mut source = bench.start(follow(json!({"idle_close_ms": 1_000, "rotated_wait_ms": 1_000}))).await;
    expect(&mut source, &["1"]).await;
    assert!(is_idle(&mut source).await);
    // Rested and closed: it is opened again for what was added, and has no name soon after.
    bench.add("app.log", "2\n");
    expect(&mut source, &["2"]).await;
    bench.add("app.log", "3\nend");
    fs::remove_file(bench.path("app.log")).unwrap();
    expect(&mut source, &["3", "end"]).await;
    assert!(is_idle(&mut source).await);
    assert_eq!(source.known().await, 0, "what is gone is forgotten");
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_where_acknowledged_work_ended() {
    let bench = Bench::new();
    for n in 0..10 {
        bench.add("app.log", &format!("{n}\n"));
    }
    let mut source = bench.start(json!({})).await;
    let mut deliveries = take(&mut source, 8).await;
    let ids: Vec<_> = deliveries.iter().map(|delivery| delivery.message.id().clone()).collect();
    // 0 to 2 and 5 are settled, the others on their way.
    deliveries.remove(5).acknowledgement.delivered();
    deliver(deliveries.drain(..3).collect());
    kill(source).await;
    drop(deliveries);
    bench.add("app.log", "10\n");
    let mut source = bench.start(json!({})).await;
    let deliveries = take(&mut source, 7).await;
    assert_eq!(bodies(&deliveries), ["3", "4", "6", "7", "8", "9", "10"]);
    assert_eq!((deliveries[0].message.id(), deliveries[2].message.id()), (&ids[3], &ids[6]));
    deliver(deliveries);
    // Rotated while nobody looks.
    source.close().await;
    drop(source);
    bench.add("app.log", "11\n");
    bench.rename("app.log", "app.log.1");
    bench.add("app.log", "12\n");
    let mut source = bench.start(json!({})).await;
    expect(&mut source, &["11", "12"]).await;
}

#[tokio::test(start_paused = true)]
async fn killed_again_and_again_every_line_comes_and_few_come_twice() {
    let bench = Bench::with_in_flight(8);
    let count = 2_000;
    let content: String = (0..count).map(|n| format!("{n}\n")).collect();
    bench.add("app.log", &content);
    let mut seen = vec![0_usize; count];
    // A walk that is the same each time: takes, settles out of order, dies.
    let (mut kills, mut walk) = (0, 7_u64);
    while seen.contains(&0) {
        let mut source = bench.start(json!({})).await;
        let mut held: Vec<Delivery> = Vec::new();
        walk = walk.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        for step in 0..(walk >> 33) % 300 {
            if held.len() == bench.limits.in_flight {
                let which = usize::try_from(walk >> 40).unwrap().wrapping_add(step as usize) % held.len();
                held.swap_remove(which).acknowledgement.delivered();
            }
            match tokio::time::timeout(WHILE, source.next()).await {
                Ok(delivery) => {
                    let delivery = delivery.unwrap().unwrap();
                    let text = std::str::from_utf8(delivery.message.body()).unwrap();
                    seen[text.parse::<usize>().unwrap()] += 1;
                    held.push(delivery);
                }
                Err(_) => deliver(std::mem::take(&mut held)),
            }
        }
        source.die().await;
        kills += 1;
    }
    let repeated: usize = seen.iter().map(|n| n - 1).sum();
    assert!(kills > 5 && repeated <= kills * bench.limits.in_flight, "{repeated} in {kills}");
}

#[tokio::test(start_paused = true)]
async fn files_that_appear_later_are_read_from_their_beginning() {
    let bench = Bench::new();
    bench.add("old.log", "old\nha");
    let config = || json!({"pattern": "*.{log,err}", "read": {"follow": {"start_at": "end"}}});
    let mut source = bench.start(config()).await;
    assert!(is_idle(&mut source).await);
    bench.add("new.err", "first\n");
    bench.add("new.log", "second\n");
    expect(&mut source, &["first", "second"]).await;
    bench.add("old.log", "lf\n");
    expect(&mut source, &["half"]).await;
    kill(source).await;
    // Nor is one begun at its end that appears while nobody looks.
    bench.add("while.log", "third\n");
    let mut source = bench.start(config()).await;
    expect(&mut source, &["third"]).await;
}

#[tokio::test(start_paused = true)]
async fn another_file_with_the_inode_number_of_an_old_one_is_another_file() {
    let bench = Bench::new();
    bench.add("app.log", "of the old one\n");
    let mut source = bench.start(json!({})).await;
    expect(&mut source, &["of the old one"]).await;
    let checkpoint = source.shared.settings().checkpoint.clone();
    kill(source).await;
    // As if the system had given the number to a file that is larger and begins otherwise: it is in the checkpoint.
    fs::remove_file(bench.path("app.log")).unwrap();
    bench.add("app.log", "of the new one\nand more of it\n");
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(bench.path("app.log")).unwrap());
    let mut known: Json = serde_json::from_slice(&fs::read(&checkpoint).unwrap()).unwrap();
    known["files"][0]["inode"] = json!(inode);
    known["files"][0]["born"] = Json::Null;
    fs::write(&checkpoint, known.to_string()).unwrap();
    let mut source = bench.start(json!({})).await;
    expect(&mut source, &["of the new one", "and more of it"]).await;
}

#[tokio::test(start_paused = true)]
async fn another_file_with_an_old_inode_number_is_behind_the_one_that_had_its_name() {
    let bench = Bench::with_in_flight(10_000);
    // More than one batch holds.
    let count = 5_000;
    let old: Vec<String> = (0..count).map(|n| format!("old {n}")).collect();
    bench.add("app.log", &(old.join("\n") + "\n"));
    let mut source = bench.start(json!({})).await;
    let in_the_air = take(&mut source, 1).await;
    let checkpoint = source.shared.settings().checkpoint.clone();
    kill(source).await;
    drop(in_the_air);
    bench.rename("app.log", "app.log.1");
    bench.add("app.log", "new\n");
    // As if the system had given the number of a file that was deleted long ago to the new one: it is in the checkpoint.
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(bench.path("app.log")).unwrap());
    let mut known: Json = serde_json::from_slice(&fs::read(&checkpoint).unwrap()).unwrap();
    let files = known["files"].as_array_mut().unwrap();
    let mut deleted = files[0].clone();
    (deleted["inode"], deleted["born"]) = (json!(inode), Json::Null);
    files.insert(0, deleted);
    fs::write(&checkpoint, known.to_string()).unwrap();
    let mut source = bench.start(json!({})).await;
    let taken = take(&mut source, count + 1).await;
    let expected: Vec<String> = old.into_iter().chain(["new".to_owned()]).collect();
    assert_eq!(bodies(&taken), expected);
}

#[tokio::test(start_paused = true)]
async fn a_device_may_have_another_number_after_a_restart() {
    let bench = Bench::new();
    bench.add("app.log", "1\n");
    let mut source = bench.start(json!({})).await;
    expect(&mut source, &["1"]).await;
    let checkpoint = source.shared.settings().checkpoint.clone();
    kill(source).await;
    let mut known: Json = serde_json::from_slice(&fs::read(&checkpoint).unwrap()).unwrap();
    known["files"][0]["device"] = json!(u64::MAX);
    fs::write(&checkpoint, known.to_string()).unwrap();
    let mut source = bench.start(json!({})).await;
    bench.add("app.log", "2\n");
    expect(&mut source, &["2"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_gone_for_long_is_forgotten() {
    let bench = Bench::new();
    bench.add("app.log", "1\n");
    let mut source = bench.start(json!({})).await;
    expect(&mut source, &["1"]).await;
    fs::rename(bench.path("app.log"), bench.folder.path().join("away")).unwrap();
    assert!(is_idle(&mut source).await && is_idle(&mut source).await);
    // It may come back.
    fs::rename(bench.folder.path().join("away"), bench.path("app.log")).unwrap();
    assert!(is_idle(&mut source).await);
    fs::rename(bench.path("app.log"), bench.folder.path().join("away")).unwrap();
    assert!(is_idle(&mut source).await && is_idle(&mut source).await);
    assert_eq!(source.known().await, 1);
    bench.clock.set(Timestamp::from_millis(bench.clock.now().as_millis() + 24 * 3_600_000));
    assert!(is_idle(&mut source).await);
    assert_eq!(source.known().await, 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_offered_or_kept_than_may_be_in_flight() {
    let mut bench = Bench::with_in_flight(4);
    bench.limits.release_delay_ms = 3_000;
    bench.add("app.log", &"x\n".repeat(100));
    let mut source = bench.start(json!({})).await;
    let deliveries = take(&mut source, 4).await;
    assert!(is_idle(&mut source).await, "four are in flight");
    let begun = Instant::now();
    drop(deliveries);
    // What is released waits in memory: nothing is offered beside it, and it comes in the order of the file.
    let again = take(&mut source, 4).await;
    assert!(begun.elapsed() >= Duration::from_secs(3) && again.iter().all(|delivery| delivery.redelivered));
    let offsets: Vec<_> = again.iter().map(|d| d.message.headers().get("file-offset").unwrap()).collect();
    assert_eq!(offsets, ["0", "2", "4", "6"]);
    deliver(again);
    deliver(take(&mut source, 4).await);
}

#[tokio::test(start_paused = true)]
async fn released_lines_survive_a_truncation() {
    let bench = Bench::new();
    bench.add("app.log", "only here\n");
    let mut source = bench.start(json!({})).await;
    let delivery = take(&mut source, 1).await;
    File::create(bench.path("app.log")).unwrap();
    drop(delivery);
    expect(&mut source, &["only here"]).await;
}

#[tokio::test(start_paused = true)]
async fn rejected_lines_are_kept_and_count_as_settled() {
    let bench = Bench::new();
    bench.add("app.log", &format!("bad\n{}\ngood\n", "x".repeat(500_000)));
    let mut source = bench.start(follow(json!({"max_line_bytes": 100}))).await;
    let mut deliveries = take(&mut source, 2).await;
    assert_eq!(bodies(&deliveries), ["bad", "good"]);
    let failure = Failure::new(ErrorClass::BodyFormat, "no such thing");
    deliveries.remove(0).acknowledgement.rejected(Some(Arc::new(failure)));
    deliver(deliveries);
    kill(source).await;
    let kept = bench.kept("app.log.rejected");
    assert!(kept.contains("bad\n") && kept.len() == 4 + 500_001, "{}", kept.len());
    let notes = bench.kept("app.log.rejected.error");
    assert!(notes.contains("no such thing") && notes.contains("max_line_bytes"), "{notes}");
    let mut source = bench.start(json!({})).await;
    assert!(is_idle(&mut source).await);
}

#[tokio::test(start_paused = true)]
async fn a_new_version_takes_over_what_is_open_and_unsettled() {
    let bench = Bench::new();
    bench.add("app.log", "1\n2\n3\nha");
    bench.add("app.err", "error\n");
    let mut old = bench.start(json!({})).await;
    let mut deliveries = take(&mut old, 2).await;
    // Another pattern, too: it is the same folder.
    let config = json!({"pattern": "app.*", "content_type": "text/x-new"});
    assert_eq!(bench.check(config.clone()).unwrap().identity(), bench.check(json!({})).unwrap().identity());
    let prepared = bench.prepare(config).await;
    let mut source = ours(prepared.take_over(Box::new(old)).await.ok().unwrap());
    deliveries.extend(take(&mut source, 2).await);
    assert_eq!(bodies(&deliveries), ["1", "2", "3", "error"]);
    bench.add("app.log", "lf\n");
    deliveries.extend(take(&mut source, 1).await);
    assert_eq!(deliveries[4].message.content_type(), Some("text/x-new"));
    deliver(deliveries);
    assert!(is_idle(&mut source).await);
    // Back again: what is not wanted any more is left alone.
    let prepared = bench.prepare(json!({})).await;
    let mut source = ours(prepared.take_over(Box::new(source)).await.ok().unwrap());
    bench.add("app.err", "unheard\n");
    assert!(is_idle(&mut source).await);
    bench.add("app.log", "heard\n");
    expect(&mut source, &["heard"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_while_reading_repeats_only_what_is_unsettled() {
    let bench = Bench::new();
    bench.add("app.log", "1\n2\n");
    let mut source = bench.start(json!({})).await;
    let mut deliveries = take(&mut source, 2).await;
    let unsettled = deliveries.pop().unwrap();
    deliver(deliveries);
    // What a panic leaves.
    source.known().await;
    source.station = Station::Idle(Box::default());
    bench.add("app.log", "3\n");
    let again = take(&mut source, 2).await;
    assert_eq!(bodies(&again), ["2", "3"]);
    assert_eq!(again[0].message.id(), unsettled.message.id());
    unsettled.acknowledgement.delivered();
    deliver(again);
    kill(source).await;
    let mut source = bench.start(json!({})).await;
    assert!(is_idle(&mut source).await);
}

#[tokio::test(start_paused = true)]
async fn more_files_than_may_be_open_are_followed_in_turn() {
    let bench = Bench::new();
    for n in 0..10 {
        bench.add(&format!("{n}.log"), "begun\n");
    }
    let mut source = bench.start(follow(json!({"max_files": 2}))).await;
    deliver(take(&mut source, 10).await);
    for n in (0..10).rev() {
        bench.add(&format!("{n}.log"), &format!("{n}\n"));
        expect(&mut source, &[&n.to_string()]).await;
    }
    bench.rename("3.log", "3.old");
    bench.add("3.old", "after\n");
    expect(&mut source, &["after"]).await;
}

#[tokio::test(start_paused = true)]
async fn one_source_has_the_checkpoint_and_the_next_takes_it_over() {
    let bench = Bench::new();
    bench.add("app.log", "1\n");
    let mut first = bench.start(json!({})).await;
    let delivery = take(&mut first, 1).await;
    let mut second = bench.start(json!({})).await;
    let error = second.next().await.err().unwrap();
    assert!(error.text.contains("another source holds it"), "{error}");
    deliver(delivery);
    drop(first);
    bench.add("app.log", "2\n");
    expect(&mut second, &["2"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_stops_the_source_and_loses_nothing() {
    let bench = Bench::with_in_flight(2);
    bench.add("app.log", "1\n2\n3\n");
    let mut source = bench.start(json!({})).await;
    let deliveries = take(&mut source, 2).await;
    // What is in the way of the next checkpoint.
    let state = bench.folder.path().join("state");
    let path = source.shared.settings().checkpoint.with_extension("new");
    fs::create_dir(&path).unwrap();
    deliver(deliveries);
    let error = source.next().await.err().unwrap();
    assert!(error.text.contains("cannot be brought to disk"), "{error}");
    fs::remove_dir(&path).unwrap();
    let delivery = loop {
        match source.next().await {
            Ok(delivery) => break delivery.unwrap(),
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    };
    assert_eq!(bodies(&[delivery]), ["3"]);
    assert!(state.is_dir());
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_goes_away_and_comes_back_is_followed_again() {
    let bench = Bench::new();
    bench.add("app.log", "1\n");
    let mut source = bench.start(json!({})).await;
    expect(&mut source, &["1"]).await;
    let away = bench.folder.path().join("away");
    fs::rename(bench.path(""), &away).unwrap();
    let error = loop {
        if let Ok(Err(error)) = tokio::time::timeout(WHILE, source.next()).await {
            break error;
        }
    };
    assert!(error.text.contains("cannot be read"), "{error}");
    fs::rename(&away, bench.path("")).unwrap();
    bench.add("app.log", "2\n");
    expect(&mut source, &["2"]).await;
}

#[test]
fn what_has_no_meaning_is_a_mistake_and_what_clashes_is_said() {
    let bench = Bench::new();
    for (config, expected) in [
        (json!({"done": {"delete": {}}}), "`done` has no meaning with `follow`"),
        (json!({"settle_ms": 5}), "`settle_ms` has no meaning"),
        (json!({"failed": {"directory": "in"}}), "for ever"),
        (follow(json!({"start_at": "now"})), "beginning"),
        (follow(json!({"max_files": 0})), "less than the minimum"),
    ] {
        let mistakes = bench.check(config.clone()).unwrap_err();
        assert!(mistakes.iter().any(|mistake| mistake.contains(expected)), "{config}: {mistakes:#?}");
    }
    let one = bench.check(json!({})).unwrap();
    assert!(one.keeps_rejected() && one.order() == Order::Total);
    let taking = bench.check(json!({"pattern": "app*", "read": {"lines": {}}})).unwrap();
    assert!(one.conflict(&taking).unwrap().contains("move a file away"));
    let other = bench.check(json!({"pattern": "a*"})).unwrap();
    assert!(one.conflict(&other).unwrap().contains("would be a message of both"));
    assert_eq!(one.conflict(&bench.check(json!({"pattern": "*.err"})).unwrap()), None);
    let same = bench.check(json!({"read": {"lines": {}}})).unwrap();
    assert_eq!(one.claims(), same.claims());
    assert_ne!(one.identity(), same.identity());
    let hidden = bench.check(json!({"directory": "hunter2/in"})).unwrap();
    assert!(!hidden.identity().contains(testing::SECRET), "{}", hidden.identity());
}

//! What is no file, and a disk that is full.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::harness::{Running, Scratch, eventually, http};

#[test]
fn what_is_no_plain_file_stays_where_it_is_and_the_others_come() {
    let scratch = Scratch::with_flow(
        "reads",
        "
flow: reads
source: { file: { directory: in, settle_ms: 50, poll_ms: 50 } }
steps:
  - send: { file: { directory: out, name: \"${headers['file-name']}\" } }
",
    );
    scratch.save("elsewhere", "secret");
    fs::create_dir_all(scratch.path("in/folder")).unwrap();
    std::os::unix::fs::symlink(scratch.path("elsewhere"), scratch.path("in/link")).unwrap();
    std::os::unix::fs::symlink("nowhere", scratch.path("in/dangling")).unwrap();
    assert!(Command::new("mkfifo").arg(scratch.path("in/fifo")).status().unwrap().success());
    let running = scratch.run();
    running.is_running("reads");
    // Files that come and go before they have rested.
    for n in 0..20 {
        scratch.save(format!("in/fleeting-{n}"), "gone");
        scratch.remove(format!("in/fleeting-{n}"));
    }
    scratch.save("in/plain", "content");
    eventually("the plain file", || (scratch.names("out") == ["plain"]).then_some(()));
    eventually("it to be done", || (scratch.names("in/done") == ["plain"]).then_some(()));
    assert_eq!(scratch.names("in"), ["dangling", "done", "fifo", "folder", "link"]);
    assert_eq!(running.admin("/health/ready").status, 200);
    assert_eq!(running.metric("gristmill_accepted_total", &[]), 1.0);
}

/// A runtime whose folder `full` is a file system of its own with little room, in a mount namespace of its own.
struct LittleRoom {
    running: Running,
    /// The folder as the runtime sees it.
    full: PathBuf,
}

/// Runs a command with a folder `full` of 256 KiB, if this system lets it mount one.
fn in_little_room(scratch: &Scratch) -> Command {
    fs::create_dir_all(scratch.path("full")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", r#"mount -t tmpfs -o size=256k little full && exec "$0" "$@""#]);
    command.current_dir(scratch.path(""));
    command
}

impl LittleRoom {
    /// `None` where only an administrator may mount: there, what a full disk does is shown by the file adapter's own tests.
    fn start(scratch: &Scratch) -> Option<Self> {
        let may = in_little_room(scratch).arg("true").stderr(Stdio::null()).status();
        if !may.is_ok_and(|status| status.success()) {
            eprintln!("not shown here: this system does not let the test mount a small file system");
            return None;
        }
        let mut command = in_little_room(scratch);
        command.arg(env!("CARGO_BIN_EXE_gristmill")).arg("run");
        let running = Running::start(command);
        let full = PathBuf::from(format!("/proc/{}/root", running.id()));
        let full = full.join(scratch.path("full").strip_prefix("/").unwrap());
        Some(Self { running, full })
    }

    /// Takes all the room that is left, to the last byte.
    fn fill(&self) {
        use std::io::Write;
        let mut filler = fs::File::create(self.full.join("filler")).unwrap();
        while filler.write_all(&[0; 64]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.full.join("filler")).unwrap();
    }

    fn written(&self) -> Vec<String> {
        let text = fs::read_to_string(self.full.join("all")).unwrap_or_default();
        assert!(text.is_empty() || text.ends_with('\n'), "a line is torn");
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn over_a_full_disk_no_sender_is_told_that_its_message_was_taken() {
    let scratch = Scratch::with_flow(
        "keeps",
        "
flow: keeps
source: { http: { listen: 127.0.0.1:0, path: /keeps } }
steps:
  - send: { file: { directory: full, name: all, mode: { append: {} } } }
on_error:
  - match: [any]
    then: { dead_letter: { file: { directory: full/dead } } }
",
    );
    let Some(room) = LittleRoom::start(&scratch) else { return };
    room.running.is_running("keeps");
    let line = |n: usize| format!("{n:04}{}", "x".repeat(2_000));
    let mut connection = http::Connection::open(room.running.address()).unwrap();
    let mut taken = Vec::new();
    let mut send = |n: usize| {
        let answer = connection.ask("POST", "/keeps", &[], line(n).as_bytes()).unwrap();
        match answer.status {
            204 => taken.push(line(n)),
            503 => assert!(answer.header("retry-after").is_some()),
            status => panic!("answered {status}"),
        }
        answer.status
    };
    assert_eq!((0..10).map(&mut send).max(), Some(204));
    room.fill();
    assert!((10..20).map(&mut send).filter(|status| *status == 503).count() > 5);
    room.make_room();
    assert_eq!((20..30).map(&mut send).max(), Some(204), "with room it goes on");
    let written = room.written();
    assert!(taken.iter().all(|line| written.contains(line)), "a message was taken and is not there");
    assert_eq!(written, taken, "nothing is there that was not taken");
    let released = room.running.metric("gristmill_deliveries_total", &["outcome=\"released\""]);
    assert!(released > 5.0, "{released}");
}

#[test]
fn over_a_full_disk_a_file_waits_and_then_arrives_whole() {
    const LINES: usize = 2_000;
    let scratch = Scratch::with_flow(
        "moves",
        "
flow: moves
limits: { release_delay_ms: 20 }
source: { file: { directory: in, settle_ms: 0, read: { lines: {} } } }
steps:
  - send: { file: { directory: full, name: all, mode: { append: {} } } }
",
    );
    fs::create_dir(scratch.path("in")).unwrap();
    let Some(room) = LittleRoom::start(&scratch) else { return };
    room.running.is_running("moves");
    room.fill();
    let content: String = (0..LINES).map(|n| format!("{n:06}{}\n", "x".repeat(50))).collect();
    scratch.save("in/lines", &content);
    room.running.logged(|line| line["class"] == "sink_unavailable");
    assert!(!scratch.path("in/done/lines").exists());
    room.make_room();
    eventually("the file to be done", || scratch.path("in/done/lines").exists().then_some(()));
    let mut written = room.written();
    written.sort();
    assert_eq!(written.len(), LINES, "each line once");
    assert!(written.iter().map(String::as_str).eq(content.lines()));
}

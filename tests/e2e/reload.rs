//! What a save, a broken save, a signal, a removed file and a new configuration do to what runs.

use std::{
    net::{SocketAddr, TcpListener},
    thread,
};

use rustix::process::Signal;

use crate::harness::{
    Running, Scratch, eventually,
    http::{self, Answer, Backend},
    says,
};

/// Answers with a word.
fn answers(word: &str) -> String {
    format!(
        "
flow: greets
source: {{ http: {{ listen: 127.0.0.1:0, path: /greets }} }}
steps:
  - reply: {{ body: {{ text: {word} }} }}
"
    )
}

/// Asks the backend, and answers with a word and what the backend said.
fn asks(backend: &Backend, word: &str, drain_ms: u64) -> String {
    format!(
        "
flow: asks
limits: {{ drain_ms: {drain_ms} }}
source: {{ http: {{ listen: 127.0.0.1:0, path: /asks }} }}
steps:
  - call: {{ http: {{ url: \"{}\" }} }}
  - reply: {{ body: {{ text: \"{word} ${{message.text}}\" }} }}
",
        backend.url()
    )
}

/// A message that is on its way while the test goes on.
fn send_to(running: &Running, path: &'static str) -> thread::JoinHandle<Answer> {
    let address = running.address();
    thread::spawn(move || http::post(address, path, b"{}").unwrap())
}

#[test]
fn a_file_that_gets_another_name_is_told() {
    let scratch = Scratch::with_flow("greets", &answers("one"));
    let running = scratch.run();
    let version = running.is_running("greets");
    let mark = running.mark();
    std::fs::rename(scratch.path("flows/greets.yaml"), scratch.path("flows/welcomes.yaml")).unwrap();
    let told = running.logged_after(mark, |line| says(line, "is now read from here"));
    assert!(says(&told, "flows/welcomes.yaml") && says(&told, "before from flows/greets.yaml"), "{told}");
    assert_eq!((running.is_running("greets"), &told["flow"]), (version, &"greets".into()));
}

#[test]
fn a_broken_save_changes_nothing_and_is_shown_everywhere() {
    let scratch = Scratch::with_flow("greets", &answers("one"));
    let running = scratch.run();
    let version = running.is_running("greets");
    let mark = running.mark();
    scratch.flow("greets", &answers("two").replace("reply", "replay"));
    running.refuses_after(mark, "greets");
    let mistake = running.logged_after(mark, |line| line["code"].is_string());
    assert_eq!((&mistake["level"], &mistake["line"]), (&"ERROR".into(), &5.into()), "{mistake}");
    assert!(says(&mistake, "flows/greets.yaml:5:") && says(&mistake, "`replay`"), "{mistake}");

    let status = running.status("greets");
    assert_eq!(status["version"], version.as_str());
    assert!(status["refused"].as_str().unwrap().contains("`replay`"), "{status}");
    assert_eq!(running.admin("/health/ready").status, 200, "the old version takes messages");
    assert_eq!(running.metric("gristmill_reloads_total", &["flow=\"greets\"", "result=\"refused\""]), 1.0);
    assert_eq!(running.post("/greets", "").text(), "one");

    scratch.flow("greets", &answers("one"));
    running.logged_after(mark, |line| line["flow"] == "greets" && says(line, "no longer refused"));
    assert!(running.status("greets")["refused"].is_null());
    scratch.flow("greets", &answers("two"));
    assert_ne!(running.runs_after(mark, "greets"), version);
    assert!(running.status("greets")["refused"].is_null());
    assert_eq!(running.post("/greets", "").text(), "two");
}

#[test]
fn what_a_version_accepted_it_finishes_and_what_comes_later_is_the_new_ones() {
    let (before, after) = (Backend::new(), Backend::new());
    let scratch = Scratch::with_flow("asks", &asks(&before, "old", 60_000));
    let running = scratch.run();
    running.is_running("asks");
    let first = send_to(&running, "/asks");
    let held = before.next();
    let mark = running.mark();
    scratch.flow("asks", &asks(&after, "new", 60_000));
    running.runs_after(mark, "asks");
    let second = send_to(&running, "/asks");
    after.next().answer("b");
    assert_eq!(second.join().unwrap().text(), "new b");
    held.answer("a");
    assert_eq!(first.join().unwrap().text(), "old a");
}

#[test]
fn what_the_old_version_cannot_finish_in_time_the_new_one_does() {
    let (silent, after) = (Backend::new(), Backend::new());
    let scratch = Scratch::with_flow("asks", &asks(&silent, "old", 50));
    let running = scratch.run();
    running.is_running("asks");
    let sent = send_to(&running, "/asks");
    let _held = silent.next();
    scratch.flow("asks", &asks(&after, "new", 50));
    after.next().answer("b");
    assert_eq!(sent.join().unwrap().text(), "new b");
}

#[test]
fn a_removed_flow_finishes_what_it_has_and_its_neighbour_does_not_notice() {
    let backend = Backend::new();
    let scratch = Scratch::with_flow("asks", &asks(&backend, "kept", 60_000));
    scratch.flow("greets", &answers("here"));
    let running = scratch.run();
    running.is_running("asks");
    running.is_running("greets");
    let sent = send_to(&running, "/asks");
    let held = backend.next();
    scratch.remove("flows/asks.yaml");
    running.logged(|line| line["flow"] == "asks" && says(line, "removed"));
    assert!(!sent.is_finished());
    held.answer("promise");
    assert_eq!(sent.join().unwrap().text(), "kept promise");
    eventually("the route to be gone", || (running.post("/asks", "").status == 404).then_some(()));
    assert_eq!(running.admin("/health/ready?flow=asks").status, 404);
    assert_eq!(running.post("/greets", "").text(), "here");
}

#[test]
fn at_the_drain_limit_of_a_removed_flow_what_is_left_is_released() {
    let silent = Backend::new();
    let scratch = Scratch::with_flow("asks", &asks(&silent, "never", 50));
    let running = scratch.run();
    running.is_running("asks");
    let sent = send_to(&running, "/asks");
    let _held = silent.next();
    scratch.remove("flows/asks.yaml");
    let answer = sent.join().unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
    running.logged(|line| line["flow"] == "asks" && says(line, "drain limit"));
}

#[test]
fn sigterm_answers_what_was_accepted_and_ends_well() {
    let backend = Backend::new();
    let scratch = Scratch::with_flow("asks", &asks(&backend, "kept", 60_000));
    let mut running = scratch.run();
    running.is_running("asks");
    let sent = send_to(&running, "/asks");
    let held = backend.next();
    running.signal(Signal::TERM);
    running.logged(|line| says(line, "stopping:"));
    let ready = running.admin("/health/ready");
    assert_eq!((ready.status, ready.json()["draining"].as_bool()), (503, Some(true)));
    assert!(running.is_alive());
    held.answer("promise");
    assert_eq!(sent.join().unwrap().text(), "kept promise");
    assert_eq!(running.ends().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let silent = Backend::new();
    let scratch = Scratch::with_flow("asks", &asks(&silent, "never", 60_000));
    let mut running = scratch.run();
    running.is_running("asks");
    let _sent = {
        let address = running.address();
        thread::spawn(move || http::post(address, "/asks", b""))
    };
    let _held = silent.next();
    running.signal(Signal::TERM);
    running.logged(|line| says(line, "stopping:"));
    running.signal(Signal::INT);
    assert_eq!(running.ends().code(), Some(1));
}

#[test]
fn sighup_reloads_where_nothing_is_watched() {
    let scratch = Scratch::with_flow("greets", &answers("one"));
    let config = scratch.read("gristmill.yaml").replace("watch: {", "watch: { enabled: false,");
    scratch.save("gristmill.yaml", config);
    let running = scratch.run();
    running.is_running("greets");
    let mark = running.mark();
    scratch.flow("greets", &answers("two"));
    running.signal(Signal::HUP);
    running.runs_after(mark, "greets");
    assert_eq!(running.post("/greets", "").text(), "two");
}

#[test]
fn a_folder_of_flows_that_is_gone_stops_no_flow() {
    let scratch = Scratch::with_flow("greets", &answers("one"));
    let running = scratch.run();
    running.is_running("greets");
    let mark = running.mark();
    std::fs::rename(scratch.path("flows"), scratch.path("swapped")).unwrap();
    running.logged_after(mark, |line| says(line, "nothing was reloaded"));
    let ready = running.admin("/health/ready");
    assert_eq!(ready.status, 200, "what runs is not the worse for it");
    assert!(ready.json()["flows_refused"].as_str().unwrap().contains("cannot read the folder of flows"));
    assert_eq!(running.post("/greets", "").text(), "one");
    std::fs::write(scratch.path("swapped/greets.yaml"), answers("two")).unwrap();
    std::fs::rename(scratch.path("swapped"), scratch.path("flows")).unwrap();
    running.runs_after(mark, "greets");
    assert_eq!(running.post("/greets", "").text(), "two");
    assert!(running.admin("/health/ready").json()["flows_refused"].is_null());
}

#[test]
fn a_flow_file_that_cannot_be_read_any_more_is_no_flow_that_was_removed() {
    let scratch = Scratch::with_flow("greets", &answers("one"));
    let running = scratch.run();
    let version = running.is_running("greets");
    std::os::unix::fs::symlink("nowhere", scratch.path("link")).unwrap();
    std::fs::create_dir(scratch.path("folder")).unwrap();
    for (other, said) in [("link", "link to nowhere"), ("folder", "not a plain file")] {
        let mark = running.mark();
        scratch.exchange("flows/greets.yaml", other);
        running.refuses_after(mark, "greets");
        let mistake = running.logged_after(mark, |line| line["code"] == "unreadable_file");
        assert!(says(&mistake, said), "{mistake}");
        let status = running.status("greets");
        assert_eq!(status["version"], version.as_str());
        assert!(status["refused"].as_str().unwrap().contains(said), "{status}");
        assert_eq!(running.post("/greets", "").text(), "one");
        scratch.exchange("flows/greets.yaml", other);
        eventually("the mistake to be forgotten", || {
            running.status("greets")["refused"].is_null().then_some(())
        });
    }
}

#[test]
fn the_configuration_is_reloaded_too() {
    let scratch = Scratch::with_flow("greets", &answers("one"));
    let running = scratch.run();
    running.is_running("greets");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mark = running.mark();
    let config = scratch.read("gristmill.yaml").replace("127.0.0.1:0", &free.to_string());
    scratch.save("gristmill.yaml", config.replace("level: info", "level: \"info,gristmill=debug\""));
    running.logged_after(mark, |line| says(line, "the configuration was reloaded"));
    assert_eq!(http::get(free, "/health/live").unwrap().status, 200);
    assert!(http::get(running.admin_address(), "/health/live").is_err(), "the old address is given up");
    running.logged_after(mark, |line| line["level"] == "DEBUG");
    assert_eq!(running.post("/greets", "").text(), "one");
}

#[test]
fn a_configuration_with_mistakes_changes_nothing_and_is_shown() {
    let scratch = Scratch::with_flow("greets", &answers("one"));
    let running = scratch.run();
    running.is_running("greets");
    let good = scratch.read("gristmill.yaml");
    for (bad, said) in [
        (good.replace("debounce_ms", "debounce"), "did you mean `debounce_ms`"),
        (good.replace("level: info", "level: [loud]"), "gristmill.yaml:3:"),
        (format!("{good}state: elsewhere\n"), "`state` needs a restart"),
    ] {
        let mark = running.mark();
        scratch.save("gristmill.yaml", bad);
        let refused = running.logged_after(mark, |line| says(line, said));
        assert_eq!(refused["level"], "ERROR", "{refused}");
        assert_eq!(running.post("/greets", "").text(), "one");
    }
    assert_eq!(running.metric("gristmill_config_reloads_total", &["result=\"refused\""]), 3.0);
    let ready = running.admin("/health/ready");
    assert_eq!(ready.status, 200, "what runs is not the worse for it");
    assert!(ready.json()["configuration_refused"].as_str().unwrap().contains("`state`"));
    let mark = running.mark();
    scratch.save("gristmill.yaml", good.replace("poll_ms: 100", "poll_ms: 101"));
    running.logged_after(mark, |line| says(line, "the configuration was reloaded"));
    eventually("the mistake to be forgotten", || {
        running.admin("/health/ready").json()["configuration_refused"].is_null().then_some(())
    });
}

#[test]
fn a_configuration_that_appears_is_taken_over_and_one_that_disappears_is_missed() {
    let scratch = Scratch::with_flow("greets", &answers("one"));
    scratch.remove("gristmill.yaml");
    let mut command = scratch.command();
    command.args(["run", "--admin", "127.0.0.1:0"]);
    let running = Running::start(command);
    running.is_running("greets");
    let refused = || running.admin("/health/ready").json()["configuration_refused"].take();
    assert!(refused().is_null());

    scratch.save("other/greets.yaml", answers("two"));
    let config = "flows: other\nwatch: { debounce_ms: 10, poll_ms: 100 }\n";
    let mark = running.mark();
    scratch.save("gristmill.yaml", config);
    running.logged_after(mark, |line| says(line, "the configuration was reloaded"));
    running.runs_after(mark, "greets");
    assert_eq!(running.post("/greets", "").text(), "two");

    let mark = running.mark();
    scratch.remove("gristmill.yaml");
    running.logged_after(mark, |line| says(line, "gristmill.yaml is gone"));
    assert!(refused().as_str().unwrap().contains("gristmill.yaml is gone"));
    assert_eq!(running.post("/greets", "").text(), "two", "the settings that ran go on");

    let mark = running.mark();
    scratch.save("gristmill.yaml", config);
    running.logged_after(mark, |line| says(line, "again the one that runs"));
    assert!(refused().is_null());

    let mark = running.mark();
    scratch.save("gristmill.yaml", "# all defaults\n");
    running.logged_after(mark, |line| says(line, "the configuration was reloaded"));
    running.runs_after(mark, "greets");
    assert_eq!(running.post("/greets", "").text(), "one");
}

#[test]
fn a_configuration_is_taken_over_whole_or_not_at_all() {
    let scratch = Scratch::with_flow("greets", &answers("one"));
    let running = scratch.run();
    running.is_running("greets");
    let good = scratch.read("gristmill.yaml");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listening = |address: SocketAddr| good.replace("127.0.0.1:0", &address.to_string());
    let everywhere = SocketAddr::from(([0, 0, 0, 0], running.admin_address().port()));
    for (bad, said) in [
        (format!("{}flows: nope\n", listening(free)), "cannot read the folder of flows nope"),
        (listening(taken.local_addr().unwrap()), "a flow of this runtime or another process listens on it"),
        (listening(everywhere), "this runtime's own admin listener has that port"),
    ] {
        let mark = running.mark();
        scratch.save("gristmill.yaml", bad.replace("level: info", "level: debug"));
        running.logged_after(mark, |line| says(line, "the configuration was refused") && says(line, said));
        // Asked of the old listener: nothing has moved.
        let ready = running.admin("/health/ready");
        assert_eq!(ready.status, 200);
        assert!(ready.json()["configuration_refused"].as_str().unwrap().contains(said));
        assert!(http::get(free, "/health/live").is_err());
        assert_eq!(running.post("/greets", "").text(), "one");
    }
    assert_eq!(running.count(|line| line["level"] == "DEBUG" || says(line, "has moved")), 0);
    // What was in the way is gone, and the configuration is the same.
    let mark = running.mark();
    scratch.save("gristmill.yaml", listening(taken.local_addr().unwrap()));
    running.logged_after(mark, |line| says(line, "the configuration was refused"));
    let address = taken.local_addr().unwrap();
    drop(taken);
    running.logged_after(mark, |line| says(line, "the configuration was reloaded"));
    assert_eq!(http::get(address, "/health/ready").unwrap().status, 200);
}

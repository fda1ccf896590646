//! What a save, a broken save, a signal, a removed file and a new configuration do to what runs.

use std::{net::TcpListener, thread};

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
    assert_eq!(running.post("/greets", "").text(), "one");
    std::fs::write(scratch.path("swapped/greets.yaml"), answers("two")).unwrap();
    std::fs::rename(scratch.path("swapped"), scratch.path("flows")).unwrap();
    running.runs_after(mark, "greets");
    assert_eq!(running.post("/greets", "").text(), "two");
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

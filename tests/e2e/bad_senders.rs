//! Senders that send what does not fit, too much, too slowly, or go away.

use std::io::ErrorKind;

use crate::harness::{
    Running, Scratch, eventually,
    http::{Backend, Connection},
};

const ECHO: &str = "
flow: echo
source: { http: { listen: 127.0.0.1:0, path: /echo, read_timeout_ms: 300, listener: { header_read_timeout_ms: 300 } } }
steps:
  - reply: { body: { expression: message.text } }
";

fn echo() -> (Scratch, Running) {
    let scratch = Scratch::with_flow("echo", ECHO);
    let running = scratch.run();
    running.is_running("echo");
    (scratch, running)
}

fn assert_echoes(running: &Running) {
    assert_eq!(running.post("/echo", "hello").text(), "hello");
}

#[test]
fn a_body_that_is_no_json_is_told_apart_and_tells_the_sender_nothing() {
    let flow = |name: &str, on_error: &str| {
        format!(
            "
flow: {name}
source: {{ http: {{ listen: 127.0.0.1:0, path: /{name} }} }}
steps:
  - choice:
      - when: body.total > 100
        steps:
          - reply: {{ status: 201 }}
      - otherwise:
          - reply: {{ status: 200 }}
{on_error}"
        )
    };
    let scratch = Scratch::with_flow("plain", &flow("plain", ""));
    let keeps = "on_error: [{ match: [body_format], then: { dead_letter: { file: { directory: dead } } } }]";
    scratch.flow("keeps", &flow("keeps", keeps));
    let running = scratch.run();
    running.is_running("plain");
    running.is_running("keeps");
    for body in ["no json", "", "{\"total\": 1", "\u{feff}[", "[[[[[["] {
        let answer = running.post("/plain", body);
        assert_eq!(answer.status, 422, "{body}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let text = answer.text();
        assert!(
            !text.contains("steps") && !text.contains("body.total") && !text.contains("expected"),
            "{text}"
        );
        assert_eq!(running.post("/keeps", body).status, 202);
    }
    assert!(scratch.letters("dead").iter().all(|letter| letter["error"]["class"] == "body_format"));
    assert_eq!(scratch.letters("dead").len(), 5);
    assert_eq!(running.post("/plain", r#"{"total": 101}"#).status, 201);
}

#[test]
fn a_gigabyte_is_refused_and_never_held() {
    const GIGABYTE: usize = 1 << 30;
    // With the default time to read a body: what is refused here is its size.
    let scratch = Scratch::with_flow("echo", &ECHO.replace("read_timeout_ms: 300, ", ""));
    let running = scratch.run();
    running.is_running("echo");
    assert_echoes(&running);
    let before = running.most_memory();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = Connection::open(running.address()).unwrap();
                let head = format!("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: {GIGABYTE}\r\n\r\n");
                connection.send(head.as_bytes()).unwrap();
                assert_eq!(connection.answer().unwrap().status, 413, "before a byte of it was sent");
            });
            scope.spawn(|| {
                let mut connection = Connection::open(running.address()).unwrap();
                connection
                    .send(b"POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n")
                    .unwrap();
                let mut chunk = b"10000\r\n".to_vec();
                chunk.resize(chunk.len() + 0x1_0000, b'x');
                chunk.extend_from_slice(b"\r\n");
                for _ in 0..GIGABYTE / 0x1_0000 {
                    if connection.send(&chunk).is_err() {
                        break;
                    }
                }
                match connection.answer() {
                    Ok(answer) => assert_eq!(answer.status, 413),
                    // Who does not stop sending may lose the answer on the way.
                    Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
                }
            });
        }
    });
    let grown = running.most_memory() - before;
    // Four bodies of the limit (8 MiB) at once, twice while each is put together, and what the allocator keeps.
    assert!(grown < 100 << 20, "grown by {grown} bytes");
    assert_echoes(&running);
    assert_eq!(running.metric("gristmill_accepted_total", &["flow=\"echo\""]), 2.0);
}

#[test]
fn slow_senders_hold_up_no_one() {
    const SLOW: usize = 100;
    let (_scratch, running) = echo();
    let half_heads = "POST /echo HTTP/1.1\r\nhost: te";
    let half_bodies = "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\nhalf";
    let mut slow: Vec<(Connection, bool)> = (0..SLOW)
        .map(|n| {
            let mut connection = Connection::open(running.address()).unwrap();
            let in_the_body = n % 2 == 0;
            connection.send(if in_the_body { half_bodies } else { half_heads }.as_bytes()).unwrap();
            (connection, in_the_body)
        })
        .collect();
    for _ in 0..20 {
        assert_echoes(&running);
    }
    for (connection, in_the_body) in &mut slow {
        match (connection.answer(), *in_the_body) {
            (Ok(answer), true) => assert_eq!(answer.status, 408),
            (Err(error), false) => {
                assert!(
                    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
                    "{error}"
                );
            }
            (other, _) => panic!("{other:?}"),
        }
    }
    assert_echoes(&running);
}

#[test]
fn senders_that_go_away_leave_no_half_message_and_cancel_no_whole_one() {
    let backend = Backend::new();
    let flow = format!(
        "
flow: asks
source: {{ http: {{ listen: 127.0.0.1:0, path: /asks }} }}
steps:
  - send: {{ http: {{ url: \"{}\" }} }}
  - send: {{ file: {{ directory: out, name: all, mode: {{ append: {{}} }} }} }}
",
        backend.url()
    );
    let scratch = Scratch::with_flow("asks", &flow);
    let running = scratch.run();
    running.is_running("asks");
    for _ in 0..20 {
        let mut half = Connection::open(running.address()).unwrap();
        half.send(b"POST /asks HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nhalf").unwrap();
    }
    let mut whole = Connection::open(running.address()).unwrap();
    whole.send(b"POST /asks HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nwhole").unwrap();
    let held = backend.next();
    drop(whole);
    held.answer("");
    eventually("the whole message", || (scratch.read("out/all") == "whole\n").then_some(()));
    eventually("its settlement", || (running.metric("gristmill_in_flight", &[]) == 0.0).then_some(()));
    assert_eq!(running.metric("gristmill_accepted_total", &[]), 1.0);
    assert_eq!(running.metric("gristmill_deliveries_total", &["outcome=\"delivered\""]), 1.0);
}

//! Messages that RabbitMQ takes and no client library would write: none harms the process, its connection, or other messages.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use gristmill_brokers::rabbitmq::RabbitMq;
use lapin::BasicProperties;
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::support::{Bench, Outside, body, next, unique};

/// A publisher that writes its frames by hand.
struct Raw(TcpStream);

impl Raw {
    fn connect(url: &str) -> Self {
        let mut raw = Self(TcpStream::connect(url.trim_start_matches("amqp://")).unwrap());
        raw.0.write_all(b"AMQP\0\0\x09\x01").unwrap();
        raw.answer();
        raw.ask(0, &[0, 10, 0, 11], b"\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US");
        // Tune-ok: 2,047 channels, frames of 128 KiB, no heartbeat. Then open.
        raw.write(1, 0, b"\0\x0a\0\x1f\x07\xff\0\x02\0\0\0\0");
        raw.ask(0, &[0, 10, 0, 40], b"\x01/\0\0");
        raw.ask(1, &[0, 20, 0, 10], b"\0");
        raw.ask(1, &[0, 85, 0, 10], b"\0");
        raw
    }

    fn write(&mut self, kind: u8, channel: u8, payload: &[u8]) {
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        self.0.write_all(&[&[kind, 0, channel][..], &size, payload, &[0xce]].concat()).unwrap();
    }

    fn ask(&mut self, channel: u8, method: &[u8], arguments: &[u8]) -> Vec<u8> {
        self.write(1, channel, &[method, arguments].concat());
        self.answer()
    }

    fn answer(&mut self) -> Vec<u8> {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).unwrap();
        let mut payload =
            vec![0; usize::try_from(u32::from_be_bytes(head[3..].try_into().unwrap())).unwrap() + 1];
        self.0.read_exact(&mut payload).unwrap();
        assert!(
            !matches!(payload[..4], [0, 10, 0, 50] | [0, 20, 0, 40]),
            "{}",
            String::from_utf8_lossy(&payload)
        );
        payload
    }

    /// Publishes with these headers, and waits for the confirmation.
    fn publish(&mut self, exchange: &str, key: &[u8], headers: &[u8]) {
        let short = |text: &[u8]| [&[u8::try_from(text.len()).unwrap()], text].concat();
        let arguments = [&[0, 60, 0, 40, 0, 0][..], &short(exchange.as_bytes()), &short(key), &[0]].concat();
        self.write(1, 1, &arguments);
        let size = u32::try_from(headers.len()).unwrap().to_be_bytes();
        self.write(2, 1, &[&b"\0\x3c\0\0\0\0\0\0\0\0\0\x03\x20\x00"[..], &size, headers].concat());
        self.write(3, 1, b"bad");
        assert_eq!(self.answer()[..4], [0, 60, 0, 80]);
    }
}

/// An entry `x` of arrays that are nested so deep.
fn nested(depth: usize) -> Vec<u8> {
    let mut value = b"t\x01".to_vec();
    for _ in 0..depth {
        value = [&b"A"[..], &u32::try_from(value.len()).unwrap().to_be_bytes(), &value].concat();
    }
    [b"\x01x", &value[..]].concat()
}

#[tokio::test]
async fn headers_that_are_no_text_or_nest_without_end_are_taken() {
    let url = RabbitMq::shared().url();
    let (mut bench, outside, queue) = (Bench::new(url), Outside::new(url).await, unique("hostile"));
    bench.limits.header_bytes = 1 << 20;
    let binding = json!({"exchange": "amq.topic", "routing_key": format!("{queue}.#")});
    let config = json!({"connection": "rabbit", "queue": queue, "declare": {}, "bindings": [binding]});
    let mut source = bench.start(&config).await.unwrap();
    let key = [queue.as_bytes(), b".\xff"].concat();
    let name = queue.clone();
    spawn_blocking(move || {
        let mut raw = Raw::connect(RabbitMq::shared().url());
        raw.publish("", name.as_bytes(), &nested(20_000));
        raw.publish("", name.as_bytes(), b"\x02\xc3xS\0\0\0\x01v");
        raw.publish("amq.topic", &key, b"");
    })
    .await
    .unwrap();
    outside.publish(&queue, b"good", BasicProperties::default()).await;

    let deep = next(&mut *source).await;
    assert!(deep.message.headers().get("x").unwrap().starts_with("[[["));
    let named = next(&mut *source).await;
    assert_eq!(named.message.headers().get("?x"), Some("v"));
    let routed = next(&mut *source).await;
    assert_eq!(routed.message.headers().get("amqp-routing-key"), Some(format!("{queue}.?").as_str()));
    let good = next(&mut *source).await;
    assert_eq!((body(&good).as_str(), good.redelivered), ("good", false));
    for delivery in [deep, named, routed, good] {
        assert!(!delivery.redelivered);
        delivery.acknowledgement.delivered();
    }
}

//! Guests out of Wasm text: a core module in the contract's layout, with its component type embedded, which is what a
//! plugin for `wasm32-unknown-unknown` looks like.
//!
//! Memory: the answer at 64 (zero means: no change), the description at 256, texts from 512, the heap from 64 KiB.
//! An answer of `transform` is `result<outcome, failure>`: result at 0, outcome or failure at 4, its payload from 8; a change
//! is three lists: headers to set (8), headers to remove (16), and the optional body (24: whether, 28: where, 32: length).
//!
//! A package of its own, because the tests of the plugin host and those of the binary both need hostile guests, and neither
//! should need a compiler for Wasm.
#![allow(
    clippy::unwrap_used,
    reason = "only tests call this, and a guest whose text is wrong is a test that is wrong"
)]

use std::fmt::Write;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const CONTRACT: &str = include_str!("../../../plugin-sdk/wit/plugin.wit");

/// As much of WASI 0.2 as the guests here use, of a version that is not the host's.
const WASI: &str = "
package wasi:io@0.2.3 {
  interface error { resource error; }
  interface poll { resource pollable { block: func(); } }
  interface streams {
    use error.{error};
    variant stream-error { last-operation-failed(error), closed }
    resource output-stream { blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>; }
  }
}
package wasi:clocks@0.2.3 {
  interface monotonic-clock {
    use wasi:io/poll@0.2.3.{pollable};
    now: func() -> u64;
    subscribe-duration: func(when: u64) -> pollable;
  }
  interface wall-clock { record datetime { seconds: u64, nanoseconds: u32 } now: func() -> datetime; }
}
package wasi:random@0.2.3 { interface random { get-random-u64: func() -> u64; } }
package wasi:cli@0.2.3 {
  interface stderr { use wasi:io/streams@0.2.3.{output-stream}; get-stderr: func() -> output-stream; }
  interface exit { exit: func(status: result); }
}
package other:host@1.0.0 {
  interface types { record thing { a: u32 } }
  interface calls { call: func(); }
}
";

/// A guest in the making.
#[derive(Debug, Clone)]
pub struct Guest {
    /// `transformer` or `router`.
    pub world: &'static str,
    /// What it says it is called.
    pub name: String,
    /// Its own version.
    pub version: &'static str,
    /// JSON Schema of its configuration.
    pub schema: &'static str,
    /// As the contract's variant: 0 none, 1 listed, 2 all.
    pub wants: (u8, Vec<&'static str>),
    /// Whether the body is passed in.
    pub wants_body: bool,
    /// Imports of the world, in WIT.
    pub wit: &'static str,
    /// Imports of the core module, in text.
    pub imports: &'static str,
    /// Functions and globals of its own.
    pub items: &'static str,
    /// Bodies of the exports, in text. `$id $id_len $headers $headers_len $body $body_len` are the message.
    pub describe: &'static str,
    /// The same, of `configure`: `$config $config_len` are the configuration.
    pub configure: &'static str,
    /// The same, of `transform` or `route`.
    pub entry: &'static str,
    /// Pages of memory at the start.
    pub pages: u32,
}

/// A transformer that changes nothing.
pub fn transformer() -> Guest {
    Guest {
        world: "transformer",
        name: "guest".into(),
        version: "1.0.0",
        schema: r#"{"type":"object","additionalProperties":false}"#,
        wants: (0, vec![]),
        wants_body: true,
        wit: "",
        imports: "",
        items: "",
        describe: "(i32.const 256)",
        configure: "(i32.const 64)",
        entry: "(i32.const 64)",
        pages: 2,
    }
}

/// A router that names no route.
pub fn router() -> Guest {
    Guest { world: "router", ..transformer() }
}

impl Guest {
    /// As a core module that carries its component type.
    pub fn module(&self) -> Vec<u8> {
        let mut resolve = Resolve::default();
        resolve.push_str("plugin.wit", CONTRACT).unwrap();
        let wit = format!(
            "package test:guest;\nworld guest {{ include gristmill:plugin/{}@0.1.0; {} }}\n{WASI}",
            self.world, self.wit
        );
        let package = resolve.push_str("guest.wit", &wit).unwrap();
        let world = resolve.select_world(&[package], Some("guest")).unwrap();
        let mut module = wat::parse_str(self.text()).unwrap();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
        module
    }

    /// As a component.
    pub fn component(&self) -> Vec<u8> {
        ComponentEncoder::default().module(&self.module()).unwrap().validate(true).encode().unwrap()
    }

    fn text(&self) -> String {
        let mut texts = Vec::new();
        let mut place = |text: &str| {
            let at = 512 + u32::try_from(texts.len()).unwrap();
            texts.extend_from_slice(text.as_bytes());
            [at, u32::try_from(text.len()).unwrap()]
        };
        let mut description = Vec::new();
        for text in [&self.name, self.version, "A guest of the tests.", self.schema] {
            description.extend(place(text));
        }
        let listed: Vec<u32> = self.wants.1.iter().flat_map(|name| place(name)).collect();
        let lists_at = 512 + u32::try_from(texts.len().next_multiple_of(4)).unwrap();
        description.extend([
            u32::from(self.wants.0),
            lists_at,
            u32::try_from(self.wants.1.len()).unwrap(),
            u32::from(self.wants_body),
        ]);
        let words = |words: &[u32]| -> String {
            let bytes = words.iter().flat_map(|w| w.to_le_bytes());
            bytes.fold(String::new(), |mut text, byte| {
                write!(text, "\\{byte:02x}").unwrap();
                text
            })
        };
        let texts = texts.iter().fold(String::new(), |mut text, byte| {
            write!(text, "\\{byte:02x}").unwrap();
            text
        });
        let Self { imports, items, describe, configure, entry, pages, .. } = self;
        let export = if self.world == "router" { "route" } else { "transform" };
        format!(
            r#"(module
  {imports}
  (memory (export "memory") {pages})
  (data (i32.const 256) "{description}")
  (data (i32.const 512) "{texts}")
  (data (i32.const {lists_at}) "{listed}")
  (global $heap (mut i32) (i32.const 65536))
  (func $allocate (export "cabi_realloc") (param $old i32) (param $old_len i32) (param $align i32) (param $len i32)
    (result i32) (local $at i32)
    ;; to a multiple of eight, and as many pages more as are missing
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get $len)))
    (block $enough
      (br_if $enough (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
      (br_if $enough (i32.ne (i32.const -1) (memory.grow (i32.add (i32.const 1)
        (i32.shr_u (i32.sub (global.get $heap) (i32.mul (memory.size) (i32.const 65536))) (i32.const 16))))))
      unreachable)
    (local.get $at))
  {items}
  (func (export "describe") (result i32) {describe})
  (func (export "configure") (param $config i32) (param $config_len i32) (result i32) {configure})
  (func $entry (export "{export}") (param $id i32) (param $id_len i32) (param $headers i32) (param $headers_len i32)
    (param $body i32) (param $body_len i32) (result i32) {entry})
  (func (export "cabi_post_{export}") (param i32)
    (global.set $heap (i32.const 65536))
    (memory.fill (i32.const 64) (i32.const 0) (i32.const 64)))
)"#,
            description = words(&description),
            listed = words(&listed),
        )
    }
}

//! The plugins of the bench, out of Wasm text: one that is good, in two versions, and what can be wrong with one.

use gristmill_guests::{Guest, router, transformer};

/// What stands in the plugin's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// Puts its mark before the body.
    First,
    /// The same, with another mark.
    Second,
    /// Traps on every message.
    Traps,
    /// Never comes back.
    Loops,
    /// The first version, after some 50 ms of work.
    Slow,
    /// The first version, but each instance traps on its seventh message.
    Flaky,
}

/// Puts the mark of a version before the body.
fn mark(digit: char) -> String {
    format!(
        "(local.set $out (call $allocate (i32.const 0) (i32.const 0) (i32.const 1)
            (i32.add (local.get $body_len) (i32.const 2))))
        (i32.store8 (local.get $out) (i32.const {}))
        (i32.store8 offset=1 (local.get $out) (i32.const 58))
        (memory.copy (i32.add (local.get $out) (i32.const 2)) (local.get $body) (local.get $body_len))
        (i32.store8 (i32.const 88) (i32.const 1))
        (i32.store (i32.const 92) (local.get $out))
        (i32.store (i32.const 96) (i32.add (local.get $body_len) (i32.const 2)))
        (i32.const 64)",
        u32::from(digit)
    )
}

impl Plugin {
    /// Its file.
    pub fn wasm(self) -> Vec<u8> {
        let locals = "(local $out i32) (local $left i32)";
        let (items, entry) = match self {
            Self::First => ("", format!("{locals} {}", mark('1'))),
            Self::Second => ("", format!("{locals} {}", mark('2'))),
            Self::Traps => ("", "unreachable".to_owned()),
            Self::Loops => ("", "(loop $again (br $again)) (i32.const 64)".to_owned()),
            Self::Slow => {
                let work = "(local.set $left (i32.const 50000000))
                    (loop $again (br_if $again
                        (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))";
                ("", format!("{locals} {work} {}", mark('1')))
            }
            Self::Flaky => {
                let count = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
                    (if (i32.eq (global.get $calls) (i32.const 7)) (then unreachable))";
                ("(global $calls (mut i32) (i32.const 0))", format!("{locals} {count} {}", mark('1')))
            }
        };
        // The guests' texts are static; a bench has a handful of them.
        Guest { name: "mark".into(), items, entry: entry.leak(), ..transformer() }.module()
    }
}

/// A router that names both branches, `left` and `right`, for every message.
pub fn both() -> Vec<u8> {
    let items = r#"(data (i32.const 128) "left") (data (i32.const 136) "right")
        (data (i32.const 144) "\80\00\00\00\04\00\00\00\88\00\00\00\05\00\00\00")"#;
    let entry =
        "(i32.store (i32.const 68) (i32.const 144)) (i32.store (i32.const 72) (i32.const 2)) (i32.const 64)";
    Guest { name: "both".into(), items, entry, ..router() }.module()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_them_are_wasm() {
        use Plugin::{First, Flaky, Loops, Second, Slow, Traps};
        for plugin in [First, Second, Traps, Loops, Slow, Flaky] {
            assert!(plugin.wasm().starts_with(b"\0asm"));
        }
        assert!(both().starts_with(b"\0asm"));
    }
}

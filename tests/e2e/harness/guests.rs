//! The plugins that several tests use.

use gristmill_guests::{Guest, transformer};

/// Sets the header `x-plugin` to a word of at most 16 letters.
pub(crate) fn stamp(word: &str) -> Guest {
    assert!(word.len() <= 16, "the layout has room for 16 letters");
    let items = format!(r#"(data (i32.const 40) "x-plugin") (data (i32.const 48) "{word}")"#);
    let entry = format!(
        "(i32.store (i32.const 16) (i32.const 40)) (i32.store (i32.const 20) (i32.const 8))
        (i32.store (i32.const 24) (i32.const 48)) (i32.store (i32.const 28) (i32.const {}))
        (i32.store (i32.const 72) (i32.const 16)) (i32.store (i32.const 76) (i32.const 1)) (i32.const 64)",
        word.len()
    );
    Guest { name: "stamp".into(), items: items.leak(), entry: entry.leak(), ..transformer() }
}

/// A transformer whose `transform` is this text.
pub(crate) fn entry(entry: &'static str) -> Guest {
    Guest { entry, ..transformer() }
}

/// Traps on everything.
pub(crate) fn traps() -> Guest {
    entry("unreachable")
}

/// Changes nothing, but traps on a body that begins with `x`.
pub(crate) fn traps_on_x() -> Guest {
    entry("(if (i32.eq (i32.load8_u (local.get $body)) (i32.const 120)) (then unreachable)) (i32.const 64)")
}

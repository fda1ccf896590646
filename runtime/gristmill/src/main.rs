//! The `gristmill` binary.
fn main() {}

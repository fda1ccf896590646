//! Lines for whoever typed a command.

/// A line on standard output. That its reader has gone (`gristmill schema | head`) is no fault of ours.
macro_rules! say {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _reader_is_gone = writeln!(std::io::stdout(), $($line)*);
    }};
}

//! A body as one line.

use bytes::Bytes;
use gristmill_core::{ErrorClass, Failure};

use crate::config::Newline;

/// The body as a line, without the line break at its end.
///
/// # Errors
/// When it holds a line break, and those are to be rejected.
pub(crate) fn line_of(body: &Bytes, newline: Newline) -> Result<Bytes, Failure> {
    let content = body.strip_suffix(b"\n").map_or(&body[..], |c| c.strip_suffix(b"\r").unwrap_or(c));
    let plain = match newline {
        Newline::Reject | Newline::Space => memchr::memchr(b'\n', content).is_none(),
        Newline::Escape => memchr::memchr3(b'\n', b'\r', b'\\', content).is_none(),
    };
    if plain {
        return Ok(body.slice(..content.len()));
    }
    match newline {
        Newline::Reject => Err(Failure::new(
            ErrorClass::SinkRejected,
            "file sink: the body holds line breaks, and each message is to be one line: set `newline: space` for JSON, \
             `newline: escape` for text",
        )),
        Newline::Space => Ok(spaced(content)),
        Newline::Escape => Ok(escaped(content)),
    }
}

fn spaced(content: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(content.len());
    let mut in_break = false;
    for byte in content {
        let breaks = matches!(byte, b'\n' | b'\r');
        if !breaks {
            line.push(*byte);
        } else if !in_break {
            line.push(b' ');
        }
        in_break = breaks;
    }
    line.into()
}

fn escaped(content: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(content.len() + 16);
    for byte in content {
        match byte {
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\\' => line.extend_from_slice(b"\\\\"),
            other => line.push(*other),
        }
    }
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_line_break() {
        let of = |body: &'static str, newline| {
            line_of(&Bytes::from_static(body.as_bytes()), newline)
                .map(|l| String::from_utf8(l.into()).unwrap())
        };
        for newline in [Newline::Reject, Newline::Space] {
            assert_eq!(of("a\\b\r\n", newline).unwrap(), "a\\b");
            assert_eq!(of("a\n", newline).unwrap(), "a");
            assert_eq!(of("", newline).unwrap(), "");
        }
        assert!(!of("a\nb", Newline::Reject).unwrap_err().is_retryable());
        assert!(of("a\n\n", Newline::Reject).is_err());
        assert_eq!(of("{\r\n  \"a\": 1\n}\n", Newline::Space).unwrap(), "{   \"a\": 1 }");
        assert_eq!(of("a\\b\nc\rd\n", Newline::Escape).unwrap(), "a\\\\b\\nc\\rd");
    }
}

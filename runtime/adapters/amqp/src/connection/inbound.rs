//! What a broker sends, before the client library reads it.
//!
//! A broker hands on what others have published, and does not look at everything. The library does: it reads tables by
//! recursion, so that one that nests some thousand times (which fits in a frame) overflows its stack and ends the process, and
//! it gives up the connection for a short string that is not UTF-8. Either message would come again with the next connection,
//! for ever. So both are mended here, in place, for nothing changes its length:
//!
//! - a table or an array that is deeper than [`MAX_NESTING`] becomes a long string with its bytes;
//! - in a short string that is not UTF-8 each byte that is not ASCII becomes `?`.
//!
//! Frames with methods and headers are held until they are complete; bodies pass as they come.

use bytes::{Buf as _, BytesMut};

/// How deep tables and arrays may nest. The headers of a message are the first level.
const MAX_NESTING: usize = 32;

/// The largest frame that is held, in bytes. RabbitMQ's are 128 KiB unless it is told otherwise.
const MAX_HELD_BYTES: usize = 16 * 1024 * 1024;

/// Type, channel and size, before the payload (AMQP 0-9-1, section 4.2.3).
const FRAME_HEAD_BYTES: usize = 7;

/// `basic.deliver`: class and method (AMQP 0-9-1, section 1.8.3.9).
const DELIVER: [u8; 4] = [0, 60, 0, 60];

/// What stands for a byte that is not ASCII.
const UNKNOWN: u8 = b'?';

/// Bytes from a broker, of which the first may be read.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    bytes: BytesMut,
    /// How many of them may be read.
    ready: usize,
    /// How many of the frame that passes as it comes have not come yet.
    passing: usize,
}

/// A frame that is larger than any that was agreed on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge(usize);

// === impl Inbound ===

impl Inbound {
    /// Where bytes from the broker go, behind those of before. Then [`Self::came`] is called.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// Looks at what has come.
    ///
    /// # Errors
    /// It is no frame of this connection.
    pub(crate) fn came(&mut self) -> Result<(), TooLarge> {
        loop {
            let unread = self.bytes.len() - self.ready;
            let passes = self.passing.min(unread);
            self.ready += passes;
            self.passing -= passes;
            let Some(rest) = self.bytes.get_mut(self.ready..) else { return Ok(()) };
            let Some(([kind, _, _, size @ ..], _)) = rest.split_first_chunk::<FRAME_HEAD_BYTES>() else {
                return Ok(());
            };
            let (kind, size) = (*kind, usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX));
            // With the octet at the end.
            let whole = size.saturating_add(FRAME_HEAD_BYTES + 1);
            if !matches!(kind, 1 | 2) {
                self.passing = whole;
                continue;
            }
            if size > MAX_HELD_BYTES {
                return Err(TooLarge(size));
            }
            let Some(payload) = rest.get_mut(..whole).and_then(|it| it.get_mut(FRAME_HEAD_BYTES..whole - 1))
            else {
                return Ok(());
            };
            // What ends before it should is for the library to refuse.
            let _malformed = if kind == 1 { mend_method(payload) } else { mend_header(payload) };
            self.ready += whole;
        }
    }

    /// Moves what may be read into `to`. Gives how much that was.
    pub(crate) fn read(&mut self, to: &mut [u8]) -> usize {
        let count = self.ready.min(to.len());
        if let (Some(to), Some(from)) = (to.get_mut(..count), self.bytes.get(..count)) {
            to.copy_from_slice(from);
        }
        self.bytes.advance(count);
        self.ready -= count;
        count
    }
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a frame of {} bytes came, and {MAX_HELD_BYTES} are the most; is this AMQP?", self.0)
    }
}

/// Of the methods with which a broker hands on what others wrote, the one that is used.
fn mend_method(payload: &mut [u8]) -> Option<()> {
    let (method, mut rest) = payload.split_first_chunk_mut::<4>()?;
    if *method != DELIVER {
        return Some(());
    }
    short_string(&mut rest)?;
    // Delivery tag and redelivered flag.
    take(&mut rest, 8 + 1)?;
    short_string(&mut rest)?;
    short_string(&mut rest)
}

/// A content header (AMQP 0-9-1, section 4.2.6.1).
fn mend_header(payload: &mut [u8]) -> Option<()> {
    let mut rest = payload;
    // Class, weight and body size.
    take(&mut rest, 2 + 2 + 8)?;
    let flags = u16::from_be_bytes(take(&mut rest, 2)?.try_into().ok()?);
    let has = |property: u16| flags & (1 << (15 - property)) != 0;
    // In the order of section 1.8.3: 0 content type, 1 content encoding, 2 headers, 3 delivery mode, 4 priority, 5 to 8 texts,
    // 9 timestamp, 10 to 13 texts.
    for property in 0..14 {
        if !has(property) {
            continue;
        }
        match property {
            2 => {
                let size = long(&mut rest)?;
                table(take(&mut rest, size)?, 1)?;
            }
            3 | 4 => drop(take(&mut rest, 1)?),
            9 => drop(take(&mut rest, 8)?),
            _ => short_string(&mut rest)?,
        }
    }
    Some(())
}

fn table(mut entries: &mut [u8], depth: usize) -> Option<()> {
    while !entries.is_empty() {
        short_string(&mut entries)?;
        value(&mut entries, depth)?;
    }
    Some(())
}

fn array(mut items: &mut [u8], depth: usize) -> Option<()> {
    while !items.is_empty() {
        value(&mut items, depth)?;
    }
    Some(())
}

/// A value with its type, as RabbitMQ writes them and the library reads them.
fn value(rest: &mut &mut [u8], depth: usize) -> Option<()> {
    let [kind] = take(rest, 1)? else { return None };
    let fixed = match kind {
        b't' | b'b' | b'B' => 1,
        b's' | b'U' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'L' | b'l' | b'd' | b'T' => 8,
        b'V' => 0,
        b'S' | b'x' => long(rest)?,
        b'F' | b'A' => {
            let is_table = *kind == b'F';
            let size = long(rest)?;
            let inner = take(rest, size)?;
            if depth >= MAX_NESTING {
                *kind = b'S';
                return Some(());
            }
            return if is_table { table(inner, depth + 1) } else { array(inner, depth + 1) };
        }
        _ => return None,
    };
    take(rest, fixed).map(drop)
}

fn long(rest: &mut &mut [u8]) -> Option<usize> {
    let bytes = take(rest, 4)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(bytes)).ok()
}

fn short_string(rest: &mut &mut [u8]) -> Option<()> {
    let [length] = take(rest, 1)? else { return None };
    let text = take(rest, usize::from(*length))?;
    if std::str::from_utf8(text).is_err() {
        text.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = UNKNOWN);
    }
    Some(())
}

fn take<'a>(rest: &mut &'a mut [u8], count: usize) -> Option<&'a mut [u8]> {
    let (taken, left) = std::mem::take(rest).split_at_mut_checked(count)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 1][..], &size, payload, &[0xce]].concat()
    }

    fn sized(kind: u8, inner: &[u8]) -> Vec<u8> {
        [&[kind][..], &u32::try_from(inner.len()).unwrap().to_be_bytes(), inner].concat()
    }

    /// A content header with content type, headers, and a message id behind them.
    fn header(entries: &[u8]) -> Vec<u8> {
        let flags = 0x8000_u16 | 0x2000 | 0x0080;
        let table = sized(0, entries).split_off(1);
        frame(
            2,
            &[
                &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
                &flags.to_be_bytes(),
                b"\x01t",
                &table,
                b"\x02i\xff",
            ]
            .concat(),
        )
    }

    /// What comes out when it comes in pieces of this size.
    fn passed(bytes: &[u8], piece: usize) -> Vec<u8> {
        let (mut inbound, mut out, mut to) = (Inbound::default(), Vec::new(), [0; 5]);
        for piece in bytes.chunks(piece) {
            inbound.buffer().extend_from_slice(piece);
            inbound.came().unwrap();
            loop {
                let count = inbound.read(&mut to);
                out.extend_from_slice(&to[..count]);
                if count == 0 {
                    break;
                }
            }
        }
        out
    }

    #[test]
    fn what_is_in_order_passes_as_it_is_in_whatever_pieces_it_comes() {
        let entries = [
            &b"\x01a"[..],
            b"I\0\0\0\x07",
            b"\x01b",
            &sized(b'S', b"\xff not UTF-8, as a long string may be"),
            b"\x01c",
            &sized(b'F', b"\x01dt\x01\x01eV"),
            "\x02ü".as_bytes(),
            b"D\x02\0\0\0\x07",
        ]
        .concat();
        let mut good = header(&entries);
        let end = good.len() - 2;
        good[end] = b'd';
        let deliver = frame(1, b"\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0\x01\0\x01e\x01k");
        let all = [frame(1, b"\0\x0a\0\x0a"), deliver, good, frame(3, &[2; 300]), frame(8, b"")].concat();
        for piece in [1, 2, 3, 7, 8, 100, all.len()] {
            assert_eq!(passed(&all, piece), all, "{piece}");
        }
    }

    #[test]
    fn what_is_too_deep_becomes_bytes() {
        for kind in [b'A', b'F'] {
            let mut value = b"t\x01".to_vec();
            for _ in 0..5_000 {
                let name: &[u8] = if kind == b'F' { b"\0" } else { b"" };
                value = sized(kind, &[name, &value].concat());
            }
            let out = passed(&header(&[b"\x01x", &value[..]].concat()), 1_000);
            let step = if kind == b'F' { 6 } else { 5 };
            // Behind the head of the frame, the fixed part, the content type, the size of the table and the name of its entry.
            let first = 7 + 14 + 2 + 4 + 2;
            let kinds: Vec<u8> = out[first..].iter().step_by(step).take(MAX_NESTING).copied().collect();
            assert_eq!(kinds[..MAX_NESTING - 1], [kind].repeat(MAX_NESTING - 1));
            assert_eq!(kinds[MAX_NESTING - 1], b'S');
            assert_eq!(&out[out.len() - 4..], b"\x02i?\xce", "what is behind it is reached");
        }
    }

    #[test]
    fn a_short_string_that_is_no_text_has_marks_in_it() {
        let deliver = frame(1, b"\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0\x01\0\x02\xffe\x03k\xc3k");
        let mended = frame(1, b"\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0\x01\0\x02?e\x03k?k");
        assert_eq!(passed(&deliver, 4), mended);
    }

    #[test]
    fn what_ends_early_passes_and_what_is_too_large_does_not() {
        let broken =
            [frame(2, b"\0\x3c"), header(b"\x05x"), header(b"\x01xF\xff\xff\xff\xff"), header(b"\x01x?")]
                .concat();
        let out = passed(&broken, 9);
        assert_eq!(out.len(), broken.len());
        let mut inbound = Inbound::default();
        inbound.buffer().extend_from_slice(b"\x02\0\0\xff\0\0\0");
        assert_eq!(inbound.came(), Err(TooLarge(0xff00_0000)));
    }
}

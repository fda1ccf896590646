//! A file as lines, in constant memory: the buffer holds one chunk and, at most, one line of the longest length allowed.

use std::{fs::File, io, os::unix::fs::FileExt};

use bytes::Bytes;

/// How much is read at once, in bytes.
const CHUNK_BYTES: usize = 256 * 1024;

/// How many bytes before the next line are kept, for [`LineReader::before`].
pub(crate) const KEPT_BEFORE: usize = 64;

/// The longest unfinished line that is held in memory while its end is waited for; a longer one is read again.
const MAX_HELD_TAIL: usize = 4 * 1024;

/// The byte order mark, in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A line of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The offset of its first byte.
    pub(crate) start: u64,
    /// The offset after its line break.
    pub(crate) end: u64,
    /// From 1.
    pub(crate) number: u64,
    /// Without the line break; `None` when it is too long.
    pub(crate) body: Option<Bytes>,
}

/// Reads lines.
#[derive(Debug)]
pub(crate) struct LineReader {
    max_line_bytes: usize,
    buffer: Vec<u8>,
    /// Where in the buffer the next line begins.
    begin: usize,
    /// How much of it has been looked through for a line break.
    searched: usize,
    /// The offset in the file of the next line.
    offset: u64,
    number: u64,
    /// How many bytes of the next line, which is too long, were thrown away.
    thrown_away: u64,
}

impl LineReader {
    /// A reader that goes on at this offset, where the line with this number begins.
    pub(crate) fn new(max_line_bytes: usize, offset: u64, number: u64) -> Self {
        Self { max_line_bytes, buffer: Vec::new(), begin: 0, searched: 0, offset, number, thrown_away: 0 }
    }

    /// The same, with the bytes before that offset.
    pub(crate) fn after(max_line_bytes: usize, offset: u64, number: u64, before: Vec<u8>) -> Self {
        Self { begin: before.len(), buffer: before, ..Self::new(max_line_bytes, offset, number) }
    }

    /// From now on a line may be of this length.
    pub(crate) fn set_max_line_bytes(&mut self, max_line_bytes: usize) {
        self.max_line_bytes = max_line_bytes;
    }

    /// Where in the file the next line begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// How far the file has been read.
    pub(crate) fn read_to(&self) -> u64 {
        self.offset + self.thrown_away + (self.buffer.len() - self.begin) as u64
    }

    /// The bytes before the next line: [`KEPT_BEFORE`] of them, or as many as were read.
    pub(crate) fn before(&self) -> &[u8] {
        self.buffer.get(self.begin.saturating_sub(KEPT_BEFORE)..self.begin).unwrap_or_default()
    }

    /// Gives back memory while there is nothing to read. How far a line that is too long was read is not forgotten.
    pub(crate) fn rest(&mut self) {
        self.buffer.drain(..self.begin.saturating_sub(KEPT_BEFORE));
        self.begin = self.begin.min(KEPT_BEFORE);
        if self.buffer.len() - self.begin > MAX_HELD_TAIL {
            self.buffer.truncate(self.begin);
            self.searched = 0;
        }
        self.buffer.shrink_to_fit();
    }

    /// The number of the next line.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The next line, or `None` at the end of the file, which also ends a line.
    pub(crate) fn next(&mut self, input: &File) -> io::Result<Option<Line>> {
        if let Some(line) = self.next_ended(input)? {
            return Ok(Some(line));
        }
        let left = self.buffer.len() - self.begin;
        Ok((left > 0 || self.thrown_away > 0).then(|| self.take(left, 0)))
    }

    /// The next line that has a line break, or `None` where the file has no more of them for now.
    pub(crate) fn next_ended(&mut self, input: &File) -> io::Result<Option<Line>> {
        loop {
            let rest = self.buffer.get(self.begin..).unwrap_or_default();
            let unsearched = rest.get(self.searched..).unwrap_or_default();
            if let Some(at) = memchr::memchr(b'\n', unsearched) {
                return Ok(Some(self.take(self.searched + at, 1)));
            }
            self.searched = rest.len();
            // Two bytes more than a line may have: a CR, and one that is too much.
            if self.searched > self.max_line_bytes + 1 {
                self.thrown_away += self.searched as u64;
                self.begin += self.searched;
                self.searched = 0;
            }
            if self.fill(input)? == 0 {
                return Ok(None);
            }
        }
    }

    /// Takes a line of this many bytes, and its line break, out of the buffer.
    fn take(&mut self, length: usize, line_break: usize) -> Line {
        let raw = self.buffer.get(self.begin..self.begin + length).unwrap_or_default();
        let mut content = if line_break > 0 { raw.strip_suffix(b"\r").unwrap_or(raw) } else { raw };
        if self.offset == 0 {
            content = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content);
        }
        let fits = self.thrown_away == 0 && content.len() <= self.max_line_bytes;
        // A copy: a slice would keep the whole chunk alive for as long as one line of it is on its way.
        let body = fits.then(|| Bytes::copy_from_slice(content));
        let end = self.offset + self.thrown_away + (length + line_break) as u64;
        let line = Line { start: self.offset, end, number: self.number, body };
        self.begin += length + line_break;
        self.offset = end;
        self.number += 1;
        self.searched = 0;
        self.thrown_away = 0;
        line
    }

    fn fill(&mut self, input: &File) -> io::Result<usize> {
        let at = self.read_to();
        self.buffer.drain(..self.begin.saturating_sub(KEPT_BEFORE));
        self.begin = self.begin.min(KEPT_BEFORE);
        let held = self.buffer.len();
        self.buffer.resize(held + CHUNK_BYTES, 0);
        let read = loop {
            match input.read_at(self.buffer.get_mut(held..).unwrap_or_default(), at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(held + *read.as_ref().unwrap_or(&0));
        read
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn lines(content: &[u8], max: usize) -> Vec<(u64, u64, Option<String>)> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let mut reader = LineReader::new(max, 0, 1);
        let mut lines = Vec::new();
        while let Some(line) = reader.next(&file).unwrap() {
            assert_eq!(line.number, lines.len() as u64 + 1);
            let body = line.body.map(|body| String::from_utf8(body.into()).unwrap());
            lines.push((line.start, line.end, body));
        }
        lines
    }

    #[test]
    fn line_ends_of_every_kind() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(lines(b"", 10), []);
        assert_eq!(
            lines(b"a\nbc\r\n\nd\re\n\r\nlast", 10),
            [
                (0, 2, some("a")),
                (2, 6, some("bc")),
                (6, 7, some("")),
                (7, 11, some("d\re")),
                (11, 13, some("")),
                (13, 17, some("last"))
            ]
        );
        assert_eq!(lines(b"a\r", 10), [(0, 2, some("a\r"))]);
    }

    #[test]
    fn a_byte_order_mark_is_left_out_at_the_start_only() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            lines("\u{feff}a\n\u{feff}b".as_bytes(), 10),
            [(0, 5, some("a")), (5, 9, some("\u{feff}b"))]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_those_after_it_are_not() {
        let some = |text: &str| Some(text.to_owned());
        let long = "x".repeat(3 * CHUNK_BYTES);
        let content = format!("1234\n12345\n1234\r\n12345\r\n{long}\nok\n{long}");
        let long = long.len() as u64;
        assert_eq!(
            lines(content.as_bytes(), 4),
            [
                (0, 5, some("1234")),
                (5, 11, None),
                (11, 17, some("1234")),
                (17, 24, None),
                (24, 25 + long, None),
                (25 + long, 28 + long, some("ok")),
                (28 + long, 28 + 2 * long, None)
            ]
        );
    }

    #[test]
    fn the_buffer_does_not_grow_with_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        let line = "y".repeat(999) + "\n";
        for _ in 0..5_000 {
            file.write_all(line.as_bytes()).unwrap();
        }
        let mut reader = LineReader::new(1_000, 0, 1);
        let mut count = 0;
        while reader.next(&file).unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, 5_000);
        assert!(reader.buffer.capacity() <= 3 * CHUNK_BYTES, "{}", reader.buffer.capacity());
    }

    #[test]
    fn a_line_without_an_end_waits_for_it() {
        let mut file = tempfile::tempfile().unwrap();
        let mut reader = LineReader::after(10_000, 0, 1, Vec::new());
        let mut more = |text: &str, reader: &mut LineReader| {
            file.write_all(text.as_bytes()).unwrap();
            let line = reader.next_ended(&file).unwrap();
            reader.rest();
            line.map(|line| (line.start, line.end, line.body.map(|body| body.len())))
        };
        assert_eq!(more("ab", &mut reader), None);
        assert_eq!(more("c\nd", &mut reader), Some((0, 4, Some(3))));
        assert_eq!((reader.before(), reader.offset(), reader.read_to()), (&b"abc\n"[..], 4, 5));
        // Longer than what is held, and then longer than a line may be.
        assert_eq!(more(&"x".repeat(MAX_HELD_TAIL), &mut reader), None);
        assert_eq!(reader.read_to(), 4);
        assert_eq!(more("\n", &mut reader), Some((4, 6 + MAX_HELD_TAIL as u64, Some(1 + MAX_HELD_TAIL))));
        assert_eq!(more(&"y".repeat(10_002), &mut reader), None);
        assert!(reader.buffer.capacity() < 1_000, "{}", reader.buffer.capacity());
        assert_eq!(more("y", &mut reader), None);
        let start = 6 + MAX_HELD_TAIL as u64;
        assert_eq!(more("\n", &mut reader), Some((start, start + 10_004, None)));
        assert_eq!(reader.before().len(), KEPT_BEFORE);
    }

    #[test]
    fn reading_goes_on_at_an_offset() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one\ntwo\nthree\n").unwrap();
        let mut reader = LineReader::new(10, 4, 2);
        let line = reader.next(&file).unwrap().unwrap();
        assert_eq!((line.start, line.end, line.number), (4, 8, 2));
    }
}

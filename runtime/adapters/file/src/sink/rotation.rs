//! When an appended file is set aside, and under which name.

use std::{io, os::fd::OwnedFd};

use gristmill_core::Timestamp;
use rustix::{fs::AtFlags, io::Errno};

use super::folder;
use crate::{
    config::Rotate,
    fsys::{MAX_NUMBER, numbered},
};

/// Whether a file of `held` bytes, begun at `begun`, is set aside before `more` bytes are added.
pub(crate) fn is_due(rotate: &Rotate, held: u64, more: u64, begun: Timestamp, now: Timestamp) -> bool {
    let too_large = rotate.max_bytes.is_some_and(|max| held + more > max);
    let too_old =
        rotate.max_age_ms.is_some_and(|max| now.as_millis().saturating_sub(begun.as_millis()) >= max);
    // An empty file is never set aside: a line larger than `max_bytes` gets a file of its own.
    held > 0 && (too_large || too_old)
}

/// Sets the file aside. Gives the name it has now.
pub(crate) fn set_aside(folder: &OwnedFd, name: &str, now: Timestamp) -> io::Result<String> {
    let dated = dated(name, now);
    let mut number = 0;
    loop {
        let target = numbered(dated.as_ref(), number).to_string_lossy().into_owned();
        match folder::rename_new(folder, name, folder, &target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < MAX_NUMBER => number += 1,
            Err(error) => return Err(error),
            Ok(()) => return Ok(target),
        }
    }
}

/// Deletes the oldest of the files that were set aside, down to `keep`.
pub(crate) fn prune(folder: &OwnedFd, name: &str, keep: usize) -> io::Result<()> {
    let mut aside: Vec<(String, u32, String)> = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        if let Ok(candidate) = entry.file_name().to_str()
            && let Some((date, number)) = date_of(candidate, name)
        {
            aside.push((date.to_owned(), number, candidate.to_owned()));
        }
    }
    aside.sort();
    let surplus = aside.len().saturating_sub(keep);
    for (_, _, oldest) in aside.into_iter().take(surplus) {
        match rustix::fs::unlinkat(folder, &oldest, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// `orders.jsonl` becomes `orders-20260131T120000.000Z.jsonl`: sorts by time, and keeps the extension.
fn dated(name: &str, now: Timestamp) -> String {
    let (stem, extension) = split(name);
    let date: String = now.to_rfc3339().chars().filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{stem}-{date}{extension}")
}

/// The date and number of a file that was set aside from `name`; `None` of any other file.
fn date_of<'a>(candidate: &'a str, name: &str) -> Option<(&'a str, u32)> {
    let (stem, extension) = split(name);
    let middle = candidate.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(extension)?;
    let (date, number) = match middle.split_once('-') {
        Some((date, number)) => (date, number.parse().ok().filter(|n| *n > 0)?),
        None => (middle, 0),
    };
    let shape: String = date.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    (shape == "00000000T000000.000Z").then_some((date, number))
}

/// The extension with its dot; a dot at the start makes none.
fn split(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(at) if at > 0 => name.split_at(at),
        _ => (name, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_size_before_the_line_that_is_too_much_and_by_age() {
        let at = Timestamp::from_millis;
        let size = Rotate { max_bytes: Some(100), ..Rotate::default() };
        assert!(!is_due(&size, 90, 10, at(0), at(0)));
        assert!(is_due(&size, 90, 11, at(0), at(0)));
        assert!(!is_due(&size, 0, 500, at(0), at(0)));
        let age = Rotate { max_age_ms: Some(1_000), ..Rotate::default() };
        assert!(!is_due(&age, 90, 11, at(500), at(1_499)));
        assert!(is_due(&age, 90, 11, at(500), at(1_500)));
        assert!(!is_due(&age, 90, 11, at(500), at(0)), "a clock that was set back");
    }

    #[test]
    fn only_its_own_files_are_known_by_their_names() {
        let name = dated("orders.jsonl", Timestamp::from_millis(1_769_860_800_000));
        assert_eq!(name, "orders-20260131T120000.000Z.jsonl");
        assert_eq!(date_of(&name, "orders.jsonl"), Some(("20260131T120000.000Z", 0)));
        let second = "orders-20260131T120000.000Z-12.jsonl";
        assert_eq!(date_of(second, "orders.jsonl"), Some(("20260131T120000.000Z", 12)));
        for other in
            ["orders.jsonl", "orders-new.jsonl", "orders-20260131T120000.000Z.csv", "orders-x-1.jsonl"]
        {
            assert_eq!(date_of(other, "orders.jsonl"), None, "{other}");
        }
        assert_eq!(date_of("orders-old-20260131T120000.000Z.jsonl", "orders.jsonl"), None);
    }
}

//! Which file a message is from: the part of its id before the offset. A name comes again, for another file (one each day),
//! and messages with one id count as the same message. So the id holds the path and a stamp of the very file.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{configured::ConfiguredPath, fnv::fnv1a};

/// How much of a path goes into an id, in bytes: its end, for there is the name. With stamp and offset there is still room in
/// a file's name (255 bytes) for what stands around `${message.id}`.
const MAX_PATH_BYTES: usize = 180;

/// `in:orders.jsonl@27c1e5a0b3d94f68`. Holds no `/`, so that an id can be a file's name, or a part of one.
pub(crate) fn origin(directory: &ConfiguredPath, name_text: &str, metadata: Option<&Metadata>) -> String {
    with_stamp(directory, name_text, metadata.map_or(0, stamp))
}

/// The same with a stamp of one's own.
pub(crate) fn with_stamp(directory: &ConfiguredPath, name_text: &str, stamp: u64) -> String {
    let path = directory.written_path_of(name_text);
    let path = path.trim_start_matches("./").trim_start_matches('/').replace('/', ":");
    let end = path.ceil_char_boundary(path.len().saturating_sub(MAX_PATH_BYTES));
    format!("{}@{stamp:016x}", path.get(end..).unwrap_or_default())
}

/// Stays as it is wherever the file is moved on its file system, and whoever reads it; another file has another one.
///
/// Each of its parts tells apart what the others do not: the inode number, files that are there at the same time, also with
/// one time of change (`cp -p`, an unpacked archive); the time of birth, where the file system has one, a file that got the
/// inode number of a deleted one; the time of change, new content that was written into an old file.
fn stamp(metadata: &Metadata) -> u64 {
    // Before 1970, and where the file system has no such time, it tells nothing apart.
    let nanos = |time: std::io::Result<SystemTime>| {
        let since = time.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        since.unwrap_or_default().as_nanos()
    };
    let mut parts = Vec::with_capacity(40);
    parts.extend(metadata.ino().to_le_bytes());
    parts.extend(nanos(metadata.created()).to_le_bytes());
    parts.extend(nanos(metadata.modified()).to_le_bytes());
    fnv1a(&parts)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Duration};

    use serde_json::json;

    use super::*;
    use crate::testing::config;

    #[test]
    fn the_stamp_is_of_the_file_and_not_of_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let of = |path: &Path| stamp(&fs::metadata(path).unwrap());
        let change = |path: &Path, seconds| {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        };
        fs::write(&a, "same").unwrap();
        change(&a, 10);
        let first = of(&a);
        fs::rename(&a, &b).unwrap();
        assert_eq!(of(&b), first);
        fs::write(&a, "same").unwrap();
        change(&a, 10);
        assert_ne!(of(&a), first, "another file, with the same name, content and time");
        change(&b, 11);
        assert_ne!(of(&b), first, "the same file, written anew");
    }

    #[test]
    fn a_long_path_is_cut_at_its_start() {
        let long = format!("{}/in", "é".repeat(400));
        let directory = ConfiguredPath::new(Path::new("/"), Path::new(&long), &config(&json!(null)));
        let origin = origin(&directory, "orders.xml", None);
        assert!(origin.ends_with("é:in:orders.xml@0000000000000000"), "{origin}");
        assert!(origin.len() <= MAX_PATH_BYTES + 17 && origin.len() > MAX_PATH_BYTES, "{}", origin.len());
    }

    #[test]
    fn an_id_can_be_the_name_of_a_file() {
        for (written, expected) in [
            ("in", "in:a@"),
            ("/var/in/", "var:in:a@"),
            ("./in", "in:a@"),
            (".", "a@"),
            ("../in", "..:in:a@"),
        ] {
            let directory = ConfiguredPath::new(Path::new("/"), Path::new(written), &config(&json!(null)));
            let origin = origin(&directory, "a", None);
            assert!(origin.starts_with(expected) && !origin.contains('/'), "{written}: {origin}");
        }
    }
}

//! Finds and reads flow files.

use std::{
    fmt::Display,
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use gristmill_core::{
    config::{Mistake, Span},
    limits::MAX_FLOW_FILE_BYTES,
};
use gristmill_engine::flow::FlowFile;

/// The most flow files that one folder may hold.
const MAX_FLOW_FILES: usize = 10_000;

/// The flow files of a folder, in the order of their names: `*.yaml` and `*.yml` in any case, but not `*.test.yaml` and
/// hidden ones. Whatever has such a name is one: what cannot be read as a file (a folder, a link to nowhere) is a mistake of
/// that flow, and not a flow that is gone.
///
/// # Errors
/// When the folder cannot be read, with what to do.
pub(crate) fn flow_files(dir: &Path) -> Result<Vec<FlowFile>, String> {
    let cannot = |e: std::io::Error| {
        format!(
            "cannot read the folder of flows {}: {e}; make it, or name another with `--flows`",
            shown(dir)
        )
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if is_flow(&path) {
            paths.push(path);
        }
    }
    if paths.len() > MAX_FLOW_FILES {
        return Err(format!("{} has {} flow files, more than {MAX_FLOW_FILES}", shown(dir), paths.len()));
    }
    paths.sort();
    // What was removed between the listing and the reading is gone, and not unreadable.
    let read = |path: PathBuf| {
        let text = read_plain(&path, MAX_FLOW_FILE_BYTES);
        (text.is_ok() || is_there(&path)).then(|| flow_file(&path, text))
    };
    Ok(paths.into_iter().filter_map(read).collect())
}

/// The flow file that was named, be it a pipe.
pub(crate) fn named_file(path: &Path) -> FlowFile {
    flow_file(path, read_limited(path, MAX_FLOW_FILE_BYTES))
}

fn flow_file(path: &Path, text: Result<String, Mistake>) -> FlowFile {
    FlowFile { path: PathBuf::from(shown(path)), text: text.map(Into::into) }
}

/// Whether there is something of this name, be it a link to nowhere. What cannot be looked at for a moment (a network file
/// system) is there too.
pub(crate) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().map_or_else(|e| e.kind() != ErrorKind::NotFound, |_| true)
}

/// Whether a name is that of a file in YAML.
pub(crate) fn is_yaml(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    ["yaml", "yml"].iter().any(|yaml| extension.eq_ignore_ascii_case(yaml))
}

fn is_flow(path: &Path) -> bool {
    let test = path.file_stem().is_some_and(|stem| {
        Path::new(stem).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("test"))
    });
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    is_yaml(path) && !test && !hidden
}

/// A text file of at most `limit` bytes that must be a plain one, or a link to one: what is found under a name must not keep
/// the reader for ever, as a pipe would.
///
/// # Errors
/// What is in the way, as a mistake of that file.
pub(crate) fn read_plain(path: &Path, limit: u64) -> Result<String, Mistake> {
    match path.metadata() {
        Ok(found) if !found.is_file() => {
            let mend = "put a file in its place, or give it another name";
            Err(unreadable(path, &"it is not a plain file", mend))
        }
        _ => read_limited(path, limit),
    }
}

/// A text of at most `limit` bytes, from whatever was named.
///
/// # Errors
/// What is in the way, as a mistake of that file.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<String, Mistake> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|e| unreadable(path, &e, mend(path, e.kind())))?;
    if bytes.len() as u64 > limit {
        let problem = format!("it is larger than {limit} bytes");
        return Err(unreadable(path, &problem, "split it up: one flow a file"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let problem = format!("it is not UTF-8: byte {} is not", e.utf8_error().valid_up_to());
        unreadable(path, &problem, "save it as UTF-8")
    })
}

fn unreadable(path: &Path, problem: &dyn Display, mend: &str) -> Mistake {
    let name = shown(path);
    Mistake::new("unreadable_file", &Span::nowhere(&name), format!("cannot read {name}: {problem}"))
        .mend(mend)
}

/// What to do about a file that cannot be read.
fn mend(path: &Path, kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound if is_there(path) => "it is a link to nowhere: mend the link, or remove it",
        ErrorKind::NotFound => "name a file that is there",
        ErrorKind::IsADirectory => "put a file in its place, or name another",
        ErrorKind::PermissionDenied => "let the user that gristmill runs as read it",
        _ => "look at the disk it is on",
    }
}

/// A path as a person would type it: relative to the current folder, where it is below it.
pub(crate) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let short = here.as_deref().and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path);
    short.display().to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// What is found in a folder: names, with what is said of those that cannot be read.
    fn found(dir: &Path) -> Vec<(String, Option<String>)> {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let said = |mistake: Mistake| format!("{}: {}", mistake.code, mistake.mend.unwrap());
        flow_files(dir)
            .unwrap()
            .into_iter()
            .map(|file| (name(&file.path), file.text.err().map(said)))
            .collect()
    }

    #[test]
    fn flows_are_found_by_their_names_alone() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["b.yml", "a.yaml", "C.YAML", "d.Yml", "e.test.yaml", "F.TEST.YML", ".g.yaml", "h.txt", "yaml"]
        {
            std::fs::write(dir.path().join(name), "flow: x\n").unwrap();
        }
        let names: Vec<String> = found(dir.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["C.YAML", "a.yaml", "b.yml", "d.Yml"]);
    }

    #[test]
    fn what_cannot_be_read_is_there_all_the_same_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("folder.yaml")).unwrap();
        symlink("nowhere", dir.path().join("link.yaml")).unwrap();
        std::fs::write(dir.path().join("good.txt"), "flow: x\n").unwrap();
        symlink("good.txt", dir.path().join("linked.yaml")).unwrap();
        std::fs::write(dir.path().join("latin.yaml"), b"flow: \xff\n").unwrap();
        std::fs::write(dir.path().join("large.yaml"), vec![b'#'; 2 << 20]).unwrap();
        let pipe = std::process::Command::new("mkfifo").arg(dir.path().join("pipe.yaml")).status().unwrap();
        assert!(pipe.success());
        let said = |text: &str| Some(format!("unreadable_file: {text}"));
        assert_eq!(
            found(dir.path()),
            [
                ("folder.yaml".into(), said("put a file in its place, or give it another name")),
                ("large.yaml".into(), said("split it up: one flow a file")),
                ("latin.yaml".into(), said("save it as UTF-8")),
                ("link.yaml".into(), said("it is a link to nowhere: mend the link, or remove it")),
                ("linked.yaml".into(), None),
                ("pipe.yaml".into(), said("put a file in its place, or give it another name")),
            ]
        );
        let missing = named_file(&dir.path().join("missing.yaml")).text.unwrap_err();
        assert_eq!(missing.mend.unwrap(), "name a file that is there");
    }
}

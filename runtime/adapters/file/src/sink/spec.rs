//! From configuration to an open sink.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use gristmill_core::{
    ErrorClass, Failure,
    adapter::{CheckedSink, Checker, SinkUse},
    config::{Mistake, Node, Piece, parse, split_expressions},
    sink::{Sink, SinkContext, SinkSpec},
};

use super::{
    append::{AppendSink, OpenFiles},
    folder::Folder,
    group::GroupCommit,
    name::SafeName,
    one_file::{Files, Naming, OneFileSink},
};
use crate::{
    config::{IfExists, Mode, SinkConfig},
    configured::{ConfiguredPath, written},
    fsys::Permissions,
};

/// Checked configuration of a file sink.
#[derive(Debug)]
struct FileSinkSpec {
    directory: ConfiguredPath,
    create_directory: bool,
    permissions: Permissions,
    naming: Naming,
    mode: Mode,
    if_exists: IfExists,
    files: Arc<OpenFiles>,
}

/// Checks without touching the disk.
pub(crate) fn check(
    node: &Node,
    usage: SinkUse,
    checker: &mut Checker<'_>,
    files: &Arc<OpenFiles>,
) -> Option<CheckedSink> {
    let config: SinkConfig = parse(node, checker.mistakes)?;
    let before = checker.mistakes.len();
    let naming = naming(node, &config, usage, checker);
    if config.directory.to_string_lossy().contains("${") {
        checker.mistake(
            "invalid_value",
            node.at(["directory"]),
            "the directory is the same for every message: `${…}` is not read in it",
            "put it into `name`, with `subdirectories: true`; `${env:NAME}` can stand in a directory",
        );
    }
    if let Mode::Append(append) = &config.mode
        && let Some(rotate) = &append.rotate
        && rotate.max_bytes.is_none()
        && rotate.max_age_ms.is_none()
    {
        checker.mistake(
            "missing_key",
            node.at(["mode", "append", "rotate"]),
            "nothing says when to begin a new file",
            "add `max_bytes:` or `max_age_ms:`",
        );
    }
    if checker.mistakes.len() > before {
        return None;
    }
    let if_exists = match (&config.mode, usage) {
        (Mode::OneFile(one_file), _) if one_file.if_exists.is_some() => one_file.if_exists,
        // A second letter of the same message must be kept as well: that it cannot be written would release it, for ever.
        (_, SinkUse::DeadLetter) => Some(IfExists::Number),
        _ => None,
    };
    let spec = FileSinkSpec {
        directory: ConfiguredPath::new(checker.base_dir, &config.directory, node.at(["directory"])),
        create_directory: config.create_directory,
        permissions: match (config.file_mode, usage) {
            (Some(mode), _) => Permissions::exactly(mode.bits()),
            // A dead letter holds the whole message, with whatever it was trusted with.
            (None, SinkUse::DeadLetter) => Permissions::PRIVATE,
            (None, _) => Permissions::USUAL,
        },
        naming: naming?,
        mode: config.mode,
        if_exists: if_exists.unwrap_or(IfExists::Fail),
        files: Arc::clone(files),
    };
    Some(CheckedSink { spec: Arc::new(spec), answers: false, templates: checker.take_templates() })
}

fn naming(node: &Node, config: &SinkConfig, usage: SinkUse, checker: &mut Checker<'_>) -> Option<Naming> {
    let Some(name) = &config.name else {
        if matches!(config.mode, Mode::Append(_)) {
            let mistake = Mistake::new("missing_key", &node.span, "`name` is missing: `append` needs a file");
            checker.mistakes.push(mistake.mend("add `name:`, e.g. `name: orders.jsonl`"));
            return None;
        }
        // A dead letter is an envelope in JSON, whatever the message was.
        return Some(Naming::Id { extension: (usage == SinkUse::DeadLetter).then_some("json") });
    };
    let at = node.at(["name"]);
    let written = written(at).map(Arc::from);
    if !name.contains("${") {
        return match SafeName::parse(name, config.subdirectories, written) {
            Ok(name) => Some(Naming::Fixed(name)),
            Err(problem) => {
                checker.mistake("invalid_value", at, problem, "write the name of a file inside `directory`");
                None
            }
        };
    }
    // An early hint; the rendered name is checked for each message. What is wrong with an expression, the engine says.
    let pieces = split_expressions(name).unwrap_or_default();
    let stand_in: String = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Literal(text) => text,
            Piece::Expression(_) => "x",
        })
        .collect();
    // What stands there in so many words, no message can mend.
    if let Err(problem) =
        SafeName::parse(&stand_in, true, Some(written.clone().unwrap_or_else(|| name.as_str().into())))
    {
        checker.mistake("invalid_value", at, problem, "write the name of a file inside `directory`");
        return None;
    }
    let slash = pieces.iter().any(|piece| matches!(piece, Piece::Literal(text) if text.contains('/')));
    if !config.subdirectories && slash {
        checker.mistake(
            "invalid_value",
            at,
            "the name holds a `/`, and subfolders are not allowed",
            "add `subdirectories: true`",
        );
    }
    let slot = checker.template(at, name);
    Some(Naming::Rendered { slot, subdirectories: config.subdirectories, written })
}

#[async_trait]
impl SinkSpec for FileSinkSpec {
    async fn open(&self, _context: SinkContext) -> Result<Arc<dyn Sink>, Failure> {
        let folder = Folder::new(self.directory.clone(), self.create_directory, self.permissions);
        let naming = self.naming.clone();
        let opening: Box<dyn FnOnce() -> Result<Arc<dyn Sink>, Failure> + Send> = match &self.mode {
            Mode::OneFile(_) => {
                let files = GroupCommit::new(Files::new(folder));
                let sink = OneFileSink { naming, if_exists: self.if_exists, files };
                Box::new(move || {
                    sink.files.commit().open()?;
                    Ok(Arc::new(sink))
                })
            }
            Mode::Append(append) => {
                let sink = AppendSink {
                    naming,
                    newline: append.newline,
                    rotate: append.rotate.clone(),
                    folder: Arc::new(folder),
                    files: Arc::clone(&self.files),
                    recent: Mutex::new(VecDeque::new()),
                };
                Box::new(move || {
                    sink.open()?;
                    Ok(Arc::new(sink))
                })
            }
        };
        let opened = tokio::task::spawn_blocking(opening).await;
        opened.unwrap_or_else(|error| {
            Err(Failure::new(ErrorClass::Internal, format!("file sink: opening was given up: {error}")))
        })
    }
}

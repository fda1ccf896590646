//! From configuration to a prepared source: what can be checked without touching the disk, then what cannot.

use std::{
    any::Any,
    fmt, fs,
    hash::{BuildHasher, RandomState},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use globset::{GlobBuilder, GlobMatcher};
use gristmill_core::{
    adapter::Checker,
    config::{Node, Span, Value, parse},
    message::{CONTENT_TYPE, check_header},
    source::{Claim, EndpointContext, Order, PreparedSource, SourceError, SourceSpec},
};
use rustix::fs::{Access, AtFlags, CWD};

use super::{
    PreparedFileSource,
    follow::{PreparedFollowSource, settings::Settings as FollowSettings},
    overlap::overlap,
    settings::{AfterDone, Reading, Settings},
};
use crate::{
    config::{Done, Follow, Read, SourceConfig},
    configured::{ConfiguredPath, written},
    fnv::fnv1a,
    fsys::lexical,
};

/// Checked configuration of a file source.
#[derive(Clone)]
pub(crate) struct FileSourceSpec {
    config: SourceConfig,
    matcher: GlobMatcher,
    /// The pattern as it stands in the flow file.
    pattern_written: String,
    /// Whether a part of the pattern came from outside of the flow file.
    pattern_is_substituted: bool,
    directory: ConfiguredPath,
    done: AfterDone,
    /// By default, with `follow`, in the flow's folder of the runtime's state, which is not known yet.
    failed: Option<ConfiguredPath>,
    /// Off only in tests, to show that polling alone is enough.
    pub(crate) watch: bool,
}

impl FileSourceSpec {
    /// Checks without touching the disk.
    pub(crate) fn check(node: &Node, checker: &mut Checker<'_>) -> Option<Self> {
        let config: SourceConfig = parse(node, checker.mistakes)?;
        let before = checker.mistakes.len();
        let (at_done, at_failed) = (node.at(["done", "move", "directory"]), node.at(["failed", "directory"]));
        let resolve = |path: &Path, at: &Node| ConfiguredPath::new(checker.base_dir, path, at);
        let directory = resolve(&config.directory, node.at(["directory"]));
        let done = match &config.done {
            None => AfterDone::Move(directory.subfolder("done")),
            Some(Done::Move(to)) => AfterDone::Move(resolve(&to.directory, at_done)),
            Some(Done::Delete(_)) => AfterDone::Delete,
        };
        let follows = matches!(config.read, Read::Follow(_));
        let failed = match &config.failed {
            None if follows => None,
            None => Some(directory.subfolder("failed")),
            Some(to) => Some(resolve(&to.directory, at_failed)),
        };
        if follows {
            for key in ["done", "settle_ms"] {
                if let Some(at) = node.get(key) {
                    no_meaning(checker, at, key);
                }
            }
        }
        let is_read = |folder: &ConfiguredPath| lexical(folder.path()) == lexical(directory.path());
        if matches!(&done, AfterDone::Move(done) if is_read(done)) {
            same_folder(checker, at_done);
        }
        if failed.as_ref().is_some_and(is_read) {
            same_folder(checker, at_failed);
        }
        if let Some(problem) = config
            .content_type
            .as_deref()
            .and_then(|content_type| check_header(CONTENT_TYPE, content_type).err())
        {
            checker.mistake(
                "invalid_value",
                node.at(["content_type"]),
                format!("this is no content type: {}", problem.problem),
                "write one like `application/json`",
            );
        }
        let at_pattern = node.at(["pattern"]);
        let matcher = Self::check_pattern(&config.pattern, at_pattern, checker);
        if checker.mistakes.len() > before {
            return None;
        }
        Some(Self {
            matcher: matcher?,
            pattern_written: written(at_pattern).unwrap_or_else(|| config.pattern.clone()),
            pattern_is_substituted: at_pattern.is_substituted(),
            config,
            directory,
            done,
            failed,
            watch: true,
        })
    }

    fn check_pattern(pattern: &str, at: &Node, checker: &mut Checker<'_>) -> Option<GlobMatcher> {
        if pattern.contains('/') {
            checker.mistake(
                "invalid_value",
                at,
                "a pattern is for names, not for paths: subfolders are not read",
                "write the folder in `directory`, and only the name's pattern here, like `*.xml`",
            );
            return None;
        }
        match GlobBuilder::new(pattern).literal_separator(true).build() {
            Ok(glob) => Some(glob.compile_matcher()),
            Err(error) => {
                checker.mistake(
                    "invalid_value",
                    at,
                    format!("this is no pattern: {}", error.kind()),
                    "use `*`, `?`, `[a-z]` and `{xml,json}`; a backslash before one of them takes it as it is",
                );
                None
            }
        }
    }

    /// What tells its files from those of other sources, with this real or lexical path of its folder.
    fn key(&self, directory: &Path) -> String {
        format!("file {} {}", directory.display(), self.config.pattern)
    }

    /// The same as a person may see it.
    fn key_shown(&self) -> String {
        match self.directory.is_substituted() {
            true => format!("file {} {}", self.directory, self.pattern_written),
            false => format!("file {} {}", lexical(self.directory.path()).display(), self.pattern_written),
        }
    }

    /// What a source that follows files wants.
    fn follow_settings(&self, follow: &Follow, context: EndpointContext) -> FollowSettings {
        let limits = &context.limits;
        let state = &context.state_dir;
        // One for each folder: another pattern goes on with the same files.
        let checkpoint = fnv1a(lexical(self.directory.path()).as_os_str().as_encoded_bytes());
        let in_state =
            || ConfiguredPath::new(state, Path::new("failed"), &Node::new(Value::Null, Span::nowhere("")));
        FollowSettings {
            directory: self.directory.clone(),
            create_directory: self.config.create_directory,
            matcher: self.matcher.clone(),
            order: self.config.order,
            poll: Duration::from_millis(self.config.poll_ms),
            max_line_bytes: follow.max_line_bytes.min(limits.body_bytes),
            follow: follow.clone(),
            content_type: self.config.content_type.clone(),
            failed: self.failed.clone().unwrap_or_else(in_state),
            checkpoint: state.join(format!("follow-{checkpoint:016x}.json")),
            in_flight: limits.in_flight,
            release_delay: limits.release_delay(),
            clock: context.clock,
            observer: context.observer,
        }
    }

    fn settings(&self, reading: Reading, context: EndpointContext) -> Settings {
        let limits = &context.limits;
        Settings {
            flow: context.flow,
            directory: self.directory.clone(),
            create_directory: self.config.create_directory,
            matcher: self.matcher.clone(),
            order: self.config.order,
            settle: Duration::from_millis(self.config.settle_ms),
            poll: Duration::from_millis(self.config.poll_ms),
            read: reading,
            content_type: self.config.content_type.clone(),
            done: self.done.clone(),
            failed: self.failed.clone().unwrap_or_else(|| self.directory.subfolder("failed")),
            in_flight: limits.in_flight,
            release_delay: limits.release_delay(),
            clock: context.clock,
            observer: context.observer,
        }
    }

    /// Whether everything is there and may be used. Changes nothing.
    fn look(&self) -> Result<(), String> {
        let directory = &self.directory;
        // What is missing will be made in this.
        let existing =
            if self.config.create_directory { existing(directory.path()) } else { directory.path() };
        let metadata = fs::metadata(existing).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                format!(
                    "the folder `{directory}` does not exist: make it, mend `directory`, or add `create_directory: true`"
                )
            }
            _ => format!("the folder `{directory}` cannot be looked at: {error}"),
        })?;
        if !metadata.is_dir() && existing != directory.path() {
            let at = directory.ancestor_text(existing);
            return Err(format!("the folder `{directory}` cannot be made: {at} is not a folder"));
        }
        if !metadata.is_dir() {
            return Err(format!(
                "`{directory}` is not a folder: `directory` names the folder, `pattern` the files"
            ));
        }
        may(directory, existing, Access::READ_OK | Access::EXEC_OK, "read")?;
        let follows = matches!(self.config.read, Read::Follow(_));
        if !follows {
            may(directory, existing, Access::WRITE_OK, "write to (files are claimed by moving them)")?;
        }
        let mut targets: Vec<_> = self.failed.iter().map(|failed| (failed, "failed")).collect();
        if let AfterDone::Move(done) = &self.done
            && !follows
        {
            targets.push((done, "done"));
        }
        for (folder, what) in targets {
            self.look_at_target(folder, what, existing, &metadata)?;
        }
        Ok(())
    }

    /// Whether files can be moved to this folder, or to the one it will be made in, from `from`, which is the folder that is
    /// read or the one that will be made in.
    fn look_at_target(
        &self,
        folder: &ConfiguredPath,
        what: &str,
        from: &Path,
        source: &fs::Metadata,
    ) -> Result<(), String> {
        let existing = existing(folder.path());
        let metadata = fs::metadata(existing)
            .map_err(|error| format!("the `{what}` folder `{folder}` cannot be looked at: {error}"))?;
        if !metadata.is_dir() {
            let at = folder.ancestor_text(existing);
            return Err(format!("the `{what}` folder `{folder}` cannot be made: {at} is not a folder"));
        }
        let both_exist = existing == folder.path() && from == self.directory.path();
        if both_exist && (metadata.dev(), metadata.ino()) == (source.dev(), source.ino()) {
            return Err(format!(
                "the `{what}` folder `{folder}` is the folder that is read: files would come again for ever"
            ));
        }
        if metadata.dev() != source.dev() && !matches!(self.config.read, Read::Follow(_)) {
            return Err(format!(
                "the `{what}` folder `{folder}` is on another file system than `{}`: files are moved by rename, which cannot \
                 cross; choose one on the same",
                self.directory
            ));
        }
        may(folder, existing, Access::WRITE_OK | Access::EXEC_OK, "write to")
    }
}

/// Without what came from outside of the flow file.
impl fmt::Debug for FileSourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FileSourceSpec").field(&self.key_shown()).finish()
    }
}

#[async_trait]
impl SourceSpec for FileSourceSpec {
    fn identity(&self) -> String {
        let directory = lexical(self.directory.path());
        if matches!(self.config.read, Read::Follow(_)) {
            // Of any pattern: another one goes on with the same files, where they are.
            return match self.directory.is_substituted() {
                true => {
                    format!("file follow {} ({:016x})", self.directory, process_secret().hash_one(directory))
                }
                false => format!("file follow {}", directory.display()),
            };
        }
        if !self.directory.is_substituted() && !self.pattern_is_substituted {
            return self.key(&directory);
        }
        // Another value is another folder, whose files this endpoint has nothing to do with; which value, nobody is told.
        let told_apart = self.key(&directory);
        format!("{} ({:016x})", self.key_shown(), process_secret().hash_one(told_apart))
    }

    fn claims(&self) -> Vec<Claim> {
        // By its real name, so that a link to the folder is the same folder.
        let directory = self.directory.path();
        let directory = fs::canonicalize(directory).unwrap_or_else(|_| lexical(directory));
        vec![Claim::new(self.key(&directory)).shown_as(self.key_shown())]
    }

    fn conflict(&self, other: &dyn SourceSpec) -> Option<String> {
        let other = (other as &dyn Any).downcast_ref::<Self>()?;
        // The same pattern is the same claim.
        let is_same = lexical(self.directory.path()) == lexical(other.directory.path())
            && self.config.pattern != other.config.pattern;
        let follows = |spec: &Self| matches!(spec.config.read, Read::Follow(_));
        let outcome = match (follows(self), follows(other)) {
            (false, false) => "such a file would go to whichever flow is quicker",
            (true, true) => {
                "each of its lines would be a message of both. One flow can send to several places"
            }
            _ => "one of them would move a file away that the other follows",
        };
        (is_same && overlap(&self.matcher, &other.matcher)?).then(|| {
            format!(
                "both take files of the folder `{}`, and a name can match both `{}` and `{}`: {outcome}",
                self.directory, self.pattern_written, other.pattern_written
            )
        })
    }

    fn order(&self) -> Order {
        Order::Total
    }

    fn keeps_rejected(&self) -> bool {
        true
    }

    fn replies(&self) -> bool {
        false
    }

    async fn prepare(&self, context: EndpointContext) -> Result<Box<dyn PreparedSource>, SourceError> {
        let spec = Arc::new(self.clone());
        let looking = Arc::clone(&spec);
        let found = tokio::task::spawn_blocking(move || looking.look()).await;
        let body_bytes = context.limits.body_bytes;
        match found {
            Ok(Ok(())) => Ok(match &spec.config.read {
                Read::Follow(follow) => {
                    Box::new(PreparedFollowSource::new(spec.follow_settings(follow, context), spec.watch))
                }
                Read::Whole(_) => {
                    let reading = Reading::Whole { max_bytes: body_bytes as u64 };
                    Box::new(PreparedFileSource::new(spec.settings(reading, context), spec.watch))
                }
                Read::Lines(lines) => {
                    let reading = Reading::Lines {
                        max_line_bytes: lines.max_line_bytes.min(body_bytes),
                        empty_lines: lines.empty_lines,
                    };
                    Box::new(PreparedFileSource::new(spec.settings(reading, context), spec.watch))
                }
            }),
            Ok(Err(text)) => Err(SourceError::new(format!("file source: {text}"))),
            Err(error) => Err(SourceError::new(format!("file source: {error}"))),
        }
    }
}

/// The folder itself, or the nearest above it that exists.
fn existing(folder: &Path) -> &Path {
    let existing = folder.ancestors().find(|ancestor| ancestor.exists() || ancestor.is_symlink());
    existing.unwrap_or(Path::new("."))
}

fn same_folder(checker: &mut Checker<'_>, at: &Node) {
    checker.mistake(
        "invalid_value",
        at,
        "this is the folder that is read: files would come again for ever",
        "name another folder, a subfolder for one",
    );
}

fn no_meaning(checker: &mut Checker<'_>, at: &Node, key: &str) {
    checker.mistake(
        "invalid_value",
        at,
        format!("`{key}` has no meaning with `follow`: files are read as they grow, and stay where they are"),
        format!("leave `{key}` out, or read the files by `lines`"),
    );
}

/// Hashes that say nothing outside of this process.
fn process_secret() -> &'static RandomState {
    static SECRET: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    &SECRET
}

/// Whether the process may do this in `at`: the folder, or one above it.
fn may(folder: &ConfiguredPath, at: &Path, access: Access, what: &str) -> Result<(), String> {
    // By the effective user, as the work itself will be done. The library emulates the flag only where both are the same.
    let asked = match rustix::fs::accessat(CWD, at, access, AtFlags::EACCESS) {
        Err(rustix::io::Errno::NOSYS) => rustix::fs::accessat(CWD, at, access, AtFlags::empty()),
        asked => asked,
    };
    asked.map_err(|error| {
        format!(
            "the process may not {what} the folder {}: {}. Mend its owner or permissions",
            if at == folder.path() { format!("`{folder}`") } else { folder.ancestor_text(at) },
            io::Error::from(error)
        )
    })
}

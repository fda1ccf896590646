//! The file adapter's part of a flow file, as written. One type gives the parser, the JSON Schema and the reference; what a
//! type cannot say (a glob that parses, folders that differ) is checked in `source::spec` and `sink::spec`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

/// What stands under `source: file:`. Takes the files of one folder, each once, whole or line by line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// The folder to take files from. Relative to the runtime's base folder. It must be writable: a file is claimed by moving
    /// it into `.gristmill` inside; with `follow`, reading is enough. Its subfolders are not read.
    pub directory: PathBuf,
    /// Whether `directory` is made when it is missing. Without it, a missing folder is an error: it may mean that a disk is
    /// not mounted.
    #[serde(default)]
    pub create_directory: bool,
    /// Which file names are taken: `*` any characters, `?` one, `[a-z]` one of these, `{xml,json}` either.
    #[serde(default = "default_pattern")]
    pub pattern: String,
    /// In which order files that are ready together are taken.
    #[serde(default)]
    pub order: FileOrder,
    /// A file is taken once its size and time of change have rested for this long, in milliseconds. 0 takes a file as soon
    /// as it is seen: only for files that are moved in whole (by rename).
    #[serde(default = "default_settle_ms")]
    #[schemars(range(min = 0, max = 86_400_000))]
    pub settle_ms: u64,
    /// The folder is listed at least this often, in milliseconds, also when the system tells of no change (network file
    /// systems).
    #[serde(default = "default_poll_ms")]
    #[schemars(range(min = 10, max = 3_600_000))]
    pub poll_ms: u64,
    /// Whether a file is one message, or each of its lines is, or each line that other processes add to it.
    #[serde(default)]
    pub read: Read,
    /// The content type of the messages. Without it, it is guessed from the extension of the file's name.
    #[serde(default)]
    pub content_type: Option<String>,
    /// What becomes of a file that is done. Without it, it is moved to `done` inside the folder. Not with `follow`.
    #[serde(default)]
    pub done: Option<Done>,
    /// Where what was rejected is kept. Without it, in `failed` inside the folder; with `follow`, inside the flow's folder of
    /// the runtime's state.
    #[serde(default)]
    pub failed: Option<MoveTo>,
}

/// In which order files that are ready together are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileOrder {
    /// By name, byte by byte.
    #[default]
    Name,
    /// By time of change, the oldest first; then by name.
    Modified,
}

/// How a file becomes messages.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Read {
    /// A file is one message. A file larger than the flow's `body_bytes` is rejected.
    Whole(Whole),
    /// Each line of a file is a message.
    Lines(Lines),
    /// Each line that other processes add to a file is a message, as they add it (`tail -F`). Files stay where they are.
    Follow(Follow),
}

/// A file is one message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Whole {}

/// Each line of a file is a message. A line ends with LF or CRLF, which is not part of the message, or with the end of the
/// file. A byte order mark (UTF-8) at the start of the file is left out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lines {
    /// The longest line, in bytes. A longer one is rejected. The flow's `body_bytes` bounds it as well.
    #[schemars(range(min = 1, max = 1_073_741_824))]
    pub max_line_bytes: usize,
    /// What becomes of empty lines.
    pub empty_lines: EmptyLines,
}

/// Each line that other processes add to a file is a message. A line ends with LF or CRLF; one without an end waits for it.
/// Files that are renamed, truncated and begun anew are followed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Follow {
    /// Where files are begun that are there when the flow follows the folder, or its pattern, for the first time. Files that
    /// appear later are begun at their beginning.
    pub start_at: StartAt,
    /// The longest line, in bytes. A longer one is rejected. The flow's `body_bytes` bounds it as well.
    #[schemars(range(min = 1, max = 1_073_741_824))]
    pub max_line_bytes: usize,
    /// What becomes of empty lines.
    pub empty_lines: EmptyLines,
    /// How many files are held open at once. More are followed in turn.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_files: usize,
    /// A file is closed once nothing has been added to it for this long, in milliseconds, until something is.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub idle_close_ms: u64,
    /// A file that was renamed or deleted is finished once nothing has been added to it for this long, in milliseconds:
    /// so long may its writer take to notice. What stands after its last line break is a line then.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub rotated_wait_ms: u64,
}

/// Where a file is begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartAt {
    /// With its first line.
    #[default]
    Beginning,
    /// With the first line that ends after now.
    End,
}

/// What becomes of empty lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmptyLines {
    /// They are no messages.
    #[default]
    Skip,
    /// They are messages with an empty body.
    Keep,
}

/// What becomes of a file that is done.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// It is moved to a folder.
    Move(MoveTo),
    /// It is deleted.
    Delete(Delete),
}

/// A folder to move files to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveTo {
    /// The folder, on the same file system as the source's. Relative to the runtime's base folder. Made when it is missing.
    pub directory: PathBuf,
}

/// The file is deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Delete {}

/// What stands under `send: file:` and `dead_letter: file:`. Writes one file a message, or one line a message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    /// The folder to write to. Relative to the runtime's base folder.
    pub directory: PathBuf,
    /// The name of the file inside the folder; may hold expressions (`${…}`). A name can never lead out of the folder.
    /// Without it, one file a message is named after the message's id; `append` needs one.
    #[serde(default)]
    pub name: Option<String>,
    /// One file a message, or one line a message.
    #[serde(default)]
    pub mode: Mode,
    /// Whether `name` may hold `/`, to write into subfolders, which are made when they are missing.
    #[serde(default)]
    pub subdirectories: bool,
    /// Whether `directory` is made when it is missing. Say `false` where a missing folder means that a disk is not mounted.
    #[serde(default = "default_true")]
    pub create_directory: bool,
    /// The permissions of the files that are made, octal and in quotes, like `"0640"`; whatever the process's umask. Folders
    /// that are made may be entered by who may read the files. Without it: in a `dead_letter`, `"0600"`, for the process's
    /// user alone; in a `send`, what the umask leaves.
    #[serde(default)]
    #[schemars(with = "Option<String>", regex(pattern = "^0?6[0246][0246]$"))]
    pub file_mode: Option<FileMode>,
}

/// The permissions of files, of which the process's user always has reading and writing, and nobody has executing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct FileMode(u32);

/// How messages become files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Each message is a file of its own, which is there whole or not at all.
    OneFile(OneFile),
    /// Each message is a line at the end of a file.
    Append(Append),
}

/// Each message is a file of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneFile {
    /// What to do when a file of that name is there. Without it: `fail` in a `send`, `number` in a `dead_letter`.
    #[serde(default)]
    pub if_exists: Option<IfExists>,
}

/// What to do when a file of that name is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IfExists {
    /// The message is rejected, unless the file holds just the same bytes: then it was written by an earlier attempt.
    Fail,
    /// The file is replaced, in one step.
    Replace,
    /// The message counts as sent; nothing is written.
    Skip,
    /// The name gets a number: `order.json`, `order-1.json`, `order-2.json`.
    Number,
}

/// Each message is a line at the end of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Append {
    /// What to do with a body that holds line breaks. One line break at its end is always left out.
    #[serde(default)]
    pub newline: Newline,
    /// When to begin a new file. Without it, never.
    #[serde(default)]
    pub rotate: Option<Rotate>,
}

/// What to do with a body that holds line breaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Newline {
    /// The message is rejected.
    #[default]
    Reject,
    /// Each run of line breaks becomes one space: changes nothing in JSON, where line breaks only stand between tokens.
    Space,
    /// LF is written `\n`, CR `\r` and a backslash `\\`: can be turned back.
    Escape,
}

/// When to begin a new file. The old one is renamed: `orders.jsonl` becomes `orders-20260131T120000.000Z.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// Before a line that would make the file larger than this, in bytes.
    #[serde(default)]
    #[schemars(range(min = 1_024))]
    pub max_bytes: Option<u64>,
    /// Before a line that comes this long after the file was begun, in milliseconds.
    #[serde(default)]
    #[schemars(range(min = 1_000))]
    pub max_age_ms: Option<u64>,
    /// How many renamed files are kept; the oldest is deleted. Without it, all.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100_000))]
    pub keep: Option<usize>,
}

// === impl Read ===

impl Default for Read {
    fn default() -> Self {
        Self::Whole(Whole {})
    }
}

// === impl Lines ===

impl Default for Lines {
    fn default() -> Self {
        Self { max_line_bytes: 1024 * 1024, empty_lines: EmptyLines::Skip }
    }
}

// === impl Follow ===

impl Default for Follow {
    fn default() -> Self {
        Self {
            start_at: StartAt::Beginning,
            max_line_bytes: 1024 * 1024,
            empty_lines: EmptyLines::Skip,
            max_files: 256,
            idle_close_ms: 300_000,
            rotated_wait_ms: 5_000,
        }
    }
}

// === impl FileMode ===

impl FileMode {
    /// As the system counts them.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl TryFrom<String> for FileMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match u32::from_str_radix(&text, 8) {
            Ok(bits) if bits & !0o066 == 0o600 => Ok(Self(bits)),
            _ => Err(format!("`{text}` is no mode of a file: write one like \"0640\"")),
        }
    }
}

// === impl Mode ===

impl Default for Mode {
    fn default() -> Self {
        Self::OneFile(OneFile::default())
    }
}

fn default_pattern() -> String {
    "*".to_owned()
}

fn default_settle_ms() -> u64 {
    1_000
}

fn default_poll_ms() -> u64 {
    1_000
}

fn default_true() -> bool {
    true
}

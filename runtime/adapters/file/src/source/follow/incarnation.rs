//! One life of a file: from when it was met, or truncated, until it is gone or truncated again. Its messages have their
//! offsets in it, so each life has a stamp of its own.

use std::{
    collections::VecDeque,
    fs::{File, Metadata},
    hash::{BuildHasher, RandomState},
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use gristmill_core::{Headers, message::CONTENT_TYPE};

use super::{
    checkpoint::{Entry, Print},
    settings::Settings,
};
use crate::{
    content_type,
    source::{claimed::Reason, ledger::Ledger, origin::with_stamp, progress::Progress},
};

/// One life of a file.
#[derive(Debug)]
pub(crate) struct Incarnation {
    /// What it was called when it was met. Only a label: files are told apart by what they are.
    pub(crate) name: String,
    pub(crate) inode: u64,
    pub(crate) born: Option<u64>,
    stamp: u64,
    /// Where in the file it was begun.
    begun_at: u64,
    /// The part of message ids before the offset.
    origin: String,
    state: Mutex<State>,
}

/// What changes while the file is followed.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) ledger: Ledger,
    /// The number of its device: the system may give it another one.
    pub(crate) device: u64,
    /// The ends of the lines that were read and what stands before them, from the first unsettled one on.
    anchors: VecDeque<(u64, Print)>,
    /// What stands before the offset up to which everything is settled.
    anchor: Print,
    /// What the file begins with.
    pub(crate) head: Print,
    /// Lines to be kept among the rejected ones before they count as settled.
    pub(crate) rejections: Vec<Rejection>,
    /// Messages that have settled since the last flush.
    pub(crate) unnoted: usize,
    /// Whether it waits to be flushed.
    pub(crate) queued: bool,
    /// When it was last seen in the folder, in milliseconds since 1970.
    pub(crate) seen_ms: u64,
}

/// A line that was read.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) file: Arc<Incarnation>,
    /// Its place in the ledger.
    pub(crate) slot: u64,
    pub(crate) start: u64,
    /// Its number in the file, from 1, if that is known.
    pub(crate) line: Option<u64>,
    /// The order in which lines were read, of all files.
    pub(crate) number: u64,
    pub(crate) body: Bytes,
    /// With the content type as it was set when the line was read.
    pub(crate) headers: Headers,
}

/// A line that was rejected.
#[derive(Debug)]
pub(crate) struct Rejection {
    pub(crate) slot: u64,
    pub(crate) start: u64,
    pub(crate) line: Option<u64>,
    pub(crate) content: Content,
    pub(crate) reason: Reason,
}

/// What a rejected line holds. Those that were offered are in memory, for the file may be truncated by now.
#[derive(Debug)]
pub(crate) enum Content {
    Bytes(Bytes),
    /// Too long for that: between the start of the line and this offset.
    In(Arc<File>, u64),
}

/// The time of birth, in nanoseconds since 1970, where the file system knows it.
pub(crate) fn born(metadata: &Metadata) -> Option<u64> {
    let since = metadata.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok()
}

impl Incarnation {
    /// A life that begins at this offset, which `before` stands before.
    pub(crate) fn begin(
        name: String,
        metadata: &Metadata,
        offset: u64,
        before: &[u8],
        settings: &Settings,
    ) -> Self {
        let (inode, born) = (metadata.ino(), born(metadata));
        let entry = Entry {
            device: metadata.dev(),
            inode,
            born,
            head: Print::of(&[]),
            anchor: Print::of(before),
            // Seeded anew for each process, and with the time: no two are alike.
            stamp: RandomState::new().hash_one((inode, born, SystemTime::now())),
            name,
            begun_at: offset,
            offset,
            line: 1,
            settled: Vec::new(),
            seen_ms: settings.clock.now().as_millis(),
        };
        Self::known(entry, settings)
    }

    /// A life that is known from before.
    pub(crate) fn known(entry: Entry, settings: &Settings) -> Self {
        let Entry {
            device,
            inode,
            born,
            head,
            anchor,
            stamp,
            name,
            begun_at,
            offset,
            line,
            settled,
            seen_ms,
        } = entry;
        let progress = Progress { inode, offset, line, settled, finished: false };
        Self {
            origin: with_stamp(&settings.directory, &name, stamp),
            name,
            inode,
            born,
            stamp,
            begun_at,
            state: Mutex::new(State {
                ledger: Ledger::new(Some(progress)),
                device,
                anchors: VecDeque::new(),
                anchor,
                head,
                rejections: Vec::new(),
                unnoted: 0,
                queued: false,
                seen_ms,
            }),
        }
    }

    /// A poisoned lock is taken all the same: at worst a message settles twice, which changes nothing.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the numbers of its lines are known: not in a file that was begun in the middle.
    pub(crate) fn counts_lines(&self) -> bool {
        self.begun_at == 0
    }

    /// The id of the message at this offset.
    pub(crate) fn message_id(&self, offset: u64) -> String {
        format!("{}:{offset}", self.origin)
    }

    /// What the headers of its messages begin with.
    pub(crate) fn headers(&self, settings: &Settings) -> Headers {
        let mut headers = Headers::new();
        let content_type =
            settings.content_type.as_deref().or_else(|| content_type::of_name(&self.name, true));
        let values = [
            (CONTENT_TYPE, content_type),
            ("file-path", Some(&*settings.directory.written_path_of(&self.name))),
            ("file-name", Some(&*self.name)),
        ];
        for (header, value) in values {
            // The values are free of control characters, but for a folder's name, of which that cannot be said.
            if let Some(Err(error)) = value.map(|value| headers.append(header, value)) {
                tracing::debug!(%error, "left out");
            }
        }
        headers
    }

    /// What to keep on disk.
    pub(crate) fn entry(&self) -> Entry {
        let mut state = self.state();
        let Progress { inode, offset, line, settled, .. } = state.ledger.progress(self.inode);
        state.forget_anchors();
        Entry {
            device: state.device,
            inode,
            born: self.born,
            head: state.head,
            anchor: state.anchor,
            stamp: self.stamp,
            name: self.name.clone(),
            begun_at: self.begun_at,
            offset,
            line,
            settled,
            seen_ms: state.seen_ms,
        }
    }
}

impl State {
    /// A line up to `end` was read; `before` is of what stands before that.
    pub(crate) fn note_end(&mut self, end: u64, before: Print) {
        self.anchors.push_back((end, before));
        self.forget_anchors();
    }

    /// Everything up to which offset is settled, the number of the line there, and what stands before it.
    pub(crate) fn position(&mut self) -> (u64, u64, Print) {
        self.forget_anchors();
        let (offset, line) = self.ledger.position();
        (offset, line, self.anchor)
    }

    /// Those before the first unsettled line are not asked for any more.
    fn forget_anchors(&mut self) {
        let (offset, _) = self.ledger.position();
        while let Some((_, anchor)) = self.anchors.pop_front_if(|(end, _)| *end <= offset) {
            self.anchor = anchor;
        }
    }
}

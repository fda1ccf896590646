//! How often files of a folder are written to, as the kernel tells it (inotify(7)): what is written to is not asked, and is not
//! slowed down by more than the telling.

use std::{
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::{Context, Result};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

/// Counts while it is there, and the process lives.
#[derive(Debug)]
pub(crate) struct Writes {
    counted: Arc<AtomicU64>,
}

/// What counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    /// Each write.
    Write,
    /// Each time that someone closes a file to which it was to write.
    Close,
}

impl Writes {
    /// Begins to count in this folder.
    ///
    /// # Errors
    /// When the folder cannot be watched.
    pub(crate) fn count(folder: &Path, what: What) -> Result<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC)?;
        let flags = match what {
            What::Write => WatchFlags::MODIFY,
            What::Close => WatchFlags::CLOSE_WRITE,
        };
        inotify::add_watch(&watch, folder, flags)
            .with_context(|| format!("cannot watch {}", folder.display()))?;
        let counted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&counted);
        // Nothing ends its wait but the end of the process: there is one for each run of the case.
        std::thread::spawn(move || follow(&watch, &count));
        Ok(Self { counted })
    }

    /// How often, so far. Two that follow each other faster than they are told of may count once.
    pub(crate) fn so_far(&self) -> u64 {
        self.counted.load(Relaxed)
    }
}

fn follow(watch: &OwnedFd, counted: &AtomicU64) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(watch, &mut buffer);
    while let Ok(event) = events.next() {
        if event.events().intersects(ReadFlags::MODIFY | ReadFlags::CLOSE_WRITE) {
            counted.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::OpenOptions,
        io::Write as _,
        time::{Duration, Instant},
    };

    use super::*;

    /// Waits until that many were counted.
    fn reaches(writes: &Writes, wanted: u64) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while writes.so_far() < wanted {
            assert!(Instant::now() < deadline, "{writes:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(writes.so_far(), wanted);
    }

    #[test]
    fn what_is_written_and_what_is_closed_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = OpenOptions::new().create(true).append(true).open(folder.path().join("a")).unwrap();
        let written = Writes::count(folder.path(), What::Write).unwrap();
        let closed = Writes::count(folder.path(), What::Close).unwrap();
        for number in 1..=3 {
            file.write_all(b"x").unwrap();
            reaches(&written, number);
        }
        drop(file);
        reaches(&closed, 1);
        assert_eq!(written.so_far(), 3);
    }
}

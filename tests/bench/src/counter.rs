//! How often another process asks for memory: it is started with the library `bench-counting`, which counts in a file.

use std::{fs::File, io::Write as _, os::unix::fs::FileExt as _, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;

/// What the library is told the name of the file by.
const COUNTER: &str = "GRISTMILL_BENCH_COUNTER";

/// The counter of one process.
#[derive(Debug)]
pub(crate) struct Counter(NamedTempFile);

impl Counter {
    /// Makes the command start a process that is counted.
    ///
    /// # Errors
    /// There is no such library, or no file can be written.
    pub(crate) fn of(command: &mut Command, library: &Path) -> Result<Self> {
        File::open(library)
            .with_context(|| format!("cannot open {}, which counts allocations", library.display()))?;
        let mut file = NamedTempFile::new()?;
        file.write_all(&0_u64.to_ne_bytes())?;
        command.env("LD_PRELOAD", library).env(COUNTER, file.path());
        Ok(Self(file))
    }

    /// How often the process asked so far.
    ///
    /// # Errors
    /// Never, or it is not counted: nothing starts without memory.
    pub(crate) fn so_far(&self) -> Result<u64> {
        let mut calls = [0; 8];
        self.0.as_file().read_exact_at(&mut calls, 0)?;
        let calls = u64::from_ne_bytes(calls);
        ensure!(calls > 0, "the process asks for memory, and it is not counted");
        Ok(calls)
    }
}

//! A disk with little room, which can be filled: a file system in memory, in a mount namespace that a process of its own
//! holds, so that it outlives the runtime and is gone with the bench.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// What takes the room.
pub const FILLER: &str = "filler";

/// A folder that is a disk of its own. Gone when dropped.
#[derive(Debug)]
pub struct Disk {
    holder: Child,
    /// The folder as the bench sees it.
    seen: PathBuf,
}

impl Disk {
    /// Mounts one over this folder; the text of the error says why that cannot be.
    ///
    /// # Errors
    /// This system lets no one, or not this user, mount a file system of its own.
    pub fn mount(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut holder = Command::new("unshare")
            .args([
                "-rm",
                "sh",
                "-c",
                r#"mount -t tmpfs -o size=192m little "$0" && echo mounted && exec cat > /dev/null"#,
            ])
            .arg(folder)
            // It ends when the bench does, and the mount with it.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("`unshare` cannot be run")?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().context("no output")?).read_line(&mut line)?;
        let seen = PathBuf::from(format!("/proc/{}/root", holder.id())).join(folder.strip_prefix("/")?);
        let disk = Self { holder, seen };
        ensure!(line.trim() == "mounted", "this system does not let `unshare -rm` mount a small file system");
        Ok(disk)
    }

    /// A command that runs in `folder`, where the disk is mounted.
    pub fn enter(&self, folder: &Path, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        let holder = self.holder.id().to_string();
        command.args(["--target", &holder, "--user", "--mount", "--preserve-credentials"]);
        let mut inside = std::ffi::OsString::from("--wdns=");
        inside.push(folder);
        command.arg(inside).arg(program);
        command
    }

    /// The folder, from outside.
    pub fn path(&self) -> &Path {
        &self.seen
    }

    /// Takes all the room that is left, to the last byte.
    ///
    /// # Errors
    /// The filler cannot be made.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::create(self.seen.join(FILLER))?;
        for size in [1 << 20, 4096, 16] {
            let chunk = vec![0; size];
            while filler.write_all(&chunk).is_ok() {}
        }
        Ok(())
    }

    /// Gives it back.
    pub fn make_room(&self) {
        // It may not be there.
        let _gone = fs::remove_file(self.seen.join(FILLER));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ended = (self.holder.kill(), self.holder.wait());
    }
}

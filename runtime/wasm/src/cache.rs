//! Compiled code on disk, so that a restart or a reload does not compile twice. What is loaded from here runs as machine
//! code, so it is only as good as the file is safe: the folder and each file belong to the runtime's user and to nobody
//! else, and each file carries a checksum, without which a torn write would be executed.
//!
//! A file is a line of text, 32 bytes of SHA-256 over all that follows, the length of the description (4 bytes, little
//! endian), the description as JSON, and the code. Its name is a hash of the plugin's content, the engine's version and
//! settings, and the version of this format: what does not fit is not found.

use std::{
    fs::{self, DirBuilder, File, Metadata},
    hash::{Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};
use wasmtime::{Engine, component::Component};

use crate::{contract::WitDescription, folder::hex};

const MAGIC: &[u8] = b"gristmill compiled plugin 1\n";
const DIGEST_BYTES: usize = 32;
const SUFFIX: &str = ".code";
const TEMPORARY: &str = ".tmp";

/// After how long a temporary file belongs to a process that has died.
const TEMPORARY_LIFE: Duration = Duration::from_secs(3600);

/// A folder of compiled code.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    max_bytes: u64,
    /// What of the key is the same for all plugins.
    environment: [u8; DIGEST_BYTES],
}

/// What the cache holds of a plugin.
pub(crate) struct Entry {
    pub(crate) component: Component,
    pub(crate) description: WitDescription,
}

/// Feeds what is hashed into SHA-256: the keys outlive the process, and no hasher of the standard library promises that.
struct StableHasher(Sha256);

// === impl Cache ===

impl Cache {
    /// Opens the folder, and makes it if there is none.
    ///
    /// # Errors
    /// When it cannot be made or is not safe: a link, another user's, open to others.
    pub(crate) fn open(dir: PathBuf, max_bytes: u64, engine: &Engine) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let metadata = fs::symlink_metadata(&dir)?;
        if !metadata.is_dir() {
            return Err(io::Error::other("it is not a folder"));
        }
        check_private(&metadata)?;
        let mut hasher = StableHasher(Sha256::new());
        hasher.write(MAGIC);
        hasher.write(env!("CARGO_PKG_VERSION").as_bytes());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { dir, max_bytes, environment: hasher.0.finalize().into() })
    }

    /// The compiled plugin, if it is here and whole. What is damaged is deleted.
    pub(crate) fn get(&self, engine: &Engine, digest: &str) -> Option<Entry> {
        let path = self.path(digest);
        match self.read(engine, &path) {
            Ok(entry) => Some(entry),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "compiled code is not used and will be made again");
                // If this fails too, the next write replaces it.
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Keeps a compiled plugin. A cache that cannot be written only costs time, so that is logged and no more.
    pub(crate) fn put(&self, digest: &str, component: &Component, description: &WitDescription) {
        let path = self.path(digest);
        let put = encode(component, description).and_then(|bytes| self.write(&path, &bytes));
        if let Err(error) = put {
            tracing::warn!(file = %path.display(), %error, "compiled code cannot be kept");
        }
        if let Err(error) = self.trim() {
            tracing::warn!(folder = %self.dir.display(), %error, "the folder of compiled code cannot be tidied");
        }
    }

    fn path(&self, digest: &str) -> PathBuf {
        let mut key = Sha256::new();
        key.update(self.environment);
        key.update(digest);
        self.dir.join(format!("{}{SUFFIX}", hex(&key.finalize())))
    }

    fn read(&self, engine: &Engine, path: &Path) -> io::Result<Entry> {
        let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).map_err(io::Error::other)?;
        let mut file = File::options().read(true).custom_flags(nofollow).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        check_private(&metadata)?;
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(self.max_bytes)).unwrap_or(0));
        (&mut file).take(self.max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
        let (description, code) = decode(&bytes).ok_or_else(|| io::Error::other("it is damaged"))?;
        let description = serde_json::from_slice(description)?;
        // SAFETY: the code is what `Component::serialize` gave to this host: the file is the runtime user's own and no
        // one else can write it, it is whole by its checksum, it is read once and not mapped, and its name says that it
        // was made by this engine's version with these settings, which the engine checks again.
        #[allow(
            unsafe_code,
            reason = "loading compiled code is trusting it; the conditions are checked above"
        )]
        let component = unsafe { Component::deserialize(engine, code) }.map_err(io::Error::other)?;
        // Used lately, so tidied late. It only orders the tidying.
        let _ = file.set_modified(SystemTime::now());
        Ok(Entry { component, description })
    }

    /// Writes beside and renames, so that no one ever reads half a file.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let unique = format!("{}-{}{TEMPORARY}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let temporary = self.dir.join(unique);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let written = file.write_all(bytes).and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            // The error that matters is the first.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Deletes what was not used for longest until the rest is under the limit.
    fn trim(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let (name, metadata) = (entry.file_name(), entry.metadata()?);
            let name = name.to_string_lossy();
            let modified = metadata.modified()?;
            if name.ends_with(SUFFIX) {
                files.push((modified, metadata.len(), entry.path()));
            } else if name.ends_with(TEMPORARY) && modified.elapsed().unwrap_or_default() > TEMPORARY_LIFE {
                fs::remove_file(entry.path())?;
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if total <= self.max_bytes {
                break;
            }
            fs::remove_file(path)?;
            total -= len;
        }
        Ok(())
    }
}

/// Whether what this describes belongs to the runtime's user, and to nobody else.
fn check_private(metadata: &Metadata) -> io::Result<()> {
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        return Err(io::Error::other(format!(
            "its mode {mode:o} gives others access; use 700 for the folder"
        )));
    }
    Ok(())
}

fn encode(component: &Component, description: &WitDescription) -> io::Result<Vec<u8>> {
    let description = serde_json::to_vec(description)?;
    let code = component.serialize().map_err(io::Error::other)?;
    let length = u32::try_from(description.len()).map_err(io::Error::other)?.to_le_bytes();
    let mut digest = Sha256::new();
    for part in [&length[..], &description, &code] {
        digest.update(part);
    }
    Ok([MAGIC, &digest.finalize(), &length, &description, &code].concat())
}

/// Description and code of a file that is whole.
fn decode(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (digest, rest) = bytes.strip_prefix(MAGIC)?.split_at_checked(DIGEST_BYTES)?;
    if *Sha256::digest(rest) != *digest {
        return None;
    }
    let (length, rest) = rest.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}

// === impl StableHasher ===

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first))
    }
}

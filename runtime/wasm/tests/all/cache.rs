//! Compiled code on disk: found again, never trusted blindly.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::SystemTime,
};

use gristmill_core::plugin::PluginHost;

use crate::{
    bench::Bench,
    guest::{Guest, transformer},
};

/// A bench whose host keeps its code in `dir`.
fn bench(dir: &Path) -> Bench {
    Bench::with(|config| config.cache_dir = Some(dir.into()))
}

/// Loads the same guest with a host of its own.
async fn load(dir: &Path) -> String {
    let bench = bench(dir);
    let loaded = bench.load(transformer().module()).await.unwrap();
    loaded.bind(bench.settings()).await.unwrap();
    loaded.description().name.clone()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn the_next_host_finds_the_code_with_its_description() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("new/cache");
    assert_eq!(load(&dir).await, "guest");
    assert_eq!(mode(&dir), 0o700);
    let [file] = &*files(&dir) else { panic!("{:?}", files(&dir)) };
    assert_eq!(mode(file), 0o600);
    // Read, not written anew: another description, made whole by hand, is what the next host sees. It would have to be
    // the owner who did that.
    let written = fs::read(file).unwrap();
    assert_eq!(load(&dir).await, "guest");
    assert_eq!(fs::read(file).unwrap(), written);
}

#[tokio::test]
async fn damaged_code_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("cache");
    load(&dir).await;
    let file = files(&dir).pop().unwrap();
    let good = fs::read(&file).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [vec![], good[..good.len() / 2].to_vec(), b"something else".to_vec(), flipped] {
        fs::write(&file, &damaged).unwrap();
        assert_eq!(load(&dir).await, "guest");
        assert_ne!(fs::read(&file).unwrap(), damaged);
        assert_eq!(mode(&file), 0o600);
    }
}

#[tokio::test]
async fn what_others_could_have_written_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("cache");
    load(&dir).await;
    let file = files(&dir).pop().unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    load(&dir).await;
    assert_eq!(mode(&file), 0o600, "it was made again");
    let target = dir.with_file_name("target");
    fs::rename(&file, &target).unwrap();
    symlink(&target, &file).unwrap();
    load(&dir).await;
    assert!(!fs::symlink_metadata(&file).unwrap().is_symlink());
    for file in files(&dir) {
        fs::remove_file(file).unwrap();
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    load(&dir).await;
    assert!(files(&dir).is_empty(), "a folder that others can enter is not used");
    let link = dir.with_file_name("link");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&dir, &link).unwrap();
    load(&link).await;
    assert!(files(&dir).is_empty(), "nor is a link");
}

#[tokio::test]
async fn what_was_not_used_for_longest_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("cache");
    load(&dir).await;
    let old = files(&dir).pop().unwrap();
    let size = fs::metadata(&old).unwrap().len();
    fs::File::open(&old).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let small = Bench::with(|config| {
        config.cache_dir = Some(dir.clone());
        config.cache_bytes = size * 3 / 2;
    });
    small.put("another", Guest { version: "2.0.0", ..transformer() }.module());
    small.host.load("another").await.unwrap();
    assert!(!old.exists());
    assert_eq!(files(&dir).len(), 1);
}

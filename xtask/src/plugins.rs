//! Builds guests into `.wasm` files, with the first route that works on this machine:
//!
//! 1. the target `wasm32-wasip2`, if it is installed (a component comes out);
//! 2. the same, after `rustup target add wasm32-wasip2`, if rustup can fetch it within [`RUSTUP_TIMEOUT`];
//! 3. Debian's compiler, which brings the standard library's source, for machines that reach neither (a core module that
//!    carries its component type comes out; the runtime makes a component of it).
//!
//! Guests have a target folder and a profile of their own, given on the command line, so that building them neither
//! disturbs the host's builds nor depends on a workspace's profiles.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{apt, cargo};

/// Forces a route, like `--route`: `wasip2` or `debian`.
const ROUTE_VARIABLE: &str = "GRISTMILL_PLUGIN_ROUTE";

/// How long rustup may take to fetch the target. Without a network it would try for minutes.
const RUSTUP_TIMEOUT: Duration = Duration::from_secs(60);

const WASIP2: &str = "wasm32-wasip2";
const UNKNOWN: &str = "wasm32-unknown-unknown";

/// Debian's names for a compiler new enough, its library's source and a linker for Wasm.
const DEBIAN_PACKAGES: [&str; 5] =
    ["rustc-web", "cargo-web", "rust-web-src", "libstd-rust-web-dev", "lld-19"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_LINKER: &str = "/usr/bin/wasm-ld-19";

/// The guests' profile. A guest that panics is thrown away whole, so it need not unwind.
///
/// Functions are inlined up to four times the size that is usual: the runtime's way to stop a guest that runs too long is a
/// look at a counter on entering each function, so fewer and larger ones are worth a sixth of the time of a transformer of
/// JSON, for a fifth more code. The same settings are in what `gristmill new plugin` writes.
const PROFILE: &str = "guest";
const SETTINGS: [&str; 9] = [
    r#"profile.guest.inherits="release""#,
    "profile.guest.opt-level=3",
    r#"profile.guest.lto="fat""#,
    "profile.guest.codegen-units=1",
    r#"profile.guest.panic="abort""#,
    r#"profile.guest.strip="symbols""#,
    "profile.guest.debug=false",
    r#"target.wasm32-wasip2.rustflags=["-Cllvm-args=-inline-threshold=1000"]"#,
    r#"target.wasm32-unknown-unknown.rustflags=["-Cllvm-args=-inline-threshold=1000"]"#,
];

/// How to compile for Wasm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Route {
    /// rustup's target `wasm32-wasip2`, installed or fetched.
    Wasip2,
    /// Debian's compiler and the library's source.
    Debian,
}

/// What to build, where to, and how.
#[derive(Debug)]
pub(crate) struct Options {
    /// The route; `None` takes the first that works.
    pub(crate) route: Option<Route>,
    /// The folders of the guests' manifests, members of the workspace or not.
    pub(crate) guests: Vec<PathBuf>,
    /// Where the `.wasm` files go.
    pub(crate) out: PathBuf,
}

impl Options {
    /// The first-party plugins, into `plugins/`.
    pub(crate) fn first_party(root: &Path) -> Result<Self> {
        let out = root.join("plugins");
        let mut guests = Vec::new();
        for entry in fs::read_dir(&out).with_context(|| format!("cannot list {}", out.display()))? {
            let folder = entry?.path();
            if folder.join("Cargo.toml").is_file() {
                guests.push(folder);
            }
        }
        guests.sort();
        Ok(Options { route: None, guests, out })
    }
}

/// One guest that was built.
#[derive(Debug)]
pub(crate) struct Plugin {
    /// The package's name.
    pub(crate) name: String,
    /// The `.wasm` file.
    pub(crate) path: PathBuf,
    /// Its size.
    pub(crate) bytes: u64,
    /// Whether the file was written, as it differs from the one that was there.
    pub(crate) changed: bool,
}

/// The arguments of `cargo xtask plugins`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Take this route, instead of the first that works.
    #[arg(long, env = ROUTE_VARIABLE)]
    route: Option<Route>,
    /// Where the .wasm files go [default: plugins/]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Folders of guests to build [default: all under plugins/]
    guests: Vec<PathBuf>,
}

/// Runs `cargo xtask plugins`.
pub(crate) fn run(root: &Path, arguments: Arguments) -> Result<()> {
    let mut options = Options::first_party(root)?;
    options.route = arguments.route;
    options.out = arguments.out.unwrap_or(options.out);
    if !arguments.guests.is_empty() {
        options.guests = arguments.guests;
    }
    let started = Instant::now();
    for plugin in build(root, &options)? {
        let state = if plugin.changed { "new" } else { "unchanged" };
        println!("{:>8} KiB  {}  {state}", plugin.bytes.div_ceil(1024), plugin.path.display());
    }
    println!("plugins are built, in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Builds the guests and puts each into `options.out` as `<package name>.wasm`, only if it changed, and by renaming, so
/// that a runtime that watches the folder never sees half a file.
pub(crate) fn build(root: &Path, options: &Options) -> Result<Vec<Plugin>> {
    let toolchain = Toolchain::find(options.route)?;
    println!("building {} plugins with {toolchain}", options.guests.len());
    fs::create_dir_all(&options.out).with_context(|| format!("cannot create {}", options.out.display()))?;

    let own = Workspace::of(root)?;
    let target = own.target.join("guests");
    let mut workspaces = BTreeMap::from([(own.root.clone(), (own, Vec::new()))]);
    for folder in &options.guests {
        let workspace = Workspace::of(folder)?;
        let guest = workspace.guest(folder)?;
        workspaces.entry(workspace.root.clone()).or_insert_with(|| (workspace, Vec::new())).1.push(guest);
    }

    let mut plugins = Vec::new();
    for (workspace, guests) in workspaces.into_values().filter(|(_, guests)| !guests.is_empty()) {
        toolchain.compile(&workspace.root, &guests, &target)?;
        for guest in guests {
            let file = format!("{}.wasm", guest.library);
            plugins.push(publish(
                &target.join(toolchain.target()).join(PROFILE).join(file),
                &guest.package,
                &options.out,
            )?);
        }
    }
    plugins.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(plugins)
}

/// Copies a result to where it is wanted.
fn publish(built: &Path, name: &str, out: &Path) -> Result<Plugin> {
    let bytes = fs::read(built).with_context(|| format!("cargo did not leave {}", built.display()))?;
    ensure!(bytes.starts_with(b"\0asm"), "{} is not WebAssembly", built.display());
    let path = out.join(format!("{name}.wasm"));
    let changed = fs::read(&path).map_or(true, |old| old != bytes);
    if changed {
        let temporary = out.join(format!(".{name}.wasm.{}", std::process::id()));
        fs::write(&temporary, &bytes).with_context(|| format!("cannot write {}", temporary.display()))?;
        fs::rename(&temporary, &path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Plugin { name: name.to_owned(), path, bytes: bytes.len() as u64, changed })
}

/// Where cargo puts what it builds in this workspace.
pub(crate) fn target_folder(root: &Path) -> Result<PathBuf> {
    Workspace::of(root).map(|workspace| workspace.target)
}

// === guests ===

/// What `cargo metadata` says of a workspace.
struct Workspace {
    root: PathBuf,
    target: PathBuf,
    packages: Vec<serde_json::Value>,
}

/// A package that makes a Wasm library.
struct Guest {
    package: String,
    /// The library's name, with underscores: the file's name.
    library: String,
}

impl Workspace {
    fn of(folder: &Path) -> Result<Self> {
        let manifest = folder.join("Cargo.toml");
        let output = Command::new(cargo())
            .args(["metadata", "--no-deps", "--format-version=1", "--manifest-path"])
            .arg(&manifest)
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo")?;
        ensure!(output.status.success(), "`cargo metadata` failed for {}", manifest.display());
        let metadata: serde_json::Value =
            serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")?;
        let path = |key: &str| metadata.get(key).and_then(|path| path.as_str()).map(PathBuf::from);
        Ok(Workspace {
            root: path("workspace_root").context("cargo metadata has no workspace_root")?,
            target: path("target_directory").context("cargo metadata has no target_directory")?,
            packages: metadata
                .get("packages")
                .and_then(|packages| packages.as_array())
                .cloned()
                .unwrap_or_default(),
        })
    }

    fn guest(&self, folder: &Path) -> Result<Guest> {
        let folder = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
        let manifest = folder.join("Cargo.toml");
        let package = self
            .packages
            .iter()
            .find(|package| {
                package.get("manifest_path").and_then(|path| path.as_str()).map(Path::new) == Some(&manifest)
            })
            .with_context(|| format!("{} is not a package", manifest.display()))?;
        let targets = package
            .get("targets")
            .and_then(|targets| targets.as_array())
            .map(Vec::as_slice)
            .unwrap_or_default();
        let is_library = |target: &&serde_json::Value| {
            let kinds = target.get("crate_types").and_then(|kinds| kinds.as_array());
            kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "cdylib"))
        };
        let name =
            |value: &serde_json::Value| value.get("name").and_then(|name| name.as_str()).map(str::to_owned);
        let library = targets.iter().find(is_library).and_then(name).with_context(|| {
            format!("{} makes no Wasm library: its [lib] needs crate-type = [\"cdylib\"]", manifest.display())
        })?;
        let package = name(package).with_context(|| format!("{} has no name", manifest.display()))?;
        Ok(Guest { package, library: library.replace('-', "_") })
    }
}

// === toolchains ===

/// A compiler for Wasm that is there.
enum Toolchain {
    /// The compiler in use has the target.
    Wasip2,
    /// Debian's.
    Debian,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Toolchain::Wasip2 => write!(f, "the target {WASIP2}"),
            Toolchain::Debian => write!(f, "Debian's compiler for {UNKNOWN}"),
        }
    }
}

impl Toolchain {
    fn find(route: Option<Route>) -> Result<Self> {
        match route {
            Some(Route::Wasip2) => {
                wasip2()?;
                Ok(Toolchain::Wasip2)
            }
            Some(Route::Debian) => {
                debian()?;
                Ok(Toolchain::Debian)
            }
            None => match wasip2() {
                Ok(()) => Ok(Toolchain::Wasip2),
                Err(without_wasip2) => match debian() {
                    Ok(()) => Ok(Toolchain::Debian),
                    Err(without_debian) => bail!(
                        "no way to compile for WebAssembly on this machine.\n  {WASIP2}: {without_wasip2:#}\n  Debian: \
                         {without_debian:#}\nInstall the target with `rustup target add {WASIP2}`, or on Debian: {}",
                        apt::by_hand(&DEBIAN_PACKAGES)
                    ),
                },
            },
        }
    }

    fn target(&self) -> &'static str {
        match self {
            Toolchain::Wasip2 => WASIP2,
            Toolchain::Debian => UNKNOWN,
        }
    }

    fn compile(&self, workspace: &Path, guests: &[Guest], target: &Path) -> Result<()> {
        let mut command = match self {
            Toolchain::Wasip2 => Command::new(cargo()),
            Toolchain::Debian => {
                let mut command = Command::new(DEBIAN_CARGO);
                command
                    .env("RUSTC", DEBIAN_RUSTC)
                    // Building the standard library is not a stable feature of cargo.
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", DEBIAN_LINKER)
                    // What rustup and the outer cargo left there is meant for another compiler.
                    .env_remove("RUSTUP_TOOLCHAIN")
                    .env_remove("CARGO")
                    .env_remove("RUSTDOC")
                    .env_remove("LD_LIBRARY_PATH");
                command
            }
        };
        command.args(["build", "--profile", PROFILE, "--target", self.target(), "--target-dir"]).arg(target);
        if let Toolchain::Debian = self {
            command.arg("-Zbuild-std=std,panic_abort");
        }
        for setting in SETTINGS {
            command.args(["--config", setting]);
        }
        for guest in guests {
            command.args(["--package", &guest.package]);
        }
        // In the workspace's folder, so that its own `.cargo/config.toml` counts.
        let status = command.current_dir(workspace).status().context("cannot run cargo")?;
        ensure!(status.success(), "the plugins of {} do not compile, see above", workspace.display());
        Ok(())
    }
}

/// Makes sure that the compiler in use has the target, fetching it if need be.
fn wasip2() -> Result<()> {
    if has_wasip2()? {
        return Ok(());
    }
    println!(
        "plugins are WebAssembly, and the Rust target {WASIP2} is not installed: fetching it with rustup"
    );
    let mut rustup = Command::new("rustup")
        .args(["target", "add", WASIP2])
        .spawn()
        .context("the target is not installed, and there is no rustup to fetch it")?;
    let started = Instant::now();
    loop {
        if let Some(status) = rustup.try_wait()? {
            ensure!(status.success() && has_wasip2()?, "rustup could not fetch the target");
            return Ok(());
        }
        if started.elapsed() > RUSTUP_TIMEOUT {
            rustup.kill()?;
            rustup.wait()?;
            bail!("rustup did not fetch the target within {} s", RUSTUP_TIMEOUT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn has_wasip2() -> Result<bool> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Ok(sysroot(Path::new(&rustc))?.join("lib/rustlib").join(WASIP2).join("lib").is_dir())
}

fn sysroot(rustc: &Path) -> Result<PathBuf> {
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .with_context(|| format!("cannot run {}", rustc.display()))?;
    ensure!(output.status.success(), "{} does not tell its sysroot", rustc.display());
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
}

/// Makes sure that Debian's compiler, source and linker are there, installing them if need be.
fn debian() -> Result<()> {
    if has_debian() {
        return Ok(());
    }
    apt::install(
        &DEBIAN_PACKAGES,
        "plugins are WebAssembly, and nothing here can compile it: installing Debian's compiler, its library's source and a \
         linker",
    )?;
    ensure!(has_debian(), "{DEBIAN_RUSTC} has no source of its library, or there is no {DEBIAN_LINKER}");
    Ok(())
}

fn has_debian() -> bool {
    let rustc = Path::new(DEBIAN_RUSTC);
    [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_LINKER].iter().all(|path| Path::new(path).is_file())
        && sysroot(rustc).is_ok_and(|sysroot| sysroot.join("lib/rustlib/src/rust/library/std").is_dir())
}

//! `gristmill new`: a flow or a plugin to begin with, which work at once.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::{
    cli::{NewFlowArguments, NewPluginArguments},
    files::{flow_files, shown},
    report::Problem,
};

/// The longest name.
const MAX_NAME_CHARS: usize = 64;

/// The port of a first flow, and how many are looked at for one that no other flow has.
const FIRST_PORT: u16 = 8080;
const PORTS: u16 = 100;

const FLOW: &str = include_str!("new_flow.yaml");

/// Writes a flow.
pub(crate) fn flow(arguments: &NewFlowArguments) -> Result<ExitCode, Problem> {
    check_name(&arguments.name)?;
    let path = arguments.dir.join(format!("{}.yaml", arguments.name));
    let port = free_port(&arguments.dir);
    let flow = FLOW.replace("{{name}}", &arguments.name).replace("{{port}}", &port.to_string());
    write_new(&path, &flow)?;
    say!("wrote {}", shown(&path));
    say!(
        "  gristmill run                                             runs it, and reloads it when you save it"
    );
    say!(
        "  curl -i -d '{{\"name\":\"Ada\"}}' http://127.0.0.1:{port}/{}    sends it a message",
        arguments.name
    );
    Ok(ExitCode::SUCCESS)
}

/// The first port from 8080 on that no flow of the folder names. Flows can share one, but two that are tried out side by side
/// are easier to tell apart.
fn free_port(dir: &Path) -> u16 {
    let flows = flow_files(dir).unwrap_or_default();
    let is_named = |port: &u16| {
        let written = format!(":{port}");
        let is_in = |text: &str| {
            let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_digit());
            text.split(written.as_str()).skip(1).any(ends)
        };
        flows.iter().filter_map(|flow| flow.text.as_ref().ok()).any(|text| is_in(text))
    };
    (FIRST_PORT..FIRST_PORT + PORTS).find(|port| !is_named(port)).unwrap_or(FIRST_PORT)
}

/// Writes the folder of a plugin.
pub(crate) fn plugin(arguments: &NewPluginArguments) -> Result<ExitCode, Problem> {
    let files = gristmill_template::files(&arguments.name).map_err(|e| e.to_string())?;
    let dir = arguments.dir.join(&arguments.name);
    if dir.exists() {
        return Err(format!(
            "{} is there already; take another name, or another folder with `--dir`",
            shown(&dir)
        )
        .into());
    }
    for file in files {
        write_new(&dir.join(file.path), &file.content)?;
    }
    say!("wrote {}", shown(&dir));
    say!("  cd {} && cargo test      tests it, without a Wasm runtime", shown(&dir));
    say!(
        "  cargo build --release --target wasm32-wasip2      builds it (`rustup target add wasm32-wasip2` once)"
    );
    say!(
        "  then copy target/wasm32-wasip2/release/{}.wasm to the folder of plugins, as {}.wasm; README.md says more",
        arguments.name.replace('-', "_"),
        arguments.name
    );
    Ok(ExitCode::SUCCESS)
}

fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let good = name.len() <= MAX_NAME_CHARS
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(fits);
    if good {
        return Ok(());
    }
    Err(format!(
        "`{}` is no name: it begins with a lower-case letter, and has at most {MAX_NAME_CHARS} lower-case letters, digits, `-` and `_`",
        name.escape_debug()
    ))
}

/// Never over a file that is there.
fn write_new(path: &Path, content: &str) -> Result<(), String> {
    let say = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::AlreadyExists => format!("{} is there already; take another name", shown(path)),
        _ => format!("cannot write {}: {e}", shown(path)),
    };
    fs::create_dir_all(path.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)).map_err(say)?;
    let mut file = fs::File::create_new(path).map_err(say)?;
    file.write_all(content.as_bytes()).map_err(say)
}

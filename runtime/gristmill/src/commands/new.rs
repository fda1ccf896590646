//! `gristmill new`: a flow or a plugin to begin with, which work at once.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::{
    cli::{NewFlowArguments, NewPluginArguments},
    files::shown,
    report::Problem,
};

/// The longest name.
const MAX_NAME_CHARS: usize = 64;

const FLOW: &str = include_str!("new_flow.yaml");

/// Writes a flow.
pub(crate) fn flow(arguments: &NewFlowArguments) -> Result<ExitCode, Problem> {
    check_name(&arguments.name)?;
    let path = arguments.dir.join(format!("{}.yaml", arguments.name));
    write_new(&path, &FLOW.replace("{{name}}", &arguments.name))?;
    say!("wrote {}", shown(&path));
    say!(
        "  gristmill run                                             runs it, and reloads it when you save it"
    );
    say!(
        "  curl -i -d '{{\"name\":\"Ada\"}}' http://127.0.0.1:8080/{}    sends it a message",
        arguments.name
    );
    Ok(ExitCode::SUCCESS)
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
    say!("  then copy target/wasm32-wasip2/release/*.wasm to the folder of plugins; README.md says more");
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

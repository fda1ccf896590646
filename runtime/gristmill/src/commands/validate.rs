//! `gristmill validate`: every mistake that can be found without traffic.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use gristmill_core::config::{Mistake, Span};
use gristmill_engine::flow::{CheckedFile, FlowFile, check_set};
use serde_json::json;

use crate::{
    assemble,
    cli::{Format, ValidateArguments},
    files, report,
    report::{Problem, Sources},
    settings::Settings,
};

/// Checks, shows, and says with the exit status whether there was a mistake.
pub(crate) fn validate(arguments: &ValidateArguments) -> Result<ExitCode, Problem> {
    let settings = match Settings::load(&arguments.places, Some("off")) {
        Ok(settings) => settings,
        Err(mistakes) => return Ok(show(&[], &mistakes, arguments.format)),
    };
    let files = match collect(&arguments.paths, &settings) {
        Ok(files) => files,
        Err(mistake) => return Ok(show(&[], &[mistake], arguments.format)),
    };
    let host = assemble::plugin_host(&settings.plugins, &settings.state)?;
    let context = assemble::set_context(assemble::registry(), host, &settings);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| format!("no threads can be started: {e}"))?;
    let checked = runtime.block_on(check_set(files, &context, &HashMap::new()));
    let mistakes: Vec<Mistake> =
        checked.iter().filter_map(|file| file.result.as_ref().err()).flatten().cloned().collect();
    Ok(show(&checked, &mistakes, arguments.format))
}

fn collect(paths: &[PathBuf], settings: &Settings) -> Result<Vec<FlowFile>, Mistake> {
    if paths.is_empty() {
        let files = in_folder(&settings.flows)?;
        if files.is_empty() {
            let dir = files::shown(&settings.flows);
            let mistake =
                Mistake::new("no_flows", &Span::nowhere(&dir), format!("there are no flows in {dir}"));
            return Err(mistake.mend("`gristmill new flow hello` writes one"));
        }
        return Ok(files);
    }
    let mut all = Vec::new();
    for path in paths {
        if path.is_dir() {
            all.extend(in_folder(path)?);
        } else {
            all.push(files::named_file(path));
        }
    }
    Ok(all)
}

fn in_folder(dir: &Path) -> Result<Vec<FlowFile>, Mistake> {
    let mistake = |text| Mistake::new("unreadable_folder", &Span::nowhere(&files::shown(dir)), text);
    files::flow_files(dir).map_err(mistake)
}

fn show(checked: &[CheckedFile], mistakes: &[Mistake], format: Format) -> ExitCode {
    match format {
        Format::Json => {
            let flows: Vec<_> = checked
                .iter()
                .map(|file| {
                    let flow = file.result.as_ref().ok();
                    json!({
                        "file": file.path.display().to_string(),
                        "valid": flow.is_some(),
                        "flow": flow.map(|f| &*f.id),
                        "version": flow.map(|f| &*f.version),
                    })
                })
                .collect();
            say!("{:#}", json!({ "flows": flows, "mistakes": report::as_json(mistakes) }));
        }
        Format::Human => {
            for file in checked {
                if let Ok(flow) = &file.result {
                    say!("ok   {}  (flow `{}`, version {})", file.path.display(), flow.id, flow.version);
                }
            }
            eprint!("{}", report::human(mistakes, &Sources::read_for(mistakes), report::use_colour()));
            let bad = checked.iter().filter(|file| file.result.is_err()).count();
            match (mistakes.len(), bad) {
                (0, _) => say!("{} good", counted(checked.len(), "flow")),
                (n, 0) => eprintln!("{}", counted(n, "mistake")),
                (n, bad) => eprintln!("{} in {}", counted(n, "mistake"), counted(bad, "flow")),
            }
        }
    }
    if mistakes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

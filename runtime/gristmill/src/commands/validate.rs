//! `gristmill validate`: every mistake that can be found without traffic.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use gristmill_core::config::{Mistake, Mistakes, Span};
use gristmill_engine::flow::{CheckedFile, FlowFile, check_set};
use serde_json::json;

use crate::{
    assemble,
    cli::{Format, ValidateArguments},
    files, report,
    report::{Problem, Sources},
    settings::{Found, Settings},
};

/// Checks, shows, and says with the exit status whether there was a mistake.
pub(crate) fn validate(arguments: &ValidateArguments) -> Result<ExitCode, Problem> {
    let Found { settings, mut mistakes, knows_flows } = Settings::find(&arguments.places);
    let files = match collect(&arguments.paths, &settings) {
        Ok(files) => files,
        // That the folder is not there follows from the mistake by which another one was looked for.
        Err(_) if arguments.paths.is_empty() && !knows_flows => Vec::new(),
        Err(mistake) => {
            mistakes.push(mistake);
            Vec::new()
        }
    };
    let host = assemble::plugin_host(&settings.plugins, &settings.state)?;
    let context = assemble::set_context(assemble::registry(), host, &settings);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| format!("no threads can be started: {e}"))?;
    let mut checked = runtime.block_on(check_set(files, &context, &HashMap::new()));
    if let Some(admin) = settings.admin {
        leave_room_for_admin(&mut checked, admin);
    }
    mistakes.extend(checked.iter().filter_map(|file| file.result.as_ref().err()).flatten().cloned());
    Ok(show(&checked, &mistakes, arguments.format))
}

/// A flow cannot have the address of the admin listener, which is the first to take it.
fn leave_room_for_admin(checked: &mut [CheckedFile], admin: SocketAddr) {
    for file in checked {
        let Some((source, span)) = &file.unique.source else { continue };
        if !source.excludes(admin) {
            continue;
        }
        let text = format!("the admin listener has {admin}, so that this source cannot listen");
        let mistake = Mistake::new("duplicate_claim", span, text)
            .mend("take another port here, or for the admin listener: `admin.listen` in gristmill.yaml");
        match &mut file.result {
            Ok(_) => file.result = Err(vec![mistake]),
            Err(already) => {
                let mut all = Mistakes::from(mistake);
                already.drain(..).for_each(|mistake| all.push(mistake));
                *already = all.into_sorted();
            }
        }
    }
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
            let bad = checked.iter().filter(|file| is_flow(file) && file.result.is_err());
            let bad: BTreeSet<String> = bad.map(|file| file.path.display().to_string()).collect();
            let elsewhere = mistakes.iter().any(|mistake| !bad.contains(&*mistake.span.file));
            match mistakes.len() {
                0 => say!("{} good", counted(checked.len(), "flow")),
                n if elsewhere => eprintln!("{}", counted(n, "mistake")),
                n => eprintln!("{} in {}", counted(n, "mistake"), counted(bad.len(), "flow")),
            }
        }
    }
    if mistakes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether a file could be read. What could not, or is not there, is no flow.
fn is_flow(file: &CheckedFile) -> bool {
    let is_unreadable = |mistake: &Mistake| mistake.code == "unreadable_file";
    !file.result.as_ref().is_err_and(|mistakes| mistakes.iter().any(is_unreadable))
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

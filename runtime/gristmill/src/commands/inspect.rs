//! `gristmill plugin inspect`: what a plugin is, wants, imports, needs granted, and its configuration's schema.

use std::process::ExitCode;

use gristmill_core::plugin::{Grant, WantsHeaders, World};
use gristmill_wasm::{Inspection, Kind};
use serde_json::json;

use crate::{
    cli::{Format, InspectArguments},
    report::Problem,
};

/// Shows it.
pub(crate) fn inspect(arguments: &InspectArguments) -> Result<ExitCode, Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("no threads can be started: {e}"))?;
    match (runtime.block_on(gristmill_wasm::inspect(&arguments.file)), arguments.format) {
        (Ok(inspection), Format::Human) => show(&inspection),
        (Ok(inspection), Format::Json) => say!("{:#}", json!(inspection)),
        (Err(problem), Format::Human) => return Err(problem.to_string().into()),
        (Err(problem), Format::Json) => {
            say!("{:#}", json!({ "error": problem.to_string() }));
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(inspection: &Inspection) {
    let description = &inspection.description;
    let (world, verb) = match inspection.world {
        World::Transformer => ("transformer", "transform"),
        World::Router => ("router", "route"),
    };
    let kind = match inspection.kind {
        Kind::Component => "component",
        Kind::CoreModule => "core module with a component type",
    };
    let headers = match &description.wants_headers {
        WantsHeaders::None => "none".to_owned(),
        WantsHeaders::All => "all".to_owned(),
        WantsHeaders::Listed(names) => names.join(", "),
    };
    let grants: Vec<&str> = inspection.needs.iter().copied().map(Grant::name).collect();
    say!("{} {}: {}", description.name, description.version, description.summary);
    say!("  is            a {world} ({kind}, {} bytes), used with `{verb}:`", inspection.size_bytes);
    say!("  sha-256       {}", inspection.digest);
    say!("  reads headers {headers}");
    say!("  reads body    {}", if description.wants_body { "yes" } else { "no" });
    if grants.is_empty() {
        say!("  needs granted nothing");
    } else {
        let all: Vec<String> = grants.iter().map(|g| format!("{g}: true")).collect();
        say!("  needs granted {}: write `grants: {{ {} }}`", grants.join(", "), all.join(", "));
    }
    say!("  imports       {}", if inspection.imports.is_empty() { "nothing" } else { "" });
    for import in &inspection.imports {
        say!("    {import}");
    }
    say!("  configuration (JSON Schema)");
    for line in format!("{:#}", description.config_schema).lines() {
        say!("    {line}");
    }
}

//! `gristmill schema`: the JSON Schema of flow files, or of the configuration file.

use std::process::ExitCode;

use gristmill_core::config::schema_of;
use gristmill_engine::flow::{flow_schema, with_connections};

use crate::{assemble, cli::SchemaArguments, report::Problem, settings::ConfigFile};

/// Prints it.
pub(crate) fn schema(arguments: &SchemaArguments) -> Result<ExitCode, Problem> {
    let registry = assemble::registry();
    let schema = if arguments.config {
        with_connections(schema_of::<ConfigFile>(), &registry)
    } else {
        flow_schema(&registry)
    };
    say!("{schema:#}");
    Ok(ExitCode::SUCCESS)
}

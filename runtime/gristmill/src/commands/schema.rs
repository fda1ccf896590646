//! `gristmill schema`: the JSON Schema of flow files, or of the configuration file.

use std::process::ExitCode;

use gristmill_core::config::schema_of;
use gristmill_engine::flow::flow_schema;

use crate::{assemble, cli::SchemaArguments, report::Problem, settings::ConfigFile};

/// Prints it.
pub(crate) fn schema(arguments: &SchemaArguments) -> Result<ExitCode, Problem> {
    let schema =
        if arguments.config { schema_of::<ConfigFile>() } else { flow_schema(&assemble::registry()) };
    say!("{schema:#}");
    Ok(ExitCode::SUCCESS)
}

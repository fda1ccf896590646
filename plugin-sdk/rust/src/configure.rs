//! From JSON text to a typed configuration, and from its type to the schema that the runtime checks flows against.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::de::DeserializeOwned;

use crate::{__private::Package, Description, Wants};

/// The configuration of a plugin that has none: anything in it is a mistake.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// Parses the configuration; the error names the key that does not fit.
///
/// # Errors
/// When the text is not JSON or does not fit `C`.
pub fn parse<C: DeserializeOwned>(text: &str) -> Result<C, String> {
    let deserializer = &mut serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        // The operator wrote YAML: a place in the JSON that was made of it would mislead.
        let place = format!(" at line {} column {}", error.line(), error.column());
        let cause = error.to_string();
        let cause = cause.strip_suffix(&place).unwrap_or(&cause);
        if path == "." { format!("config: {cause}") } else { format!("config.{path}: {cause}") }
    })
}

/// Answers the contract's `describe`.
#[must_use]
pub fn describe<C: JsonSchema>(package: Package, wants: Wants) -> Description {
    // Draft 2020-12 is what the contract promises, so it is asked for by name and not by default.
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<C>();
    Description {
        name: package.name.to_owned(),
        version: package.version.to_owned(),
        summary: package.summary.to_owned(),
        config_schema: schema.as_value().to_string(),
        wants_headers: wants.headers,
        wants_body: wants.body,
    }
}

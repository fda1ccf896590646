//! What a plugin says of itself, asked for once in a sandbox, and checked before anyone believes it.

use std::{pin::pin, sync::Arc, time::Duration};

use gristmill_core::{
    Moment,
    message::check_header,
    plugin::{Description, PluginError, WantsHeaders, World},
};
use jsonschema::{PatternOptions, Validator};
use wasmtime::{
    Store,
    component::{Instance, InstancePre, TypedFunc},
};

use crate::{
    contract::{
        CallParams, CallResults, ConfigureParams, ConfigureResults, DescribeParams, DescribeResults,
        WitDescription, WitOutcome, WitWantsHeaders,
    },
    fault::GuestFault,
    guest_time::CallLimits,
    instance::{GuestState, Shared, new_store},
    schema_cost::check_cost,
    surface::{entry_of, wrong_contract},
    ticker::Ticker,
};

/// The longest name and the longest version, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// The longest summary, in bytes.
const MAX_SUMMARY_BYTES: usize = 512;
/// The largest schema, in bytes.
const MAX_SCHEMA_BYTES: usize = 256 * 1024;
/// The most headers that a plugin may list.
const MAX_WANTED_HEADERS: usize = 256;
/// How much a description may be in all, in bytes.
pub(crate) const MAX_DESCRIPTION_BYTES: usize = 1024 * 1024;

/// Asks. The answer is not checked yet; that the exports have the types of the contract is.
///
/// # Errors
/// When an export has another type, and when the plugin traps, takes too long, or uses an import.
pub(crate) async fn ask(
    pre: &InstancePre<GuestState>,
    world: World,
    shared: Arc<Shared>,
    timeout: Duration,
    ticker: &Ticker,
) -> Result<WitDescription, PluginError> {
    let (mut store, time) = new_store(pre.engine(), shared, ticker);
    let _running = ticker.running();
    let asking = async {
        let instance = pre.instantiate_async(&mut store).await?;
        let describe = match typed_describe(&instance, &mut store, world) {
            Ok(describe) => describe,
            Err(error) => return Ok(Err(error)),
        };
        store.set_epoch_deadline(1);
        let (description,) = describe.call_async(&mut store, ()).await?;
        wasmtime::Result::Ok(Ok(description))
    };
    let answered = time.run(Moment::now(), CallLimits { guest: timeout, wall: timeout }, pin!(asking)).await;
    let fault = match answered {
        Ok(Ok(answer)) => return answer,
        Ok(Err(error)) => GuestFault::from_error(&error, store.data()),
        Err(timeout) => GuestFault::from_timeout(timeout, store.data()),
    };
    Err(PluginError::new("plugin_describe_failed", format!("asked to describe itself, {fault}"))
        .mend("`describe` must answer at once, without imports and without configuration"))
}

/// `describe`, once every export is known to have the type of the contract.
fn typed_describe(
    instance: &Instance,
    store: &mut Store<GuestState>,
    world: World,
) -> Result<TypedFunc<DescribeParams, DescribeResults>, PluginError> {
    let other = |name: &str, error: wasmtime::Error| {
        wrong_contract(format!("the plugin's export `{name}` is not of the contract's type: {error:#}"))
    };
    instance
        .get_typed_func::<ConfigureParams<'_>, ConfigureResults>(&mut *store, "configure")
        .map_err(|e| other("configure", e))?;
    let entry = entry_of(world);
    match world {
        World::Transformer => {
            instance.get_typed_func::<CallParams<'_>, CallResults<WitOutcome>>(&mut *store, entry).map(drop)
        }
        World::Router => {
            instance.get_typed_func::<CallParams<'_>, CallResults<Vec<String>>>(&mut *store, entry).map(drop)
        }
    }
    .map_err(|e| other(entry, e))?;
    instance.get_typed_func(store, "describe").map_err(|e| other("describe", e))
}

/// Checks a description. Gives what checks configurations against its schema, too.
///
/// # Errors
/// `plugin_schema_too_complex`; `plugin_description_invalid`, with all that is wrong with it.
pub(crate) fn check(raw: WitDescription) -> Result<(Description, Validator), PluginError> {
    let mut wrong = Vec::new();
    if !is_name(&raw.name) {
        wrong.push(format!(
            "the name {:?} is not of lower-case letters, digits and hyphens, at most {MAX_NAME_BYTES}",
            raw.name.chars().take(MAX_NAME_BYTES).collect::<String>()
        ));
    }
    if !is_version(&raw.version) {
        wrong.push(format!(
            "the version {:?} is not like 1.2.3",
            raw.version.chars().take(MAX_NAME_BYTES).collect::<String>()
        ));
    }
    if raw.summary.len() > MAX_SUMMARY_BYTES || raw.summary.chars().any(char::is_control) {
        wrong.push(format!("the summary is not one line of at most {MAX_SUMMARY_BYTES} bytes"));
    }
    let mut of_schema = None;
    match read_schema(&raw.config_schema) {
        Ok(schema) => {
            // First of all, as compiling one that is not affordable would already cost too much.
            check_cost(&schema).map_err(|why| too_complex(&why))?;
            match compile_schema(&schema) {
                Ok(validator) => of_schema = Some((schema, validator)),
                Err(why) => wrong.push(why),
            }
        }
        Err(why) => wrong.push(why),
    }
    let wants_headers = match raw.wants_headers {
        WitWantsHeaders::None => WantsHeaders::None,
        WitWantsHeaders::All => WantsHeaders::All,
        WitWantsHeaders::Listed(names) => {
            if names.len() > MAX_WANTED_HEADERS {
                wrong.push(format!("it lists {} headers, at most {MAX_WANTED_HEADERS} may be", names.len()));
            }
            let invalid = names.iter().take(MAX_WANTED_HEADERS).filter_map(|n| check_header(n, "").err());
            wrong.extend(invalid.map(|e| format!("it wants an impossible header: {e}")));
            WantsHeaders::Listed(names)
        }
    };
    let (Some((config_schema, validator)), true) = (of_schema, wrong.is_empty()) else {
        let text = format!("the plugin describes itself wrongly: {}", wrong.join("; "));
        return Err(PluginError::new("plugin_description_invalid", text));
    };
    let description = Description {
        name: raw.name,
        version: raw.version,
        summary: raw.summary,
        config_schema,
        wants_headers,
        wants_body: raw.wants_body,
    };
    Ok((description, validator))
}

/// Lower-case letters, digits and hyphens, with a letter or digit first.
fn is_name(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    name.len() <= MAX_NAME_BYTES && !name.starts_with('-') && !name.is_empty() && name.bytes().all(ok)
}

/// Three numbers, then perhaps `-` or `+` and more, as semver has it.
fn is_version(version: &str) -> bool {
    let (core, rest) = match version.find(['-', '+']) {
        Some(at) => version.split_at(at),
        None => (version, ""),
    };
    let numbers = core.split('.').filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())).count();
    let rest_ok = rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-+.".contains(&b));
    version.len() <= MAX_NAME_BYTES && core.split('.').count() == 3 && numbers == 3 && rest_ok
}

fn read_schema(text: &str) -> Result<serde_json::Value, String> {
    if text.len() > MAX_SCHEMA_BYTES {
        return Err(format!("the config-schema has {} bytes, at most {MAX_SCHEMA_BYTES} may be", text.len()));
    }
    serde_json::from_str(text).map_err(|e| format!("the config-schema is not JSON: {e}"))
}

fn compile_schema(schema: &serde_json::Value) -> Result<Validator, String> {
    jsonschema::options()
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|e| format!("the config-schema is not a JSON Schema: {e}"))
}

fn too_complex(why: &str) -> PluginError {
    let text = format!("no configuration can be checked against the plugin's config-schema: {why}");
    PluginError::new("plugin_schema_too_complex", text)
        .mend("write a schema whose references are plain and do not multiply")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> WitDescription {
        WitDescription {
            name: "a-plugin".into(),
            version: "1.2.3-rc.1+7".into(),
            summary: "Does what it says.".into(),
            config_schema: r#"{"type":"object"}"#.into(),
            wants_headers: WitWantsHeaders::Listed(vec!["content-type".into()]),
            wants_body: true,
        }
    }

    #[test]
    fn a_good_description_is_taken_as_it_is() {
        let (description, _) = check(good()).unwrap();
        assert_eq!(description.name, "a-plugin");
        assert_eq!(description.wants_headers, WantsHeaders::Listed(vec!["content-type".into()]));
    }

    #[test]
    fn what_is_wrong_is_said_all_at_once() {
        let bad = WitDescription {
            name: "A Plugin".into(),
            version: "one".into(),
            summary: "two\nlines".into(),
            config_schema: r#"{"type":"objct"}"#.into(),
            wants_headers: WitWantsHeaders::Listed(vec!["Content-Type".into()]),
            ..good()
        };
        let error = check(bad).unwrap_err();
        assert_eq!(error.code, "plugin_description_invalid");
        for part in ["the name", "the version", "the summary", "config-schema", "impossible header"] {
            assert!(error.text.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_schema_that_would_take_for_ever_is_never_compiled() {
        let defs: Vec<_> = (0..40)
            .map(|n| {
                format!(
                    r##""d{n}":{{"allOf":[{{"$ref":"#/$defs/d{0}"}},{{"$ref":"#/$defs/d{0}"}}]}}"##,
                    n + 1
                )
            })
            .collect();
        let config_schema = format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{},"d40":true}}}}"##, defs.join(","));
        let error = check(WitDescription { config_schema, ..good() }).unwrap_err();
        assert_eq!(error.code, "plugin_schema_too_complex", "{error}");
    }

    #[test]
    fn versions_are_like_semver() {
        for good in ["0.1.0", "10.20.30", "1.0.0-alpha.1", "1.0.0+build"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "1", "1.2", "1.2.3.4", "1.2.x", "v1.2.3", "1.2.3-ä"] {
            assert!(!is_version(bad), "{bad}");
        }
    }
}

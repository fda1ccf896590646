//! Maps a JSON body to another shape, by configuration alone: pick, rename, default, convert, template, and repeat for
//! every item of an array.
//!
//! Three stages: [`config`] is what the flow file says, `field` what it means, checked, and `shape` puts a whole body together.

pub mod config;
mod convert;
mod field;
mod shape;
mod template;

use gristmill_json::{Path, Value};
use gristmill_plugin::{Change, Failure, Message, Outcome, Transformer, Wants, export_transformer};

use config::Config;
use field::{Field, Scope};
use shape::Shape;

/// The content type of what comes out.
const JSON: &str = "application/json";

/// The plugin: the shape of the body, and the headers to set and to remove.
#[derive(Debug)]
pub struct JsonMap {
    /// Map each of these instead of the whole body, into an array.
    each: Option<Path>,
    shape: Shape,
    headers: Vec<(String, Field)>,
    remove_headers: Vec<String>,
}

impl Transformer for JsonMap {
    type Config = Config;

    fn wants() -> Wants {
        // Which headers are read stands in the configuration, which is not known yet.
        Wants::body().all_headers()
    }

    fn configure(config: Config) -> Result<Self, String> {
        config.check()
    }

    fn transform(&self, message: Message) -> Result<Outcome, Failure> {
        let root = gristmill_json::parse(&message.body)
            .map_err(|error| Failure::reject(format_args!("the body is not JSON: {error}")))?;
        let scope = Scope { root: &root, item: &root, message: &message };

        let mut change = Change::new();
        for name in &self.remove_headers {
            change = change.remove_header(name);
        }
        if !self.headers.iter().any(|(name, _)| name == "content-type") {
            change = change.content_type(JSON);
        }
        for (name, field) in &self.headers {
            if let Some(text) = self.header(name, field, scope)? {
                change = change.set_header(name, text);
            }
        }

        let body = match &self.each {
            None => self.shape.map(scope).map_err(Failure::reject)?,
            Some(path) => {
                let item = |(i, item)| {
                    self.shape.map(Scope { item, ..scope }).map_err(|problem| {
                        Failure::reject(format_args!("item {i} of `{}`: {problem}", path.as_str()))
                    })
                };
                Value::Array(path.all(&root).into_iter().enumerate().map(item).collect::<Result<_, _>>()?)
            }
        };
        Ok(change.body(body.to_vec()).into())
    }
}

export_transformer!(JsonMap);

impl JsonMap {
    fn header(&self, name: &str, field: &Field, scope: Scope<'_, '_>) -> Result<Option<String>, Failure> {
        let value = field
            .value(scope)
            .map_err(|problem| Failure::reject(format_args!("header `{name}`: {problem}")))?;
        let Some(value) = value else { return Ok(None) };
        let text = convert::text(&value).into_owned();
        if text.chars().any(|character| character.is_control() && character != '\t') {
            return Err(Failure::reject(format_args!("header `{name}`: the value has a control character")));
        }
        Ok(Some(text))
    }
}

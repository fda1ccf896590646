//! Masks, hashes or removes fields of a JSON body and headers, so that what flows on holds no more than it must.

mod action;
mod config;

use gristmill_json::{Location, Path, Value};
use gristmill_plugin::{Change, Failure, Message, Outcome, Transformer, Wants, export_transformer};

use action::{Action, Redacted};
use config::Config;

/// The plugin: which fields and headers, and what to do with each.
#[derive(Debug)]
pub struct Redact {
    fields: Vec<(Path, Action)>,
    headers: Vec<(String, Action)>,
}

impl Transformer for Redact {
    type Config = Config;

    fn wants() -> Wants {
        // Which headers are concerned stands in the configuration, which is not known yet.
        Wants::body().all_headers()
    }

    fn configure(config: Config) -> Result<Self, String> {
        config.check()
    }

    fn transform(&self, message: Message) -> Result<Outcome, Failure> {
        let mut change = self.headers(&message);
        if !self.fields.is_empty() {
            change.body = self.body(&message.body)?;
        }
        Ok(change.into())
    }
}

export_transformer!(Redact);

impl Redact {
    fn headers(&self, message: &Message) -> Change {
        let mut change = Change::new();
        for (name, action) in &self.headers {
            for value in message.header_values(name) {
                change = match action.text(value) {
                    Redacted::Text(text) => change.set_header(name, text),
                    Redacted::Gone => change.remove_header(name),
                };
            }
        }
        change
    }

    /// The new body, or none when no path selected anything.
    fn body(&self, body: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let mut root = gristmill_json::parse(body)
            .map_err(|error| Failure::reject(format_args!("the body is not JSON: {error}")))?;
        let mut changed = false;
        for (path, action) in &self.fields {
            let places = path.locations(&root);
            changed |= !places.is_empty();
            // From the end, so that a removal does not move the places before it.
            for place in places.iter().rev() {
                apply(action, place, &mut root);
            }
        }
        Ok(changed.then(|| root.to_vec()))
    }
}

fn apply(action: &Action, place: &Location, root: &mut Value<'_>) {
    if let Action::Remove = action {
        if place.is_root() {
            *root = Value::Null;
        } else {
            place.remove(root);
        }
    } else if let Some(value) = place.get_mut(root) {
        scalars(action, value);
    }
}

/// Applies to a scalar, or to every scalar inside an array or object, so that a container hides nothing.
fn scalars(action: &Action, value: &mut Value<'_>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| scalars(action, item)),
        Value::Object(object) => object.values_mut().for_each(|member| scalars(action, member)),
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let redacted = action.text(value.as_text().unwrap_or_default());
            *value = match redacted {
                Redacted::Text(text) => Value::string(text),
                Redacted::Gone => Value::Null,
            };
        }
    }
}

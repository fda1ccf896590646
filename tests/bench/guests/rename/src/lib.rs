//! Renames two fields of a JSON object, with the JSON library that the SDK gives: what people write first.

use gristmill_plugin::{
    Change, Failure, Message, NoConfig, Outcome, Transformer, Wants, export_transformer,
    serde_json::{self, Map, Value},
};

/// Which fields get which names.
pub const RENAMES: [(&str, &str); 2] = [("order_id", "id"), ("cust", "customer")];

/// The plugin.
#[derive(Debug)]
pub struct Rename;

/// The work itself, which the bench and its floor server also call natively.
///
/// # Errors
/// When the body is not a JSON object.
pub fn rename(body: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let mut order: Map<String, Value> = serde_json::from_slice(body)?;
    for (from, to) in RENAMES {
        if let Some(value) = order.remove(from) {
            order.insert(to.to_owned(), value);
        }
    }
    serde_json::to_vec(&order)
}

impl Transformer for Rename {
    type Config = NoConfig;

    fn wants() -> Wants {
        Wants::body()
    }

    fn configure(NoConfig {}: NoConfig) -> Result<Self, String> {
        Ok(Self)
    }

    fn transform(&self, message: Message) -> Result<Outcome, Failure> {
        let body = rename(&message.body).map_err(Failure::reject)?;
        Ok(Change::new().body(body).into())
    }
}

export_transformer!(Rename);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_fields_get_their_new_names_and_the_rest_stays() {
        let renamed = rename(br#"{"order_id":7,"cust":{"name":"A"},"lines":[1,2.5,null]}"#).unwrap();
        let renamed: Value = serde_json::from_slice(&renamed).unwrap();
        assert_eq!(renamed, serde_json::json!({"id": 7, "customer": {"name": "A"}, "lines": [1, 2.5, null]}));
    }

    #[test]
    fn what_is_no_object_is_rejected() {
        assert!(matches!(Rename.transform(Message::with_body("[]")), Err(Failure::Reject(_))));
    }
}

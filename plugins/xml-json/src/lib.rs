//! Turns XML into JSON and JSON into XML, by one convention in both directions: an element is a member, an attribute a member
//! whose name begins with `@`, a repeated element an array, and text beside attributes or children the member `#text`.

pub mod config;
mod names;
mod pattern;
mod to_json;
mod to_xml;

use gristmill_plugin::{Change, Failure, Message, Outcome, Transformer, Wants, export_transformer};

use config::{Config, Direction};

/// The plugin: a direction with its settings.
#[derive(Debug)]
pub struct XmlJson(Direction);

impl Transformer for XmlJson {
    type Config = Config;

    fn wants() -> Wants {
        Wants::body()
    }

    fn configure(config: Config) -> Result<Self, String> {
        config.check().map(XmlJson)
    }

    fn transform(&self, message: Message) -> Result<Outcome, Failure> {
        let change = match &self.0 {
            Direction::ToJson(settings) => {
                let value = to_json::convert(&message.body, settings)
                    .map_err(|error| Failure::reject(format_args!("the XML is refused: {error}")))?;
                Change::new().body(value.to_vec()).content_type("application/json")
            }
            Direction::ToXml(settings) => {
                let value = gristmill_json::parse(&message.body)
                    .map_err(|error| Failure::reject(format_args!("the body is not JSON: {error}")))?;
                let xml = to_xml::convert(&value, settings).map_err(|error| {
                    Failure::reject(format_args!("the body cannot be written as XML: {error}"))
                })?;
                Change::new().body(xml).content_type("application/xml")
            }
        };
        Ok(change.into())
    }
}

export_transformer!(XmlJson);

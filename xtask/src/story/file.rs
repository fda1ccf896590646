//! The files of stories, `<name>.test.yaml` beside a flow: what goes into it and what must come out.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde::Deserialize;
use serde_json::{Map, Value};

/// One file: a flow with its cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Story {
    /// The flow's id.
    pub(crate) flow: String,
    /// What the requests of all cases have in common.
    #[serde(default)]
    pub(crate) request: Option<Endpoint>,
    /// In the order in which they are played.
    pub(crate) cases: Vec<Case>,
}

/// Where requests go, and how they are signed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Endpoint {
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) signature: Option<Signature>,
}

/// HMAC-SHA256 of the body, in hexadecimal.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Signature {
    pub(crate) header: String,
    #[serde(default)]
    pub(crate) prefix: String,
    /// The file that holds the secret.
    pub(crate) secret_file: String,
}

/// One thing that goes in, and all that must come out of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) request: Option<Request>,
    /// The status that answers the request.
    #[serde(default)]
    pub(crate) status: Option<u16>,
    #[serde(default)]
    pub(crate) file: Option<Drop>,
    pub(crate) outputs: Vec<Output>,
}

/// A POST request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// The body; or the file that holds it.
    #[serde(default)]
    pub(crate) body: Option<String>,
    #[serde(default)]
    pub(crate) body_file: Option<String>,
    /// Signs with this instead of the right secret.
    #[serde(default)]
    pub(crate) secret: Option<String>,
}

/// A file that is dropped into a folder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Drop {
    pub(crate) put: String,
    pub(crate) into: String,
}

/// One JSON document that must come out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Output {
    /// The file, of which `.jsonl` holds one document a line; or, with a slash at the end, any file of that folder.
    pub(crate) to: String,
    /// The whole document.
    #[serde(default)]
    pub(crate) equal: Option<Value>,
    /// What the document has, beside other members.
    #[serde(default)]
    pub(crate) include: Option<Value>,
}

/// Reads the stories of a folder of flows, in the order of their names.
pub(crate) fn read_all(flows: &Path) -> Result<Vec<Story>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(flows).with_context(|| format!("cannot list {}", flows.display()))? {
        let path = entry?.path();
        if path.to_str().is_some_and(|path| path.ends_with(".test.yaml")) {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Story> {
    let story: Story = serde_json::from_value(yaml(path)?).with_context(|| path.display().to_string())?;
    for case in &story.cases {
        let right = match (&case.request, &case.file) {
            (Some(_), None) => story.request.is_some() && case.status.is_some(),
            (None, Some(_)) => case.status.is_none(),
            _ => false,
        };
        ensure!(
            right,
            "{}: case `{}` has either `request` and `status` or `file`",
            path.display(),
            case.name
        );
        for output in &case.outputs {
            ensure!(
                output.equal.is_some() != output.include.is_some(),
                "{}: an output of `{}` has either `equal` or `include`",
                path.display(),
                case.name
            );
        }
    }
    Ok(story)
}

/// Reads a YAML file of one document.
pub(crate) fn yaml(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let documents = Yaml::load_from_str(&text).with_context(|| format!("{} is not YAML", path.display()))?;
    let [document] = documents.as_slice() else { bail!("{} holds no or several documents", path.display()) };
    json(document).with_context(|| path.display().to_string())
}

fn json(yaml: &Yaml<'_>) -> Result<Value> {
    Ok(match yaml {
        Yaml::Value(scalar) => match scalar {
            Scalar::Null => Value::Null,
            Scalar::Boolean(value) => (*value).into(),
            Scalar::Integer(value) => (*value).into(),
            Scalar::FloatingPoint(value) => value.into_inner().into(),
            Scalar::String(value) => value.as_ref().into(),
        },
        Yaml::Sequence(items) => items.iter().map(json).collect::<Result<_>>()?,
        Yaml::Mapping(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let key = key.as_str().with_context(|| format!("a key is not a text: {key:?}"))?;
                map.insert(key.to_owned(), json(value)?);
            }
            map.into()
        }
        other => bail!("not used here: {other:?}"),
    })
}

// === impl Output ===

impl Output {
    /// Whether a document is this output.
    pub(crate) fn fits(&self, document: &Value) -> bool {
        self.equal.as_ref().is_none_or(|expected| equal(expected, document))
            && self.include.as_ref().is_none_or(|expected| includes(document, expected))
    }
}

/// By what numbers are worth: `30.30` in YAML and `30.3` in JSON are the same, and so are `31` and `31.0`.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

fn includes(document: &Value, expected: &Value) -> bool {
    match (document, expected) {
        (Value::Object(document), Value::Object(expected)) => expected
            .iter()
            .all(|(key, expected)| document.get(key).is_some_and(|document| includes(document, expected))),
        _ => equal(document, expected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    #[test]
    fn every_flow_has_a_story_that_can_be_read() {
        let stories = read_all(&root().join("flows")).unwrap();
        let told: Vec<_> = stories.iter().map(|story| story.flow.as_str()).collect();
        assert_eq!(told, ["github-webhooks", "json-lines", "xml-orders"]);
        let stories = read_all(&root().join("examples/orders-amqp-mqtt/flows")).unwrap();
        let told: Vec<_> = stories.iter().map(|story| story.flow.as_str()).collect();
        assert_eq!(told, ["machines", "orders"]);
    }

    /// The plugin's own tests are about the mapping in the example's folder, so the flow must use the same.
    #[test]
    fn the_webhooks_flow_maps_to_the_common_shape_of_the_example() {
        let flow = yaml(&root().join("flows/github-webhooks.yaml")).unwrap();
        let shape = fs::read(root().join("examples/github-webhooks/common-shape.json")).unwrap();
        let shape: Value = serde_json::from_slice(&shape).unwrap();
        assert_eq!(flow.pointer("/steps/0/transform/config").unwrap(), &shape);
    }

    #[test]
    fn the_readme_shows_a_flow_as_it_is() {
        let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
        let flow = read("flows/json-lines.yaml");
        assert!(
            read("README.md").contains(&format!("```yaml\n{flow}```\n")),
            "the flow in README.md is another"
        );
    }

    #[test]
    fn documents_are_compared_by_value_and_inclusion_goes_deep() {
        let document = json!({"a": {"b": 1, "c": [1, 2.0]}, "d": "x"});
        assert!(includes(&document, &json!({"a": {"b": 1.0}})));
        assert!(!includes(&document, &json!({"a": {"b": 2}})));
        assert!(!includes(&document, &json!({"a": {"c": [1]}})));
        assert!(equal(&document, &json!({"d": "x", "a": {"c": [1, 2], "b": 1}})));
        assert!(!equal(&document, &json!({"d": "x"})));
    }
}

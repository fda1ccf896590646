//! What a plugin itself says of its configuration: a first instance is configured and thrown away, so that what it refuses
//! is a mistake in the file, with its place, and is found without traffic.

use std::sync::Arc;

use gristmill_core::{
    config::{Mistake, Node, Span},
    limits::{FlowLimits, PluginLimits},
    observe::Unobserved,
    plugin::{Grants, LoadedPlugin, PluginScope, PluginSettings},
};

/// A plugin with a configuration that its schema takes.
pub(crate) struct Rehearsal {
    pub(crate) loaded: Arc<dyn LoadedPlugin>,
    pub(crate) config: serde_json::Value,
    pub(crate) secrets: Vec<String>,
    pub(crate) grants: Grants,
    pub(crate) limits: PluginLimits,
    pub(crate) flow_limits: FlowLimits,
    /// The configuration as it was written.
    pub(crate) written: Node,
    /// Where the plugin is named.
    pub(crate) named: Span,
    pub(crate) step: Arc<str>,
}

impl Rehearsal {
    /// What the plugin refuses.
    pub(crate) async fn run(self) -> Option<Mistake> {
        let settings = PluginSettings {
            config: self.config,
            secrets: self.secrets,
            grants: self.grants,
            limits: self.limits,
            flow_limits: self.flow_limits,
            // Of no flow, so that it reaches no state and no figure of one.
            scope: PluginScope {
                flow: "".into(),
                version: "".into(),
                step: self.step,
                observer: Arc::new(Unobserved),
            },
        };
        let error = self.loaded.bind(settings).await.err()?;
        let span = match place(&error.text, &self.written) {
            Some(node) => &node.span,
            None if self.written.entries().is_empty() => &self.named,
            None => &self.written.span,
        };
        let mistake = Mistake::new(error.code, span, error.text.clone());
        Some(match error.mend {
            Some(mend) => mistake.mend(mend),
            None => mistake.mend(
                "change its `config` as the plugin says; `gristmill plugin inspect` shows what it takes",
            ),
        })
    }
}

/// The part of the configuration that a text speaks of, when it does so by a path such as `config.fields.a[2]`.
fn place<'n>(text: &str, config: &'n Node) -> Option<&'n Node> {
    let (_, path) = text.split_once("config.")?;
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '[' | ']');
    let path = path.split(|c| !is_part(c)).next()?;
    let mut here = config;
    for part in path.split(['.', '[', ']']).filter(|part| !part.is_empty()) {
        let next = here.at([part]);
        if std::ptr::eq(next, here) {
            break;
        }
        here = next;
    }
    (!std::ptr::eq(here, config)).then_some(here)
}

#[cfg(test)]
mod tests {
    use gristmill_core::config::Mistakes;

    use super::*;

    #[test]
    fn a_path_in_a_text_leads_to_its_place() {
        let node =
            crate::yaml::parse("f", "fields:\n  a: [x, {path: y}]\n").map_err(Mistakes::into_sorted).unwrap();
        for (text, line_and_column) in [
            ("no: config.fields.a[1].path: `y` is no path", Some((2, 17))),
            ("no: `config.fields.a` is wrong", Some((2, 6))),
            ("no: config.fields.b is missing", Some((2, 3))),
            ("no: config.other", None),
            ("no", None),
        ] {
            let found = place(text, &node).map(|node| (node.span.line, node.span.column));
            assert_eq!(found, line_and_column, "{text}");
        }
    }
}

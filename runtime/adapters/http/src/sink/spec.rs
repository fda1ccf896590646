//! From the configuration of a sink to a checked one.

use std::time::Duration;

use gristmill_core::{
    adapter::Checker,
    config::{Entry, Mistake, Node, parse},
    sink::{Outgoing, Slot},
};
use gristmill_tls::ClientTls;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{status::StatusSet, url::UrlTemplate};
use crate::{
    config::{Method, SinkConfig, written},
    fields,
};

/// How many fields a request gets besides those of the flow: its sender, its host and the length of its body.
const FIELDS_OF_HTTP: usize = 3;

/// A sink whose configuration is good.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) url: UrlTemplate,
    pub(crate) method: Method,
    pub(crate) headers: Vec<(HeaderName, HeaderText)>,
    pub(crate) forward_headers: Vec<HeaderName>,
    pub(crate) answer_headers: Vec<HeaderName>,
    pub(crate) timeout: Duration,
    pub(crate) success: StatusSet,
    pub(crate) retryable: StatusSet,
    pub(crate) http2: bool,
    pub(crate) tls: ClientTls,
}

/// The value of a header.
#[derive(Debug, Clone)]
pub(crate) enum HeaderText {
    /// As written.
    Written(HeaderValue),
    /// Rendered for each message. `secret`: part of it comes from the environment or a file.
    Rendered { slot: Slot, secret: bool },
}

/// Checks the configuration of a sink. `None` when there are mistakes.
pub(crate) fn check(node: &Node, checker: &mut Checker<'_>) -> Option<Checked> {
    let config: SinkConfig = parse(node, checker.mistakes)?;
    let url = UrlTemplate::check(&config.url, &config.hosts, config.encode_url, node, checker);
    let before = checker.mistakes.len();
    let headers = check_headers(&config, node, checker);
    let forward_headers = check_names(&config.forward_headers, "forward_headers", node, checker);
    let answer_headers = check_names(&config.answer_headers, "answer_headers", node, checker);
    let success = StatusSet::check(&config.success, "success", node, checker);
    let retryable = StatusSet::check(&config.retryable, "retryable", node, checker);
    let tls = match &config.tls {
        Some(tls) => ClientTls::check(tls, node.at(["tls"]), checker.base_dir, checker.mistakes),
        None => Some(ClientTls::default()),
    };
    if config.tls.is_some() && url.as_ref().is_some_and(|url| !url.may_be_https()) {
        checker.mistake(
            "unused_tls",
            node.get("tls").unwrap_or(node),
            "`tls` is for `https://`, and this URL is `http://`",
            "write `https://`, or remove `tls`",
        );
    }
    if config.method == Method::Options {
        checker.mistake(
            "invalid_method",
            node.get("method").unwrap_or(node),
            "OPTIONS asks what is possible and hands nothing over",
            "take one of GET, HEAD, POST, PUT, PATCH and DELETE",
        );
    }
    if checker.mistakes.len() > before {
        return None;
    }
    Some(Checked {
        url: url?,
        method: config.method,
        headers,
        forward_headers,
        answer_headers,
        timeout: Duration::from_millis(config.timeout_ms),
        success: success?,
        retryable: retryable?,
        http2: config.http2,
        tls: tls?,
    })
}

fn check_headers(
    config: &SinkConfig,
    node: &Node,
    checker: &mut Checker<'_>,
) -> Vec<(HeaderName, HeaderText)> {
    let mut headers = Vec::with_capacity(config.headers.len());
    // In the order of the file, so that the second of two is the one that is too many.
    for Entry { key, key_span, value: at } in node.at(["headers"]).entries() {
        let Some(text) = config.headers.get(key) else { continue };
        let name = match fields::check_name(key) {
            Ok(name) => name,
            Err(wrong) => {
                let text = format!("`{}` {}", shown(key), wrong.problem());
                checker.mistakes.push(Mistake::new("invalid_header", key_span, text).mend(wrong.mend()));
                continue;
            }
        };
        if headers.iter().any(|(n, _)| *n == name) {
            let text = format!("`{key}` is there twice, in other capitals");
            checker.mistakes.push(Mistake::new("duplicate_header", key_span, text).mend("keep one of them"));
            continue;
        }
        if text.contains("${") {
            let slot = checker.template(at, text);
            headers.push((name, HeaderText::Rendered { slot, secret: at.is_substituted() }));
        } else if let Some(value) = header_value(text, at.is_substituted()) {
            headers.push((name, HeaderText::Written(value)));
        } else {
            checker.mistake(
                "invalid_header",
                at,
                format!("the value of `{key}` holds a control character"),
                "take the character out; a text from a file often ends in a line break",
            );
        }
    }
    headers
}

fn check_names(names: &[String], key: &str, node: &Node, checker: &mut Checker<'_>) -> Vec<HeaderName> {
    let mut checked = Vec::with_capacity(names.len());
    for (index, text) in names.iter().enumerate() {
        let at = node.at([key, &index.to_string()]);
        match fields::check_name(text) {
            Ok(name) if checked.contains(&name) => {}
            Ok(name) => checked.push(name),
            Err(wrong) => {
                let text = format!("`{}` {}", shown(&written(at, text)), wrong.problem());
                checker.mistake("invalid_header", at, text, wrong.mend());
            }
        }
    }
    checked
}

/// A name as it is shown, whatever it holds.
fn shown(name: &str) -> String {
    name.escape_debug().take(80).collect()
}

fn header_value(text: &str, is_secret: bool) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(text.as_bytes()).ok()?;
    value.set_sensitive(is_secret);
    Some(value)
}

impl Checked {
    /// The headers of the request for one message.
    ///
    /// # Errors
    /// The name of the header that HTTP cannot send.
    pub(crate) fn request_headers<'a>(
        &'a self,
        outgoing: &Outgoing<'_>,
    ) -> Result<HeaderMap, &'a HeaderName> {
        let fields = self.forward_headers.len() + self.headers.len() + FIELDS_OF_HTTP;
        let mut headers = HeaderMap::with_capacity(fields);
        for name in &self.forward_headers {
            for text in outgoing.message.headers().get_all(name.as_str()) {
                headers.append(name, header_value(text, false).ok_or(name)?);
            }
        }
        for (name, text) in &self.headers {
            let value = match text {
                HeaderText::Written(value) => value.clone(),
                HeaderText::Rendered { slot, secret } => {
                    header_value(outgoing.text(*slot), *secret).ok_or(name)?
                }
            };
            headers.insert(name, value);
        }
        Ok(headers)
    }
}

//! From the configuration of a source to a checked one.

use std::sync::Arc;

use gristmill_core::{
    adapter::Checker,
    config::{Node, parse},
    source::Claim,
};
use gristmill_tls::ServerTls;

use super::{address::ListenAddress, path::PathPattern, signature::Signature};
use crate::{
    config::{ListenerConfig, Method, SignatureConfig, SourceConfig, written},
    fields,
};

/// What a route is made of.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) listen: ListenAddress,
    pub(crate) host: Option<Box<str>>,
    pub(crate) path: PathPattern,
    pub(crate) methods: Vec<Method>,
    pub(crate) listener: ListenerConfig,
    shown: Shown,
}

/// What may be shown of a route besides its address.
#[derive(Clone)]
struct Shown {
    host: Option<String>,
    path: String,
    /// Whether any of the path was substituted, so that nothing may be shown that was made of it.
    is_path_substituted: bool,
}

/// A source whose configuration is good.
#[derive(Debug, Clone)]
pub(crate) struct CheckedSource {
    pub(crate) route: Arc<Route>,
    pub(crate) read_timeout_ms: u64,
    pub(crate) answer_timeout_ms: u64,
    pub(crate) keep_credentials: bool,
    pub(crate) signature: Option<Signature>,
    pub(crate) tls: Option<ServerTls>,
}

/// Checks the configuration of a source. `None` when there are mistakes.
pub(crate) fn check(node: &Node, checker: &mut Checker<'_>) -> Option<CheckedSource> {
    let config: SourceConfig = parse(node, checker.mistakes)?;
    let at = |key: &str| node.get(key).unwrap_or(node);
    let listen = check_listen(&config.listen, at("listen"), checker);
    let host = match &config.host {
        Some(host) => check_host(host, at("host"), checker).map(Some),
        None => Some(None),
    };
    let path = check_path(&config.path, at("path"), checker);
    let mut methods = config.methods.clone();
    methods.sort_unstable();
    methods.dedup();
    let signature = match &config.signature {
        Some(signature) => check_signature(signature, at("signature"), checker).map(Some),
        None => Some(None),
    };
    let tls = config.tls.as_ref().map(|tls| ServerTls::new(tls, at("tls"), checker.base_dir));
    let shown = Shown {
        host: host.iter().flatten().next().map(|host| written(at("host"), host)),
        path: written(at("path"), &config.path),
        is_path_substituted: at("path").is_substituted(),
    };
    let route =
        Route { listen: listen?, host: host?, path: path?, methods, listener: config.listener, shown };
    Some(CheckedSource {
        route: Arc::new(route),
        read_timeout_ms: config.read_timeout_ms,
        answer_timeout_ms: config.answer_timeout_ms,
        keep_credentials: config.keep_credentials,
        signature: signature?,
        tls,
    })
}

fn check_listen(text: &str, node: &Node, checker: &mut Checker<'_>) -> Option<ListenAddress> {
    let address = text.parse().ok();
    if address.is_none() {
        checker.mistake(
            "invalid_address",
            node,
            "this is not an address to listen on",
            "write an IP address and a port: `127.0.0.1:8080` for this machine alone, `0.0.0.0:8080` for all",
        );
    }
    Some(ListenAddress::new(address?, node.is_substituted().then(|| written(node, text))))
}

fn check_path(text: &str, node: &Node, checker: &mut Checker<'_>) -> Option<PathPattern> {
    PathPattern::parse(text)
        .map_err(|wrong| {
            let text = match node.is_substituted() {
                true => "this path (not shown: it was substituted) is none that a route can have".into(),
                false => wrong.text,
            };
            checker.mistake("invalid_path", node, text, wrong.mend);
        })
        .ok()
}

fn check_host(text: &str, node: &Node, checker: &mut Checker<'_>) -> Option<Box<str>> {
    let host = normal_host(text);
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    let is_address = text.starts_with('[') && text.ends_with(']');
    if !is_name && !is_address {
        checker.mistake(
            "invalid_host",
            node,
            "this is not a host name",
            "write the name alone, without scheme and port: `hooks.example.com`",
        );
        return None;
    }
    Some(host.into())
}

/// A host name as it is compared: lower-case, without the dot of the root.
pub(crate) fn normal_host(host: &str) -> String {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.to_ascii_lowercase()
}

fn check_signature(config: &SignatureConfig, node: &Node, checker: &mut Checker<'_>) -> Option<Signature> {
    let at = |key: &str| node.get(key).unwrap_or(node);
    let before = checker.mistakes.len();
    let header = fields::check_name(&config.header).ok();
    if header.is_none() {
        checker.mistake(
            "invalid_header",
            at("header"),
            "this is not the name of a header that can hold a signature",
            "write the name that the sender documents: `x-hub-signature-256`",
        );
    }
    if config.secret.expose().is_empty() {
        checker.mistake(
            "empty_secret",
            at("secret"),
            "the secret is empty: anyone could sign with it",
            "set the environment variable or the file that it comes from",
        );
    }
    if checker.mistakes.len() > before {
        return None;
    }
    Some(Signature {
        header: header?,
        prefix: config.prefix.clone(),
        algorithm: config.algorithm,
        encoding: config.encoding,
        secret: config.secret.clone(),
    })
}

// === impl Route ===

/// Without what was substituted.
impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Route").field(&self.place()).field(&self.methods).field(&self.listener).finish()
    }
}

impl Route {
    /// Where the route hangs, without its methods and the names of its parameters, and without what was substituted.
    pub(crate) fn place(&self) -> String {
        let path = if self.shown.is_path_substituted { self.shown.path.clone() } else { self.path.shape() };
        format!("http {} {}{path}", self.listen, self.shown.host.as_deref().unwrap_or("*"))
    }

    /// What no other flow may have as well: the place, per method. Shown as `PUT 127.0.0.1:8080/orders/{id}`.
    pub(crate) fn claims(&self) -> impl Iterator<Item = Claim> {
        let (listen, shape, Shown { path, .. }) = (&self.listen, self.path.shape(), &self.shown);
        let host = self.host.as_deref().unwrap_or("*");
        self.methods.iter().map(move |method| {
            let method = method.name();
            let claim = Claim::new(format!("http {} {method} {host}{shape}", listen.socket));
            claim.shown_as(match &self.shown.host {
                Some(host) => format!("{method} {host}{path} on {listen}"),
                None => format!("{method} {listen}{path}"),
            })
        })
    }
}

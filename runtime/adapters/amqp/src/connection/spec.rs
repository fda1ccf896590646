//! From a connection as written to one that can be opened. Everything that is wrong is found here, and nothing is opened.

use std::{path::PathBuf, time::Duration};

use gristmill_core::{
    adapter::Checker,
    config::{Node, Secret, parse},
    connection::ConnectionSpec,
};
use gristmill_tls::ClientTls;
use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};

use crate::config::{Authentication, ConnectionConfig, ReconnectConfig};

/// Checked configuration of a connection.
pub(crate) struct AmqpConnectionSpec {
    /// The brokers, in the order in which they are tried; each with its credentials, virtual host and heartbeat.
    pub(crate) targets: Vec<Target>,
    pub(crate) tls: ClientTls,
    pub(crate) connect_timeout: Duration,
    pub(crate) first_delay: Duration,
    pub(crate) longest_delay: Duration,
}

/// One broker.
pub(crate) struct Target {
    pub(crate) uri: AMQPUri,
    /// Host and port, for texts; or its place in the list, when they were substituted.
    pub(crate) place: String,
    /// User and virtual host, for texts, as far as they were not substituted.
    pub(crate) account: String,
}

/// Checks the configuration of a connection. `None` when there are mistakes.
pub(crate) fn check(node: &Node, checker: &mut Checker<'_>) -> Option<AmqpConnectionSpec> {
    let before = checker.mistakes.len();
    let config: ConnectionConfig = parse(node, checker.mistakes)?;
    let mut targets = Vec::with_capacity(config.urls.len());
    for (index, url) in config.urls.iter().enumerate() {
        let at = node.at(["urls", &index.to_string()]);
        let uri = check_url(url, &config, at, node, checker);
        targets.extend(uri.map(|uri| Target::new(uri, index, at, node)));
    }
    let tls = match &config.tls {
        None => Some(ClientTls::default()),
        Some(tls) => {
            let at = node.at(["tls"]);
            if !targets.is_empty() && targets.iter().all(|target| target.uri.scheme == AMQPScheme::AMQP) {
                let text = "none of the URLs is encrypted, so this is never used";
                checker.mistake("unused_tls", at, text, "write `amqps://` (port 5671), or remove `tls`");
            }
            ClientTls::check(tls, at, checker.base_dir, checker.mistakes)
        }
    };
    check_authentication(&config, node, checker);
    let ReconnectConfig { initial_delay_ms, max_delay_ms } = config.reconnect;
    if max_delay_ms < initial_delay_ms {
        let text =
            format!("the longest wait, {max_delay_ms} ms, is shorter than the first, {initial_delay_ms} ms");
        checker.mistake("contradiction", node.at(["reconnect"]), text, "raise `max_delay_ms`");
    }
    if checker.mistakes.len() > before {
        return None;
    }
    Some(AmqpConnectionSpec {
        targets,
        tls: tls?,
        connect_timeout: Duration::from_millis(config.connect_timeout_ms),
        first_delay: Duration::from_millis(initial_delay_ms),
        longest_delay: Duration::from_millis(max_delay_ms),
    })
}

/// One URL with all that stands beside it.
fn check_url(
    url: &Secret,
    config: &ConnectionConfig,
    at: &Node,
    node: &Node,
    checker: &mut Checker<'_>,
) -> Option<AMQPUri> {
    const MEND: &str = "write `amqp://host:5672`, or `amqps://host:5671` for TLS";
    let text = url.expose();
    let mut bad = |problem: &str| {
        // The URL itself is not quoted: it may hold a password.
        checker.mistake("invalid_url", at, format!("this is no URL of a broker: {problem}"), MEND);
    };
    let Some((scheme, rest)) = text.split_once("://") else {
        bad("it does not begin with `amqp://` or `amqps://`");
        return None;
    };
    if !matches!(scheme, "amqp" | "amqps") {
        bad("it does not begin with `amqp://` or `amqps://`");
        return None;
    }
    if rest.contains(['?', '#']) {
        bad("parameters cannot stand in it; the keys beside `urls` say the same");
        return None;
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user_info, host) =
        authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if host.is_empty() || host.starts_with(':') {
        bad("the host is missing");
        return None;
    }
    // `amqp://host/` would be the virtual host without a name, which no one means.
    let parsed = text.trim_end_matches('/').parse::<AMQPUri>();
    let Ok(mut target) = parsed else {
        bad("the host, the port, or a percent-encoded part is malformed");
        return None;
    };
    let is_there_twice = |in_url: bool, key: &str| in_url && node.get(key).is_some();
    for (in_url, key) in
        [(user_info.is_some(), "user"), (user_info.is_some(), "password"), (!path.is_empty(), "vhost")]
    {
        if is_there_twice(in_url, key) {
            let text = format!("`{key}` stands in a URL and beside `urls`");
            checker.mistake("contradiction", node.at([key]), text, "keep one of them");
        }
    }
    let userinfo = &mut target.authority.userinfo;
    if let Some(user) = &config.user {
        userinfo.username.clone_from(user);
    }
    if let Some(password) = &config.password {
        userinfo.password = password.expose().to_owned();
    }
    if let Some(vhost) = &config.vhost {
        target.vhost.clone_from(vhost);
    }
    // Whole seconds on the wire (AMQP 0-9-1, connection.tune).
    target.query.heartbeat = u16::try_from(config.heartbeat_ms.div_ceil(1_000)).ok();
    target.query.auth_mechanism = Some(match config.authentication {
        Authentication::Plain => SASLMechanism::Plain,
        Authentication::External => SASLMechanism::External,
    });
    Some(target)
}

fn check_authentication(config: &ConnectionConfig, node: &Node, checker: &mut Checker<'_>) {
    if config.user.is_some() != config.password.is_some() {
        let (there, missing) =
            if config.user.is_some() { ("user", "password") } else { ("password", "user") };
        let text = format!("there is a `{there}` and no `{missing}`");
        checker.mistake("missing_key", node.at([there]), text, format!("add `{missing}:`"));
    }
    let has_certificate = config.tls.as_ref().is_some_and(|tls| tls.certificate_file.is_some());
    if config.authentication == Authentication::External && !has_certificate {
        checker.mistake(
            "missing_key",
            node.at(["authentication"]),
            "`external` is by client certificate, and there is none",
            "add `tls: { certificate_file: …, key_file: … }`",
        );
    }
}

// === impl Target ===

impl Target {
    fn new(uri: AMQPUri, index: usize, at: &Node, node: &Node) -> Self {
        let is_hidden = |key| at.is_substituted() || node.get(key).is_some_and(Node::is_substituted);
        let place = if at.is_substituted() {
            format!("number {} of `urls`", index + 1)
        } else {
            format!("{}:{}", uri.authority.host, uri.authority.port)
        };
        let mut account = String::new();
        if !is_hidden("user") {
            account.push_str(&format!(", user `{}`", uri.authority.userinfo.username));
        }
        if !is_hidden("vhost") {
            account.push_str(&format!(", virtual host `{}`", uri.vhost));
        }
        Self { uri, place, account }
    }
}

// === impl AmqpConnectionSpec ===

impl ConnectionSpec for AmqpConnectionSpec {
    fn configuration_files(&self) -> Vec<PathBuf> {
        self.tls.paths()
    }
}

/// Shows no credentials.
impl std::fmt::Debug for AmqpConnectionSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let targets: Vec<&str> = self.targets.iter().map(|target| &*target.place).collect();
        f.debug_struct("AmqpConnectionSpec")
            .field("targets", &targets)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

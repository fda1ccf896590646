//! The URL of a sink: a text with expressions, of which a message can fill the parts that it is meant to fill, and no
//! other. Scheme and host are as written, or, if they come from the message, one of a list; in the path and the query, what
//! an expression gives is percent-encoded, so that it cannot begin another segment or another parameter.

use std::borrow::Cow;

use gristmill_core::{
    adapter::Checker,
    config::{Node, Piece, Substitution, split_expressions},
    sink::{Outgoing, Slot},
};
use http::{HeaderValue, Uri, header::InvalidHeaderValue, uri::Authority};

use crate::percent;

/// The longest URL that is sent, in bytes: what every server takes (RFC 9110 section 4.1).
const MAX_URL_BYTES: usize = 8_000;

const TOO_LONG: &str = "it is longer than 8000 bytes";

/// A checked URL.
#[derive(Clone)]
pub(crate) struct UrlTemplate {
    parts: Vec<Part>,
    encodes: bool,
    origin: Origin,
    secrets: Option<Secrets>,
    /// The URL of every message, if no expression is in it.
    same_for_all: Option<Url>,
}

/// What is known of a URL of which a part was substituted, so that none of it is shown.
#[derive(Clone)]
struct Secrets {
    /// The URL as it stands in the flow file, without the query: shown in the place of each that is made of it.
    written: String,
    /// What was put in.
    values: Vec<String>,
}

/// A URL for one message.
#[derive(Clone)]
pub(crate) struct Url {
    pub(crate) uri: Uri,
    /// As it is named in `host`: without what is before an `@`, with the port if that is not the scheme's own (RFC 9110 section 7.2).
    pub(crate) host: HeaderValue,
    /// As it is shown to the operator: without the query, and as it is written if any of it was substituted.
    pub(crate) shown: String,
    /// What is to be struck out of texts about this URL.
    hidden: Vec<String>,
}

#[derive(Clone)]
enum Part {
    Literal(String),
    Expression(Slot, Region),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Region {
    /// Scheme, host and port.
    Origin,
    Path,
    Query,
}

#[derive(Clone)]
enum Origin {
    /// Written in full: whether it is `https`, and host with port.
    Fixed { is_https: bool, authority: String },
    /// From the message, and one of these.
    OneOf(Vec<HostPattern>),
}

/// A host that a message may name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    Any,
    Host { name: String, with_subdomains: bool, port: Option<u16> },
}

// === impl UrlTemplate ===

impl UrlTemplate {
    /// Reads a URL. `None` when there are mistakes.
    pub(crate) fn check(
        text: &str,
        hosts: &[String],
        encodes: bool,
        config: &Node,
        checker: &mut Checker<'_>,
    ) -> Option<Self> {
        let node = config.get("url").unwrap_or(config);
        let mend = "write it as `https://api.example.com/orders/${headers.id}`";
        let Some(pieces) = split_expressions(text) else {
            checker.mistake("invalid_url", node, "a `${` of this URL is not closed", "add the `}`");
            return None;
        };
        let regions = match regions(&pieces) {
            Ok(regions) => regions,
            Err(problem) => {
                checker.mistake("invalid_url", node, problem, mend);
                return None;
            }
        };
        let is_from_message = pieces
            .iter()
            .zip(&regions)
            .any(|(piece, region)| matches!(piece, Piece::Expression(_)) && *region == Region::Origin);
        let origin = if is_from_message {
            Self::check_hosts(hosts, config, checker)?
        } else {
            match fixed_origin(&pieces) {
                Ok(_) if !hosts.is_empty() => {
                    checker.mistake(
                        "unused_hosts",
                        config.get("hosts").unwrap_or(node),
                        "`hosts` is for URLs whose host comes from the message; the host of this one is written",
                        "remove `hosts`",
                    );
                    return None;
                }
                Ok(origin) => origin,
                Err(problem) => {
                    checker.mistake("invalid_url", node, problem, mend);
                    return None;
                }
            }
        };
        let parts = pieces
            .into_iter()
            .zip(regions)
            .map(|(piece, region)| match piece {
                Piece::Literal(text) => Part::Literal(text.to_owned()),
                Piece::Expression(text) => Part::Expression(checker.template(node, text), region),
            })
            .collect();
        let secrets = node.substitution.as_deref().map(Secrets::of);
        let mut template = Self { parts, encodes, origin, secrets, same_for_all: None };
        match template.written().transpose() {
            Ok(same_for_all) => template.same_for_all = same_for_all,
            Err(problem) => {
                checker.mistake("invalid_url", node, format!("this URL cannot be sent: {problem}"), mend);
                return None;
            }
        }
        Some(template)
    }

    /// The URL, or why it is none, if no expression is in it.
    fn written(&self) -> Option<Result<Url, &'static str>> {
        let mut text = String::new();
        for part in &self.parts {
            let Part::Literal(literal) = part else { return None };
            text.push_str(literal);
        }
        Some(self.parse(&text))
    }

    fn check_hosts(hosts: &[String], config: &Node, checker: &mut Checker<'_>) -> Option<Origin> {
        if hosts.is_empty() {
            checker.mistake(
                "missing_hosts",
                config.get("url").unwrap_or(config),
                "the host of this URL comes from the message, so a message could name any host",
                "list the hosts that it may name: `hosts: [api.example.com]`",
            );
            return None;
        }
        let mut patterns = Vec::with_capacity(hosts.len());
        for (index, host) in hosts.iter().enumerate() {
            match HostPattern::parse(host) {
                Some(pattern) => patterns.push(pattern),
                None => checker.mistake(
                    "invalid_host",
                    config.at(["hosts", &index.to_string()]),
                    "this is not a host",
                    "write `api.example.com`, `api.example.com:8443`, `*.example.com` or `*`",
                ),
            }
        }
        (patterns.len() == hosts.len()).then_some(Origin::OneOf(patterns))
    }

    /// Whether some message may need TLS.
    pub(crate) fn may_be_https(&self) -> bool {
        !matches!(self.origin, Origin::Fixed { is_https: false, .. })
    }

    /// The URL for one message.
    ///
    /// # Errors
    /// Why the message has none, without the text that would be it.
    pub(crate) fn render(&self, outgoing: &Outgoing<'_>) -> Result<Cow<'_, Url>, &'static str> {
        if let Some(url) = &self.same_for_all {
            return Ok(Cow::Borrowed(url));
        }
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Expression(slot, region) => {
                    let given = outgoing.text(*slot);
                    if given.is_empty() && *region != Region::Query {
                        return Err(
                            "an expression in it gives an empty text, which would make it another URL",
                        );
                    }
                    if self.encodes && *region != Region::Origin {
                        percent::encode_component(given, &mut text);
                    } else {
                        text.push_str(given);
                    }
                }
            }
            if text.len() > MAX_URL_BYTES {
                return Err(TOO_LONG);
            }
        }
        self.parse(&text).map(Cow::Owned)
    }

    /// Reads a URL that is complete.
    fn parse(&self, text: &str) -> Result<Url, &'static str> {
        if text.len() > MAX_URL_BYTES {
            return Err(TOO_LONG);
        }
        if text.contains('#') || !text.chars().all(is_url_char) {
            return Err("it holds a character that no URL holds");
        }
        let uri: Uri = text.parse().map_err(|_| "it is not a URL")?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err("it has no scheme or no host");
        };
        let is_https = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err("its scheme is neither `http` nor `https`"),
        };
        if !has_good_port(authority) {
            return Err("its port is no number up to 65535");
        }
        let is_allowed = match &self.origin {
            Origin::Fixed { is_https: expected, authority: written } => {
                is_https == *expected && authority.as_str() == written
            }
            Origin::OneOf(patterns) => {
                let port = authority.port_u16().filter(|port| *port != default_port(is_https));
                !authority.as_str().contains('@')
                    && patterns.iter().any(|p| p.matches(authority.host(), port))
            }
        };
        if !is_allowed {
            return Err("its host is not one that the flow allows");
        }
        if uri.path().split('/').any(is_dot_segment) {
            return Err("its path holds a `.` or `..` segment");
        }
        let (shown, hidden) = match &self.secrets {
            None => (format!("{scheme}://{authority}{}", uri.path()), Vec::new()),
            Some(secrets) => (secrets.written.clone(), secrets.hidden(authority.host())),
        };
        let host = host_field(authority, is_https).map_err(|_| "its host is none that HTTP can name")?;
        Ok(Url { uri, host, shown, hidden })
    }
}

/// Without what was substituted.
impl std::fmt::Debug for UrlTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.secrets.as_ref().map_or("as written", |secrets| &*secrets.written);
        f.debug_tuple("UrlTemplate").field(&shown).finish()
    }
}

// === impl Secrets ===

impl Secrets {
    fn of(substitution: &Substitution) -> Self {
        let written = substitution.written();
        // A `?` in an expression begins no query.
        let mut rest = &*written;
        let mut length = written.len();
        for piece in split_expressions(&written).unwrap_or_default() {
            let text = match piece {
                Piece::Literal(text) | Piece::Expression(text) => text,
            };
            if let Piece::Literal(text) = piece
                && let Some(query) = text.find('?')
            {
                length = written.len() - rest.len() + query;
                break;
            }
            rest = rest.get(text.len()..).unwrap_or_default();
        }
        let values = substitution.values().filter(|value| !value.is_empty()).map(str::to_owned).collect();
        Self { written: written.get(..length).unwrap_or_default().to_owned(), values }
    }

    /// The values, and the host if that came with one of them, the longest first.
    fn hidden(&self, host: &str) -> Vec<String> {
        let mut hidden = self.values.clone();
        if !self.written.contains(host) {
            // As errors of name resolution and of TLS name it.
            let host = host.trim_matches(['[', ']']);
            hidden.extend([host.to_owned(), host.to_ascii_lowercase()]);
        }
        hidden.sort_unstable_by_key(|text| std::cmp::Reverse(text.len()));
        hidden
    }
}

// === impl Url ===

impl Url {
    /// A text that others made of this URL, or of what is behind it, without what was substituted.
    pub(crate) fn without_secrets(&self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let found = self.hidden.iter().find_map(|secret| rest.strip_prefix(secret.as_str()));
            match found {
                Some(_) => shown.push_str("[redacted]"),
                None => shown.push(c),
            }
            rest = found.or_else(|| rest.get(c.len_utf8()..)).unwrap_or_default();
        }
        shown
    }
}

/// The value of `host` for it.
fn host_field(authority: &Authority, is_https: bool) -> Result<HeaderValue, InvalidHeaderValue> {
    let host = authority.host();
    match authority.port_u16().filter(|port| *port != default_port(is_https)) {
        Some(port) => format!("{host}:{port}").try_into(),
        None => host.try_into(),
    }
}

/// In which region each piece begins.
fn regions(pieces: &[Piece<'_>]) -> Result<Vec<Region>, &'static str> {
    let mut region = Region::Origin;
    let mut regions = Vec::with_capacity(pieces.len());
    for (index, piece) in pieces.iter().enumerate() {
        regions.push(region);
        let Piece::Literal(literal) = piece else { continue };
        if literal.contains('#') {
            return Err("this URL has a fragment (`#`), which is never sent");
        }
        if let Some(wrong) = literal.chars().find(|c| !is_url_char(*c)) {
            return Err(if wrong.is_whitespace() || wrong.is_control() {
                "this URL holds a space or a control character"
            } else {
                "this URL holds a character that must be percent-encoded"
            });
        }
        let mut rest = *literal;
        if index == 0 {
            rest = rest
                .strip_prefix("https://")
                .or_else(|| rest.strip_prefix("http://"))
                .ok_or("this URL does not begin with `http://` or `https://`")?;
        }
        if region == Region::Origin
            && let Some(end) = rest.find(['/', '?'])
        {
            region = Region::Path;
            rest = rest.get(end..).unwrap_or_default();
        }
        if region == Region::Path && rest.contains('?') {
            region = Region::Query;
        }
    }
    Ok(regions)
}

/// Scheme and host of a URL whose origin is written in full.
fn fixed_origin(pieces: &[Piece<'_>]) -> Result<Origin, &'static str> {
    let stand_in: String = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Literal(text) => text,
            Piece::Expression(_) => "x",
        })
        .collect();
    let uri: Uri = stand_in.parse().map_err(|_| "this is not a URL")?;
    let authority = uri.authority().ok_or("this URL has no host")?;
    if authority.as_str().contains('@') {
        return Err("this URL holds a user name or a password; put them into `headers`, as `authorization`");
    }
    if authority.host().is_empty() {
        return Err("this URL has no host");
    }
    if !has_good_port(authority) {
        return Err("the port of this URL is no number up to 65535");
    }
    if uri.path().split('/').any(is_dot_segment) {
        return Err("the path of this URL holds a `.` or `..` segment");
    }
    Ok(Origin::Fixed {
        is_https: uri.scheme_str() == Some("https"),
        authority: authority.as_str().to_owned(),
    })
}

/// Whether the port is a number that a port can be, or is left out (RFC 3986, section 3.2.3). Who asks for the number gets none
/// for any other, as if it were left out, and would take the scheme's.
fn has_good_port(authority: &http::uri::Authority) -> bool {
    let host_and_port = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, rest)| rest);
    match host_and_port.strip_prefix(authority.host()) {
        Some("" | ":") => true,
        _ => authority.port_u16().is_some_and(|port| port > 0),
    }
}

/// RFC 3986 section 2, with the percent sign for what is encoded.
fn is_url_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=%".contains(c)
}

/// Whether a server might take this segment for the folder itself or the one above, in any spelling.
fn is_dot_segment(segment: &str) -> bool {
    matches!(percent::decode(segment).as_deref(), Some("." | ".."))
}

fn default_port(is_https: bool) -> u16 {
    if is_https { 443 } else { 80 }
}

// === impl HostPattern ===

impl HostPattern {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let (rest, with_subdomains) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let authority: http::uri::Authority = rest.parse().ok()?;
        let name = authority.host();
        if name.is_empty() || rest.contains(['@', '*']) || !has_good_port(&authority) {
            return None;
        }
        Some(Self::Host { name: name.to_ascii_lowercase(), with_subdomains, port: authority.port_u16() })
    }

    /// `port` is `None` when it is the one that the scheme implies.
    fn matches(&self, host: &str, port: Option<u16>) -> bool {
        match self {
            Self::Any => true,
            Self::Host { name, with_subdomains, port: wanted } => {
                let host = host.to_ascii_lowercase();
                let fits = match with_subdomains {
                    true => host
                        .strip_suffix(name.as_str())
                        .is_some_and(|left| left.len() > 1 && left.ends_with('.')),
                    false => host == *name,
                };
                fits && *wanted == port
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use gristmill_core::{Message, Timestamp, config::Mistakes, config::Span, limits::FlowLimits};
    use serde_json::json;

    use super::*;

    fn check(config: serde_json::Value) -> Result<(UrlTemplate, Vec<String>), String> {
        let node = Node::from_json(&config, &Span::nowhere("test"));
        let hosts: Vec<String> =
            serde_json::from_value(config.get("hosts").cloned().unwrap_or(json!([]))).unwrap();
        let encodes = config.get("encode_url").is_none();
        let (mut mistakes, limits) = (Mistakes::new(), FlowLimits::default());
        let mut checker = Checker::new(&mut mistakes, Path::new("."), &limits);
        let url = UrlTemplate::check(config["url"].as_str().unwrap(), &hosts, encodes, &node, &mut checker);
        let templates = checker.take_templates().into_iter().map(|t| t.text).collect();
        url.map(|url| (url, templates)).ok_or_else(|| mistakes.iter().map(|m| m.to_string()).collect())
    }

    fn render(config: serde_json::Value, texts: &[&str]) -> Result<String, &'static str> {
        let (url, templates) = check(config).unwrap();
        assert_eq!(templates.len(), texts.len());
        let message = Message::new("m", Timestamp::from_millis(0), "");
        let texts: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
        url.render(&Outgoing::new(&message, &texts)).map(|url| url.uri.to_string())
    }

    /// As RFC 9110 section 7.2 has it: the authority without user and without the port that goes without saying.
    #[test]
    fn a_host_is_named_without_what_the_server_knows() {
        let host = |url: &str| {
            let (template, _) = check(json!({"url": url})).unwrap();
            let message = Message::new("m", Timestamp::from_millis(0), "");
            let host = template.render(&Outgoing::new(&message, &[])).unwrap().host.clone();
            host.to_str().unwrap().to_owned()
        };
        assert_eq!(host("http://api.test/orders"), "api.test");
        assert_eq!(host("http://api.test:80/"), "api.test");
        assert_eq!(host("http://api.test:443/"), "api.test:443");
        assert_eq!(host("https://api.test:443/"), "api.test");
        assert_eq!(host("https://[::1]:8443/"), "[::1]:8443");
    }

    #[test]
    fn a_port_that_is_none_is_not_taken_for_one_that_is_left_out() {
        for port in ["65616", "0", "99999999999", "8o"] {
            for host in ["127.0.0.1", "[::1]", "a.test"] {
                let wrong = check(json!({"url": format!("http://{host}:{port}/x")})).unwrap_err();
                assert!(wrong.contains("port") || wrong.contains("not a URL"), "{wrong}");
                let from_a_message =
                    json!({"url": "${headers.to}", "hosts": ["127.0.0.1", "a.test"], "encode_url": false});
                let url = format!("http://{host}:{port}/x");
                assert!(render(from_a_message, &[&url]).is_err(), "{url}");
            }
        }
        assert!(check(json!({"url": "http://127.0.0.1:65535/x"})).is_ok());
        assert!(check(json!({"url": "${headers.to}", "hosts": ["a.test:70000"]})).is_err());
    }

    #[test]
    fn what_a_message_gives_stays_one_segment_or_one_value() {
        let url = json!({"url": "https://api.test/orders/${headers.id}?state=${body.state}&x=1"});
        assert_eq!(render(url.clone(), &["7", "new"]).unwrap(), "https://api.test/orders/7?state=new&x=1");
        assert_eq!(
            render(url.clone(), &["../a?b#c", "1&x=2 ü"]).unwrap(),
            "https://api.test/orders/..%2Fa%3Fb%23c?state=1%26x%3D2%20%C3%BC&x=1"
        );
        assert_eq!(render(url.clone(), &["7", ""]).unwrap(), "https://api.test/orders/7?state=&x=1");
        assert!(render(url.clone(), &["", "new"]).unwrap_err().contains("empty"));
        assert!(render(url.clone(), &["..", "new"]).unwrap_err().contains("`..`"));
        assert!(render(url, &[&"x".repeat(9_000), ""]).unwrap_err().contains("8000"));
    }

    #[test]
    fn unencoded_texts_can_do_no_more_than_name_a_path() {
        let url = json!({"url": "https://api.test/${headers.path}", "encode_url": false});
        assert_eq!(render(url.clone(), &["a/b?c=d"]).unwrap(), "https://api.test/a/b?c=d");
        assert_eq!(render(url.clone(), &["@evil.test/"]).unwrap(), "https://api.test/@evil.test/");
        for wrong in ["a b", "a\r\nb", "a#b", "a\\b", "ü", "a/../b", "%2e%2E/b", ""] {
            assert!(render(url.clone(), &[wrong]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_host_from_the_message_is_one_of_the_list() {
        let url =
            json!({"url": "${headers.target}", "hosts": ["api.test", "*.example.test:8443", "[::1]:99"]});
        for good in [
            "http://api.test/x",
            "https://API.test:443/x?y",
            "http://a.b.example.test:8443",
            "http://[::1]:99/",
        ] {
            assert!(render(url.clone(), &[good]).is_ok(), "{good}: {:?}", render(url.clone(), &[good]));
        }
        for evil in [
            "http://evil.test/",
            "http://api.test:81/",
            "http://api.test@evil.test/",
            "http://evil.test/api.test",
            "http://example.test:8443/",
            "http://evilexample.test:8443/",
            "http://a.example.test/",
            "ftp://api.test/",
            "/relative",
            "api.test",
            "http://api.test\r\nx: y/",
            "http://evil.test\\@api.test/",
            "http://user:pass@api.test/",
        ] {
            assert!(render(url.clone(), &[evil]).is_err(), "{evil}");
        }
        let tenant = json!({"url": "https://${headers.tenant}.api.test/x", "hosts": ["*.api.test"]});
        assert_eq!(render(tenant.clone(), &["acme"]).unwrap(), "https://acme.api.test/x");
        for evil in ["evil.test/", "evil.test?", "evil.test:80", "a@b", "evil.test#"] {
            assert!(render(tenant.clone(), &[evil]).is_err(), "{evil}");
        }
        assert!(render(json!({"url": "http://${a}/x", "hosts": ["*"]}), &["anything.test:1"]).is_ok());
    }

    #[test]
    fn a_url_without_expressions_is_the_same_for_all_and_checked_before_any_message() {
        let url = json!({"url": "https://api.test/orders?state=new"});
        assert_eq!(render(url, &[]).unwrap(), "https://api.test/orders?state=new");
        let wrong = check(json!({"url": format!("https://api.test/{}", "x".repeat(9_000))})).unwrap_err();
        assert!(wrong.contains("8000 bytes"), "{wrong}");
    }

    #[test]
    fn mistakes_are_found_before_any_message() {
        for (config, part) in [
            (json!({"url": "api.test/x"}), "does not begin with"),
            (json!({"url": "ftp://api.test/x"}), "does not begin with"),
            (json!({"url": "http://"}), "not a URL"),
            (json!({"url": "http:///x"}), "not a URL"),
            (json!({"url": "http://user:pass@api.test/"}), "a user name or a password"),
            (json!({"url": "http://api.test/#x"}), "a fragment"),
            (json!({"url": "http://api.test/a b"}), "a space"),
            (json!({"url": "http://api.test/ü"}), "percent-encoded"),
            (json!({"url": "http://api.test/$${x}"}), "percent-encoded"),
            (json!({"url": "http://api.test/a\\b"}), "percent-encoded"),
            (json!({"url": "http://api.test/a/../b"}), "`..`"),
            (json!({"url": "http://api.test/${a"}), "not closed"),
            (json!({"url": "http://${a}/"}), "could name any host"),
            (json!({"url": "http://api.test${a}/"}), "could name any host"),
            (json!({"url": "http://api.test/", "hosts": ["api.test"]}), "remove `hosts`"),
            (json!({"url": "http://${a}/", "hosts": ["a b", "ok.test"]}), "not a host"),
        ] {
            let error = check(config.clone()).unwrap_err();
            assert!(error.contains(part), "{config}: {error}");
        }
    }
}

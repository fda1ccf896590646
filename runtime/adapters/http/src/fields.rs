//! Which header fields pass between HTTP and a message, in either direction.

use http::{HeaderMap, HeaderName, header};

/// Names that begin so are the adapter's own: what it says about a request or an answer. A peer cannot forge them, for a
/// field that comes with such a name is dropped.
pub(crate) const RESERVED_PREFIX: &str = "http-";

/// Header names that the source sets.
pub(crate) const METHOD: &str = "http-method";
/// The path as it was requested, still percent-encoded.
pub(crate) const PATH: &str = "http-path";
/// The query as it was requested, without the question mark.
pub(crate) const QUERY: &str = "http-query";
/// The host that was asked for, lower-case, without the port.
pub(crate) const HOST: &str = "http-host";
/// The address at the other end of the connection, without the port.
pub(crate) const REMOTE_ADDRESS: &str = "http-remote-addr";
/// Before the name of a path parameter.
pub(crate) const PARAMETER_PREFIX: &str = "http-param-";
/// Header name that `call` sets: the status of the answer.
pub(crate) const STATUS: &str = "http-status";

/// Whether a field speaks of one connection or of one framing of the body, and so never passes through: the hop-by-hop
/// fields of RFC 9110 section 7.6.1, and those by which HTTP delimits and addresses a request.
pub(crate) fn is_connection_field(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::CONTENT_LENGTH
            | header::EXPECT
            | header::HOST
    ) || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

/// Whether a field proves who the sender is (RFC 9110 section 11, RFC 6265). Proxy credentials never pass.
pub(crate) fn is_credential(name: &HeaderName) -> bool {
    matches!(*name, header::AUTHORIZATION | header::COOKIE)
}

/// What the `Connection` field of these headers names: fields that are hop-by-hop too, and words such as `close`.
pub(crate) fn connection_options(headers: &HeaderMap) -> Vec<&str> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect()
}

/// Why a name cannot be that of a field which a flow sends or passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadName {
    /// It holds what no name holds (RFC 9110 section 5.1).
    NoName,
    /// It is the host of the request.
    Host,
    /// It speaks of one connection or one framing.
    OfConnection,
}

/// The name of a field which a flow sends or passes on.
///
/// # Errors
/// Why it cannot be.
pub(crate) fn check_name(name: &str) -> Result<HeaderName, BadName> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Err(_) => Err(BadName::NoName),
        Ok(header::HOST) => Err(BadName::Host),
        Ok(parsed) if is_connection_field(&parsed) => Err(BadName::OfConnection),
        Ok(parsed) => Ok(parsed),
    }
}

impl BadName {
    /// What is wrong, to stand behind the name.
    pub(crate) const fn problem(self) -> &'static str {
        match self {
            Self::NoName => "is not a header name",
            Self::Host | Self::OfConnection => "is set by HTTP itself",
        }
    }

    /// What to do where headers of a request are written or forwarded.
    pub(crate) const fn mend(self) -> &'static str {
        match self {
            Self::NoName => "a name has letters, digits and `-`, and no space or colon: `x-order-id`",
            Self::Host => "leave it out: it is the host of `url`",
            Self::OfConnection => {
                "leave it out: each connection has its own, which HTTP sends where it is needed"
            }
        }
    }
}

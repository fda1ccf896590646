//! TLS for every adapter: what can be written under `tls:`, where the files are, what is in them, and what rustls makes of
//! it. Knows no protocol: who uses it sets the ALPN names, and speaks.
//!
//! | stage | client side | server side |
//! |---|---|---|
//! | as written | [`ClientTlsConfig`] | [`ServerTlsConfig`] |
//! | checked: paths, nothing is opened | [`ClientTls`] | [`ServerTls`] |
//! | read: bytes, a private key among them | [`ClientFiles`] | [`ServerFiles`] |
//! | ready | [`rustls::ClientConfig`] | [`rustls::ServerConfig`] |
//!
//! What holds a private key has no `Debug`, and no error quotes what is in a file.

mod client;
mod config;
mod file;
mod pem;
mod server;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use self::{
    client::{ClientFiles, ClientTls},
    config::{ClientTlsConfig, ServerTlsConfig},
    file::MAX_FILE_BYTES,
    server::{ServerFiles, ServerTls},
};

/// What is wrong with a file of TLS, or with all of them together: a text for the operator, which each adapter gives the
/// class that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError {
    text: String,
}

impl TlsError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }

    /// What is wrong, in which file, and what to do. Shows nothing that is in a file.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Display for TlsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for TlsError {}

/// Named wherever a configuration is built, for rustls panics when it has to choose and two are compiled in.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn no_versions(error: &rustls::Error) -> TlsError {
    TlsError::new(format!("TLS cannot be set up: {error}"))
}

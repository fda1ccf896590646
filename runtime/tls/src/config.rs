//! What stands under `tls:`, as it was written. The doc comments are what editors show.

use schemars::JsonSchema;
use serde::Deserialize;

/// Files in PEM. They are read when the flow is loaded, and again at each reload.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientTlsConfig {
    /// The certificates of the authorities that are trusted, instead of the system's.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub ca_file: Option<String>,
    /// The certificate by which this side makes itself known, its own first.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub certificate_file: Option<String>,
    /// The private key of that certificate.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub key_file: Option<String>,
}

/// Files in PEM. They are read when the flow is loaded, and again at each reload.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTlsConfig {
    /// The certificate by which this side is known, its own first, then those that lead to the authority.
    #[schemars(length(min = 1))]
    pub certificate_file: String,
    /// The private key of that certificate.
    #[schemars(length(min = 1))]
    pub key_file: String,
    /// The certificates of the authorities whose clients may come: a client without a certificate of one of them is turned
    /// away. Left out, clients need none.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub client_ca_file: Option<String>,
}

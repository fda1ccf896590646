//! The side that connects: whom it trusts, and as whom it comes.

use std::path::{Path, PathBuf};

use gristmill_core::config::{Mistake, Mistakes, Node};
use rustls::{ClientConfig, RootCertStore};

use crate::{ClientTlsConfig, TlsError, file::TlsFile, no_versions, pem, provider};

/// Where the files are. The default is without any: the system's authorities, and no certificate of one's own.
#[derive(Debug, Clone, Default)]
pub struct ClientTls {
    ca: Option<TlsFile>,
    /// Certificate and key.
    identity: Option<(TlsFile, TlsFile)>,
}

/// What is in the files: what has the same can share connections. Holds a private key, and so has no `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct ClientFiles {
    ca: Option<Vec<u8>>,
    /// Certificate and key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl ClientTls {
    /// Whether this side makes itself known by a certificate.
    pub fn has_certificate(&self) -> bool {
        self.identity.is_some()
    }

    /// Checks what stands under `tls`, of which `node` is the map. Relative paths are relative to `base_dir`; no file is
    /// opened. `None` when there are mistakes.
    pub fn check(
        config: &ClientTlsConfig,
        node: &Node,
        base_dir: &Path,
        mistakes: &mut Mistakes,
    ) -> Option<Self> {
        let file =
            |key, text: &Option<String>| text.as_ref().map(|text| TlsFile::new(key, text, node, base_dir));
        let ca = file("ca_file", &config.ca_file);
        let identity =
            match (file("certificate_file", &config.certificate_file), file("key_file", &config.key_file)) {
                (Some(certificate), Some(key)) => Some((certificate, key)),
                (None, None) => None,
                _ => {
                    let text =
                        "a certificate is of no use without its key, nor a key without its certificate";
                    mistakes.push(
                        Mistake::new("missing_key", &node.span, text)
                            .mend("write both `certificate_file` and `key_file`"),
                    );
                    return None;
                }
            };
        Some(Self { ca, identity })
    }

    /// The files that [`Self::read`] reads.
    pub fn paths(&self) -> Vec<PathBuf> {
        let identity = self.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.ca.iter().chain(identity).map(|file| file.path().to_owned()).collect()
    }

    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// The file that cannot be read, and why.
    pub fn read(&self) -> Result<ClientFiles, TlsError> {
        let ca = self.ca.as_ref().map(TlsFile::read).transpose()?;
        let identity = match &self.identity {
            Some((certificate, key)) => Some((certificate.read()?, key.read()?)),
            None => None,
        };
        Ok(ClientFiles { ca, identity })
    }
}

impl ClientFiles {
    /// What rustls makes of them, without ALPN names. Without a file of authorities those of the system are read, some
    /// hundred files. Blocks.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let roots = match &self.ca {
            Some(pem) => pem::authorities(pem, "ca_file")?,
            None => system_authorities()?,
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| no_versions(&error))?
            .with_root_certificates(roots);
        let Some((certificate, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        builder
            .with_client_auth_cert(
                pem::certificates(certificate, "certificate_file")?,
                pem::private_key(key)?,
            )
            .map_err(|error| {
                TlsError::new(format!("`certificate_file` and `key_file` of `tls` do not fit: {error}"))
            })
    }
}

/// Those that can be read; one that is broken does not make the others useless.
fn system_authorities() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(roots);
    }
    let why = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
    Err(TlsError::new(format!(
        "the system's certificates, by which servers are known, cannot be read: {why}; install them (Debian: \
         `ca-certificates`), or name a file of them in `tls: {{ ca_file: … }}`"
    )))
}

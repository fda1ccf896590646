//! The side that listens: as whom it is known, and whose clients it lets in.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use gristmill_core::config::Node;
use rustls::{ServerConfig, server::WebPkiClientVerifier};

use crate::{ServerTlsConfig, TlsError, file::TlsFile, no_versions, pem, provider};

/// Where the files are.
#[derive(Debug, Clone)]
pub struct ServerTls {
    certificate: TlsFile,
    key: TlsFile,
    client_ca: Option<TlsFile>,
}

/// What is in the files. Holds a private key, and so has no `Debug`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ServerFiles {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl ServerTls {
    /// Takes what stands under `tls`, of which `node` is the map. Relative paths are relative to `base_dir`; no file is
    /// opened. The schema has found every mistake that can be found before that.
    pub fn new(config: &ServerTlsConfig, node: &Node, base_dir: &Path) -> Self {
        let file = |key, text: &str| TlsFile::new(key, text, node, base_dir);
        Self {
            certificate: file("certificate_file", &config.certificate_file),
            key: file("key_file", &config.key_file),
            client_ca: config.client_ca_file.as_ref().map(|text| file("client_ca_file", text)),
        }
    }

    /// The files that [`Self::read`] reads, by which two settings can be compared: certificate, key, and if there is one the
    /// file of the clients' authorities.
    pub fn paths(&self) -> Vec<PathBuf> {
        let files = [&self.certificate, &self.key].into_iter().chain(&self.client_ca);
        files.map(|file| file.path().to_owned()).collect()
    }

    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// The file that cannot be read, and why.
    pub fn read(&self) -> Result<ServerFiles, TlsError> {
        Ok(ServerFiles {
            certificate: self.certificate.read()?,
            key: self.key.read()?,
            client_ca: self.client_ca.as_ref().map(TlsFile::read).transpose()?,
        })
    }
}

impl ServerFiles {
    /// What rustls makes of them, without ALPN names.
    ///
    /// # Errors
    /// What is wrong with a file, or that the key is not that of the certificate.
    pub fn server_config(&self) -> Result<ServerConfig, TlsError> {
        let chain = pem::certificates(&self.certificate, "certificate_file")?;
        let key = pem::private_key(&self.key)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| no_versions(&error))?;
        let builder = match &self.client_ca {
            Some(pem) => {
                let roots = Arc::new(pem::authorities(pem, "client_ca_file")?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .build()
                    .map_err(|error| {
                        TlsError::new(format!("the `client_ca_file` of `tls` cannot be used: {error}"))
                    })?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        builder.with_single_cert(chain, key).map_err(|error| {
            TlsError::new(format!("`certificate_file` and `key_file` of `tls` do not fit: {error}"))
        })
    }
}

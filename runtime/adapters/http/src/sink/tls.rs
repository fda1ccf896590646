//! The files of TLS: where they are, what is in them, and what rustls makes of it.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use gristmill_core::{ErrorClass, Failure, adapter::Checker, config::Node};
use hyper_rustls::ConfigBuilderExt as _;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::config::TlsConfig;

/// The largest file that is read, in bytes. All authorities that browsers know fill a quarter of it.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Where the files are.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsPaths {
    ca: Option<PathBuf>,
    /// Certificate and key.
    identity: Option<(PathBuf, PathBuf)>,
}

/// What is in the files. Sinks with the same share their connections. Holds a private key, and so has no `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct TlsFiles {
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl TlsPaths {
    /// Reads the configuration; the files are read when the sink is opened.
    pub(crate) fn check(config: &TlsConfig, node: &Node, checker: &mut Checker<'_>) -> Self {
        let path = |text: &String| checker.base_dir.join(text);
        let ca = config.ca_file.as_ref().map(path);
        let (certificate, key) =
            (config.certificate_file.as_ref().map(path), config.key_file.as_ref().map(path));
        if certificate.is_some() != key.is_some() {
            checker.mistake(
                "missing_key",
                node.get("tls").unwrap_or(node),
                "a certificate is of no use without its key, nor a key without its certificate",
                "write both `certificate_file` and `key_file`",
            );
        }
        Self { ca, identity: certificate.zip(key) }
    }

    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// The file that cannot be read, and why.
    pub(crate) fn read(&self) -> Result<TlsFiles, Failure> {
        let ca = self.ca.as_deref().map(read).transpose()?;
        let identity = match &self.identity {
            Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
            None => None,
        };
        Ok(TlsFiles { ca, identity })
    }
}

impl TlsFiles {
    /// What rustls makes of them. Without a file of authorities, those of the system are read: some hundred files.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, Failure> {
        // Named, for rustls panics when it has to choose and two are compiled in.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failure(format!("TLS cannot be set up: {error}")))?;
        let builder = match &self.ca {
            Some(pem) => builder.with_root_certificates(authorities(pem)?),
            None => builder.with_native_roots().map_err(|error| {
                failure(format!(
                    "the system's certificates, by which servers are known, cannot be read: {error}; install them \
                     (Debian: `ca-certificates`), or name a file of them in `tls: {{ ca_file: … }}`"
                ))
            })?,
        };
        let Some((certificate, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| failure("the `key_file` of `tls` holds no private key in PEM"))?;
        builder
            .with_client_auth_cert(certificates(certificate, "certificate_file")?, key)
            .map_err(|error| failure(format!("certificate and key of `tls` do not fit: {error}")))
    }
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, "ca_file")? {
        roots.add(certificate).map_err(|error| {
            failure(format!(
                "the `ca_file` of `tls` holds a certificate that is none of an authority: {error}"
            ))
        })?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8], key: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| failure(format!("the `{key}` of `tls` is not PEM: {error}")))?;
    if found.is_empty() {
        return Err(failure(format!("the `{key}` of `tls` holds no certificate in PEM")));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let length = File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        if length as u64 > MAX_FILE_BYTES {
            return Err(io::Error::other("it is larger than 1 MiB"));
        }
        Ok(bytes)
    };
    read().map_err(|error| failure(format!("cannot read {}: {error}", path.display())))
}

fn failure(text: impl Into<Arc<str>>) -> Failure {
    Failure::new(ErrorClass::SinkUnavailable, text)
}

//! From PEM (RFC 7468) to certificates and keys.

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error, PemObject as _},
    },
};

use crate::TlsError;

/// The certificates in a file, one at the least. `key` is the key that names it.
pub(crate) fn certificates(pem: &[u8], key: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::new(format!("the `{key}` of `tls` is not good PEM: {}", what(&error))))?;
    if found.is_empty() {
        return Err(TlsError::new(format!("the `{key}` of `tls` holds no certificate in PEM")));
    }
    Ok(found)
}

/// The authorities in a file, one at the least.
pub(crate) fn authorities(pem: &[u8], key: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, key)? {
        roots.add(certificate).map_err(|error| {
            TlsError::new(format!(
                "the `{key}` of `tls` holds a certificate that is none of an authority: {error}"
            ))
        })?;
    }
    Ok(roots)
}

/// The private key in the `key_file`.
pub(crate) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        TlsError::new(match error {
            Error::NoItemsFound => {
                "the `key_file` of `tls` holds no private key in PEM; one under a pass phrase has \
                 to be decrypted first (`openssl pkey`)"
                    .to_owned()
            }
            error => format!("the `key_file` of `tls` is not good PEM: {}", what(&error)),
        })
    })
}

/// The library's own texts quote lines of the file, which may be those of a key.
fn what(error: &Error) -> &'static str {
    match error {
        Error::MissingSectionEnd { .. } => "a `-----BEGIN …-----` has no `-----END …-----`",
        Error::IllegalSectionStart { .. } => "a line that begins with `-----` is malformed",
        Error::Base64Decode(_) => "what stands between `-----BEGIN …-----` and `-----END …-----` is damaged",
        _ => "it cannot be read",
    }
}

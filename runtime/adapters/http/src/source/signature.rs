//! The check of a signed body: HMAC (RFC 2104) with a shared secret, in constant time.

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use gristmill_core::config::Secret;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName};

use crate::config::{Algorithm, Encoding};

/// How requests of a route are signed.
#[derive(Debug, Clone)]
pub(crate) struct Signature {
    pub(crate) header: HeaderName,
    pub(crate) prefix: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) encoding: Encoding,
    pub(crate) secret: Secret,
}

impl Signature {
    /// The signature that a request presents, decoded; `None` when there is none, more than one, or one that cannot be
    /// read. Needs no body, so that a request without a signature is refused before its body is read.
    pub(crate) fn presented(&self, headers: &HeaderMap) -> Option<Vec<u8>> {
        let mut values = headers.get_all(&self.header).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let text = value.as_bytes().strip_prefix(self.prefix.as_bytes())?;
        match self.encoding {
            Encoding::Hex => HEXLOWER_PERMISSIVE.decode(text).ok(),
            Encoding::Base64 => BASE64.decode(text).ok(),
        }
    }

    /// Whether `presented` is the signature of this body.
    pub(crate) fn is_of(&self, body: &[u8], presented: &[u8]) -> bool {
        match self.algorithm {
            Algorithm::HmacSha256 => verify::<Hmac<sha2::Sha256>>(&self.secret, body, presented),
            Algorithm::HmacSha1 => verify::<Hmac<sha1::Sha1>>(&self.secret, body, presented),
            Algorithm::HmacSha512 => verify::<Hmac<sha2::Sha512>>(&self.secret, body, presented),
        }
    }
}

fn verify<M: Mac + KeyInit>(secret: &Secret, body: &[u8], presented: &[u8]) -> bool {
    // HMAC takes a key of any length; were it to refuse one, nothing would be let in.
    let Ok(mac) = <M as KeyInit>::new_from_slice(secret.expose().as_bytes()) else { return false };
    mac.chain_update(body).verify_slice(presented).is_ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn signature(algorithm: Algorithm, encoding: Encoding, secret: &str) -> Signature {
        Signature {
            header: HeaderName::from_static("x-signature"),
            prefix: "v=".into(),
            algorithm,
            encoding,
            secret: Secret::new(secret),
        }
    }

    fn accepts(signature: &Signature, value: &str, body: &str) -> bool {
        let headers =
            HeaderMap::from_iter([(signature.header.clone(), HeaderValue::from_str(value).unwrap())]);
        signature.presented(&headers).is_some_and(|presented| signature.is_of(body.as_bytes(), &presented))
    }

    /// RFC 4231 section 4.3 and RFC 2202 section 3, test case 2: key `Jefe`.
    #[test]
    fn the_test_vectors_of_the_rfcs_are_accepted() {
        let data = "what do ya want for nothing?";
        for (algorithm, hex) in [
            (Algorithm::HmacSha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (Algorithm::HmacSha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
            (
                Algorithm::HmacSha512,
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            ),
        ] {
            let hex_signature = signature(algorithm, Encoding::Hex, "Jefe");
            assert!(accepts(&hex_signature, &format!("v={hex}"), data), "{algorithm:?}");
            assert!(accepts(&hex_signature, &format!("v={}", hex.to_uppercase()), data), "{algorithm:?}");
            assert!(!accepts(&hex_signature, &format!("v={hex}"), "what do ya want?"), "{algorithm:?}");
            assert!(!accepts(&hex_signature, hex, data), "without its prefix");
            assert!(!accepts(&hex_signature, &format!("v={}", &hex[2..]), data), "cut");
            assert!(!accepts(&hex_signature, "v=", data), "empty");
            let base64 = BASE64.encode(&HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).unwrap());
            assert!(accepts(&signature(algorithm, Encoding::Base64, "Jefe"), &format!("v={base64}"), data));
            assert!(!accepts(&signature(algorithm, Encoding::Hex, "other"), &format!("v={hex}"), data));
        }
    }

    #[test]
    fn two_signatures_are_none() {
        let signature = signature(Algorithm::HmacSha1, Encoding::Hex, "Jefe");
        let value = HeaderValue::from_static("v=effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
        let mut headers = HeaderMap::new();
        headers.append(&signature.header, value.clone());
        assert!(signature.presented(&headers).is_some());
        headers.append(&signature.header, value);
        assert!(signature.presented(&headers).is_none());
    }

    #[test]
    fn the_secret_is_not_shown() {
        let shown = format!("{:?}", signature(Algorithm::HmacSha256, Encoding::Hex, "hunter2"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

//! Sends the requests of stories.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::file::{Endpoint, Request};

/// How long an answer may take; the flow's own limit is shorter.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A request that is ready to be sent, as often as wanted.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// A client that keeps its connections.
pub(crate) fn client() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT)).build().into()
}

/// Signs a request of a story. Files are read below `root`.
pub(crate) fn prepare(root: &Path, url: &str, endpoint: &Endpoint, request: &Request) -> Result<Prepared> {
    let read = |file: &str| fs::read(root.join(file)).with_context(|| format!("cannot read {file}"));
    let body = match (&request.body, &request.body_file) {
        (Some(body), _) => body.clone().into_bytes(),
        (None, Some(file)) => read(file)?,
        (None, None) => Vec::new(),
    };
    let mut headers: Vec<_> = endpoint.headers.clone().into_iter().chain(request.headers.clone()).collect();
    if let Some(signature) = &endpoint.signature {
        let secret = match &request.secret {
            Some(secret) => secret.clone().into_bytes(),
            None => read(&signature.secret_file)?.trim_ascii_end().to_vec(),
        };
        headers.push((
            signature.header.clone(),
            format!("{}{}", signature.prefix, hmac_sha256(&secret, &body)?),
        ));
    }
    Ok(Prepared { url: url.to_owned(), headers, body })
}

/// Sends a request and takes the whole answer.
pub(crate) fn send(client: &ureq::Agent, request: &Prepared) -> Result<Answer> {
    let mut post = client.post(&request.url);
    for (name, value) in &request.headers {
        post = post.header(name, value);
    }
    take(post.send(&request.body).with_context(|| format!("no answer from {}", request.url))?)
}

/// Gets a page.
pub(crate) fn get(client: &ureq::Agent, url: &str) -> Result<Answer> {
    take(client.get(url).call().with_context(|| format!("no answer from {url}"))?)
}

fn take(mut response: ureq::http::Response<ureq::Body>) -> Result<Answer> {
    let body = response.body_mut().read_to_string().context("the answer broke off")?;
    Ok(Answer { status: response.status().as_u16(), body })
}

fn hmac_sha256(secret: &[u8], body: &[u8]) -> Result<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).context("no key")?;
    mac.update(body);
    Ok(mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test case 2 of RFC 4231.
    #[test]
    fn signs_as_the_standard_says() {
        assert_eq!(
            hmac_sha256(b"Jefe", b"what do ya want for nothing?").unwrap(),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}

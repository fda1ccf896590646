//! Reading one answer of a server, as far as a load needs it.

use anyhow::{Context, Result, ensure};

/// The most headers of an answer.
const MAX_HEADERS: usize = 32;

/// The body of an answer (RFC 9112), once all of it is there. Only what every server of the bench does is understood: a status
/// 200 and a `content-length`.
///
/// # Errors
/// When it is another answer, or more than one.
pub(super) fn whole_body(answer: &[u8]) -> Result<Option<&[u8]>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = head.parse(answer)? else { return Ok(None) };
    let shown = || String::from_utf8_lossy(answer).into_owned();
    ensure!(head.code == Some(200), "an answer that is not 200: {}", shown());
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.with_context(|| format!("an answer without content-length: {}", shown()))?;
    let length: usize = std::str::from_utf8(length.value)?.parse()?;
    let body = answer.get(head_bytes..).unwrap_or_default();
    ensure!(body.len() <= length, "more came than one answer: {}", shown());
    Ok((body.len() == length).then_some(body))
}

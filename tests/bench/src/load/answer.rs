//! Reading one answer of a server, as far as the bench needs it.

use anyhow::{Context as _, Result, ensure};

/// The most headers of an answer.
const MAX_HEADERS: usize = 32;

/// What a server said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

/// An answer (RFC 9112), once all of it is there. Only what every server of the bench does is understood: a `content-length`.
///
/// # Errors
/// When it is something else, or more than one.
pub(super) fn whole(answer: &[u8]) -> Result<Option<Answer<'_>>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = head.parse(answer)? else { return Ok(None) };
    let shown = || String::from_utf8_lossy(answer).into_owned();
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.with_context(|| format!("an answer without content-length: {}", shown()))?;
    let length: usize = std::str::from_utf8(length.value)?.parse()?;
    let body = answer.get(head_bytes..).unwrap_or_default();
    ensure!(body.len() <= length, "more came than one answer: {}", shown());
    let status = head.code.context("an answer without a status")?;
    Ok((body.len() == length).then_some(Answer { status, body }))
}

//! Content types by the extension of a file's name, both ways. A short list of what flows carry; everything else says it with
//! `content_type:`.

/// Extension, content type of the file, content type of one of its lines.
const KNOWN: [(&str, &str, &str); 13] = [
    ("json", "application/json", "application/json"),
    ("jsonl", "application/x-ndjson", "application/json"),
    ("ndjson", "application/x-ndjson", "application/json"),
    ("xml", "application/xml", "application/xml"),
    ("csv", "text/csv", "text/csv"),
    ("txt", "text/plain", "text/plain"),
    ("log", "text/plain", "text/plain"),
    ("yaml", "application/yaml", "application/yaml"),
    ("yml", "application/yaml", "application/yaml"),
    ("html", "text/html", "text/html"),
    ("pdf", "application/pdf", "application/pdf"),
    ("edi", "application/edifact", "application/edifact"),
    ("x12", "application/edi-x12", "application/edi-x12"),
];

/// The content type of a file of this name, or of one of its lines.
pub(crate) fn of_name(name: &str, line: bool) -> Option<&'static str> {
    let (_, extension) = name.rsplit_once('.')?;
    KNOWN
        .iter()
        .find(|(known, ..)| known.eq_ignore_ascii_case(extension))
        .map(|(_, file, of_line)| if line { *of_line } else { *file })
}

/// The extension for a content type; parameters (`; charset=…`) do not matter.
pub(crate) fn extension(content_type: &str) -> Option<&'static str> {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let known =
        KNOWN.iter().find(|(_, file, _)| file.eq_ignore_ascii_case(essence)).map(|(known, ..)| *known);
    // RFC 6839: a structured syntax suffix says what the bytes are.
    known
        .or_else(|| essence.ends_with("+json").then_some("json"))
        .or_else(|| essence.ends_with("+xml").then_some("xml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        assert_eq!(of_name("a.JSON", false), Some("application/json"));
        assert_eq!(of_name("a.jsonl", true), Some("application/json"));
        assert_eq!(of_name("a.jsonl", false), Some("application/x-ndjson"));
        assert_eq!((of_name("a", false), of_name("a.what", false)), (None, None));
        assert_eq!(extension("application/json; charset=utf-8"), Some("json"));
        assert_eq!(extension("application/problem+json"), Some("json"));
        assert_eq!(extension("image/png"), None);
    }
}

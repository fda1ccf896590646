//! Percent-encoding (RFC 3986 section 2.1), in both directions.

use std::fmt::Write as _;

/// Appends `text` with everything encoded but the unreserved characters, so that it can stand as one path segment or one
/// value of a query.
pub(crate) fn encode_component(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(into, "%{byte:02X}");
        }
    }
}

/// Decodes what is encoded; a percent sign that does not begin an encoded byte stays as it is. `None` when the result is
/// not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let decoded = match after {
            [high, low, ..] if *first == b'%' => hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        if decoded.is_some() {
            rest = rest.get(2..).unwrap_or_default();
        }
        bytes.push(decoded.unwrap_or(*first));
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        for text in ["", "plain-text_1.2~", "a/b?c=d&e#f%g h", "ünï/€", "%2F"] {
            let mut encoded = String::new();
            encode_component(text, &mut encoded);
            assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)), "{encoded}");
            assert_eq!(decode(&encoded).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_stray_percent_sign_is_kept_and_no_utf8_is_none() {
        assert_eq!(decode("100%").as_deref(), Some("100%"));
        assert_eq!(decode("%zz%4").as_deref(), Some("%zz%4"));
        assert_eq!(decode("%ff"), None);
    }
}

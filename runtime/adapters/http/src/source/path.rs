//! The path of a route: its text, checked and taken apart.

use std::fmt::Write as _;

/// The longest path that a route may have, in bytes.
const MAX_PATH_BYTES: usize = 2_048;

/// The longest name of a path parameter, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// A path such as `/orders/{id}/files/{*rest}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathPattern {
    segments: Vec<Segment>,
}

/// What stands between two slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    /// This text.
    Static(Box<str>),
    /// Any text of one segment that is not empty.
    Parameter(Box<str>),
    /// All that is left, slashes included, if it is not empty; only at the end.
    Rest(Box<str>),
}

/// What is wrong with a path, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InvalidPath {
    pub(crate) text: String,
    pub(crate) mend: &'static str,
}

impl PathPattern {
    /// Reads a path.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidPath> {
        let wrong = |text: String, mend| Err(InvalidPath { text, mend });
        let Some(rest) = text.strip_prefix('/') else {
            return wrong("a path begins with a slash".into(), "write it as `/orders`");
        };
        if text.len() > MAX_PATH_BYTES {
            return wrong(format!("this path has {} bytes", text.len()), "a path has at most 2048 bytes");
        }
        let count = rest.split('/').count();
        let mut segments = Vec::with_capacity(count);
        for (index, part) in rest.split('/').enumerate() {
            let segment = parse_segment(part)?;
            if matches!(segment, Segment::Rest(_)) && index + 1 < count {
                return wrong(
                    format!("`{part}` is not at the end"),
                    "only the last segment can be `{*name}`",
                );
            }
            if let Some(name) = segment.name()
                && segments.iter().any(|s: &Segment| s.name() == Some(name))
            {
                return wrong(format!("two parameters are called `{name}`"), "give each its own name");
            }
            segments.push(segment);
        }
        Ok(Self { segments })
    }

    /// The segments, in order.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The names of the parameters, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(Segment::name)
    }

    /// The path without the names of its parameters: two paths with equal shapes match the same requests.
    pub(crate) fn shape(&self) -> String {
        let mut shape = String::new();
        for segment in &self.segments {
            // Writing to a text cannot fail.
            let _ = match segment {
                Segment::Static(text) => write!(shape, "/{text}"),
                Segment::Parameter(_) => write!(shape, "/{{}}"),
                Segment::Rest(_) => write!(shape, "/{{*}}"),
            };
        }
        shape
    }
}

impl Segment {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Static(_) => None,
            Self::Parameter(name) | Self::Rest(name) => Some(name),
        }
    }
}

fn parse_segment(part: &str) -> Result<Segment, InvalidPath> {
    let Some(inside) = part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) else {
        return if part.contains(['{', '}']) {
            Err(InvalidPath {
                text: format!("`{part}` is a parameter and something else"),
                mend: "a parameter is a whole segment: `/{id}`",
            })
        } else if let Some(wrong) = part.chars().find(|c| !is_path_char(*c)) {
            Err(InvalidPath {
                text: format!("a path cannot hold {wrong:?}"),
                mend: "write it percent-encoded, as it is in the request; the query is no part of a route",
            })
        } else if part == "." || part == ".." {
            Err(InvalidPath { text: format!("`{part}` is no segment"), mend: "write the path that is meant" })
        } else {
            Ok(Segment::Static(part.into()))
        };
    };
    let (name, is_rest) = match inside.strip_prefix('*') {
        Some(name) => (name, true),
        None => (inside, false),
    };
    let is_name = name.len() <= MAX_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
    if !is_name {
        return Err(InvalidPath {
            text: format!("`{name}` is no name for a parameter"),
            mend: "a name begins with a lower-case letter and has lower-case letters, digits, `_` and `-`, at most 64",
        });
    }
    Ok(if is_rest { Segment::Rest(name.into()) } else { Segment::Parameter(name.into()) })
}

/// RFC 3986 section 3.3, `pchar`, with the percent sign for what is encoded.
fn is_path_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_match_the_same_requests_have_one_shape() {
        let shape = |text| PathPattern::parse(text).unwrap().shape();
        assert_eq!(shape("/orders/{id}/files/{*rest}"), "/orders/{}/files/{*}");
        assert_eq!(shape("/orders/{number}/files/{*all}"), shape("/orders/{id}/files/{*rest}"));
        assert_eq!(shape("/"), "/");
        assert_ne!(shape("/a"), shape("/a/"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("orders", "begins with a slash"),
            ("", "begins with a slash"),
            ("/a/x{id}", "and something else"),
            ("/{*rest}/a", "not at the end"),
            ("/{a}/{a}", "two parameters"),
            ("/{}", "no name"),
            ("/{Id}", "no name"),
            ("/a?b=c", "'?'"),
            ("/a b", "' '"),
            ("/ä", "'ä'"),
            ("/a/../b", "`..`"),
            (&format!("/{}", "x".repeat(3000)), "3001 bytes"),
        ] {
            let error = PathPattern::parse(text).unwrap_err();
            assert!(error.text.contains(part), "{text}: {error:?}");
        }
    }
}

//! Mistakes in configuration: what is wrong, where, and how to mend it.

use std::fmt;

use super::node::Span;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// A stable name for the kind of mistake, e.g. `unknown_key`; what a tool or a test matches on.
    pub code: &'static str,
    /// What is wrong, in one sentence.
    pub text: String,
    /// Where.
    pub span: Span,
    /// What to do about it.
    pub mend: Option<String>,
}

/// All mistakes found so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

// === impl Mistake ===

impl Mistake {
    /// A mistake without a mend.
    pub fn new(code: &'static str, span: &Span, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), span: span.clone(), mend: None }
    }

    /// The same with the mend.
    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.span, self.text)?;
        match &self.mend {
            Some(mend) => write!(f, " ({mend})"),
            None => Ok(()),
        }
    }
}

// === impl Mistakes ===

impl Mistakes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more.
    pub fn push(&mut self, mistake: Mistake) {
        self.0.push(mistake);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, by file and place, without repeats.
    pub fn into_sorted(mut self) -> Vec<Mistake> {
        self.0.sort_by(|a, b| {
            (&a.span.file, a.span.start, a.span.end, &a.text).cmp(&(
                &b.span.file,
                b.span.start,
                b.span.end,
                &b.text,
            ))
        });
        self.0.dedup();
        self.0
    }

    /// All, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }

    /// Takes over all of another's.
    pub fn extend(&mut self, other: Mistakes) {
        self.0.extend(other.0);
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }
}

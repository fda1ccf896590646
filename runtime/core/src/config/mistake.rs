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
pub struct Mistakes {
    found: Vec<Mistake>,
    stand_ins: Vec<StandIn>,
}

/// A value that was made up, because the one that is needed is wrong or missing, so that what is beside it can be checked.
/// What is found to be wrong with it is no mistake of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StandIn {
    /// For the value that is here.
    Wrong(Span),
    /// For a key that the map here lacks.
    Missing(Span),
}

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

// === impl StandIn ===

impl StandIn {
    /// Whether a mistake is one of the value that was made up.
    fn hides(&self, mistake: &Mistake) -> bool {
        match self {
            Self::Wrong(span) => {
                let is_same_file = span.file == mistake.span.file;
                is_same_file && span.start <= mistake.span.start && mistake.span.end <= span.end
            }
            // What is not there is looked for where it should be; that another key is missing is said there, too.
            Self::Missing(span) => *span == mistake.span && mistake.code != "missing_key",
        }
    }
}

// === impl Mistakes ===

impl Mistakes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more, unless it only follows from another: from a value that had to be made up.
    pub fn push(&mut self, mistake: Mistake) {
        if !self.stand_ins.iter().any(|stand_in| stand_in.hides(&mistake)) {
            self.found.push(mistake);
        }
    }

    /// From now on this value is one that was made up. That it is wrong or missing has been said.
    pub(super) fn stand_in(&mut self, stand_in: StandIn) {
        self.stand_ins.push(stand_in);
    }

    /// How many values were made up so far, because those that are needed are wrong or missing.
    pub fn stand_ins(&self) -> usize {
        self.stand_ins.len()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All, by file and place, without repeats.
    pub fn into_sorted(mut self) -> Vec<Mistake> {
        self.found.sort_by(|a, b| {
            (&a.span.file, a.span.start, a.span.end, &a.text).cmp(&(
                &b.span.file,
                b.span.start,
                b.span.end,
                &b.text,
            ))
        });
        self.found.dedup();
        self.found
    }

    /// All, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.found.iter()
    }

    /// Takes over all of another's.
    pub fn extend(&mut self, other: Mistakes) {
        other.found.into_iter().for_each(|mistake| self.push(mistake));
        self.stand_ins.extend(other.stand_ins);
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self { found: vec![mistake], stand_ins: Vec::new() }
    }
}

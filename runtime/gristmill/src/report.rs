//! Shows mistakes: to people with the place in the file and a caret, to tools as JSON.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use gristmill_core::config::Mistake;
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Severity};
use serde_json::json;

/// What a command could not do.
pub(crate) enum Problem {
    /// A sentence that says what happened and what to do.
    Text(String),
    /// Mistakes in a file.
    Mistakes(Vec<Mistake>),
}

impl Problem {
    /// In one line.
    pub(crate) fn summary(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Mistakes(mistakes) => {
                mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("; ")
            }
        }
    }
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<Mistake>> for Problem {
    fn from(mistakes: Vec<Mistake>) -> Self {
        Self::Mistakes(mistakes)
    }
}

/// Writes it to standard error.
pub(crate) fn problem(problem: &Problem) {
    match problem {
        Problem::Text(text) => eprintln!("gristmill: {text}"),
        Problem::Mistakes(mistakes) => {
            eprint!("{}", human(mistakes, &Sources::read_for(mistakes), use_colour()))
        }
    }
}

/// The texts of the files that mistakes are in.
#[derive(Default)]
pub(crate) struct Sources(BTreeMap<Arc<str>, Arc<str>>);

impl Sources {
    /// Reads them again: the check does not keep them.
    pub(crate) fn read_for(mistakes: &[Mistake]) -> Self {
        let mut sources = BTreeMap::new();
        for mistake in mistakes {
            let file = &mistake.span.file;
            if !sources.contains_key(file)
                && let Ok(text) = crate::files::read_plain(
                    std::path::Path::new(&**file),
                    gristmill_core::limits::MAX_FLOW_FILE_BYTES,
                )
            {
                sources.insert(Arc::clone(file), text.into());
            }
        }
        Self(sources)
    }
}

/// Whether standard error is a terminal that wants colours.
pub(crate) fn use_colour() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// For people.
pub(crate) fn human(mistakes: &[Mistake], sources: &Sources, colour: bool) -> String {
    let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(110).with_links(false);
    let mut out = String::new();
    for mistake in mistakes {
        let mut diagnostic = MietteDiagnostic::new(mistake.text.clone()).with_severity(Severity::Error);
        diagnostic = diagnostic.with_code(mistake.code);
        if let Some(mend) = &mistake.mend {
            diagnostic = diagnostic.with_help(mend.clone());
        }
        let span = &mistake.span;
        let rendered = match sources.0.get(&span.file) {
            Some(text) => {
                let (start, length) = caret(text, span.start, span.end);
                let diagnostic = diagnostic.with_label(LabeledSpan::at(start..start + length, "here"));
                let report = miette::Report::from(diagnostic)
                    .with_source_code(NamedSource::new(&*span.file, text.to_string()).with_language("yaml"));
                handler.render_report(&mut out, report.as_ref())
            }
            None => {
                let report = miette::Report::from(diagnostic);
                let written = handler.render_report(&mut out, report.as_ref());
                written.and_then(|()| writeln!(out, "   at {span}"))
            }
        };
        if rendered.is_err() {
            // Writing to a string fails only when a source does not fit its span; the sentence is still there.
            out.push_str(&mistake.to_string());
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

/// What to underline: the value's first line, at least one character, and never beyond the text.
fn caret(text: &str, start: usize, end: usize) -> (usize, usize) {
    let start = start.min(text.len());
    let end = end.clamp(start, text.len());
    let first_line =
        text.get(start..end).and_then(|value| value.lines().next()).map_or(0, |l| l.trim_end().len());
    let room = usize::from(start < text.len());
    (start, first_line.max(room))
}

/// For tools.
pub(crate) fn as_json(mistakes: &[Mistake]) -> serde_json::Value {
    mistakes
        .iter()
        .map(|m| {
            json!({
                "code": m.code,
                "text": m.text,
                "mend": m.mend,
                "file": &*m.span.file,
                "line": m.span.line,
                "column": m.span.column,
                "start": m.span.start,
                "end": m.span.end,
            })
        })
        .collect()
}

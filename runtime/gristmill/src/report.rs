//! Shows mistakes: to people with the place in the file and a caret, to tools as JSON.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, sync::Arc};

use gristmill_core::{config::Mistake, limits::MAX_FLOW_FILE_BYTES};
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, Severity};
use serde_json::json;

use crate::{excerpt::Excerpt, files};

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
                && let Ok(text) = files::read_plain(Path::new(&**file), MAX_FLOW_FILE_BYTES)
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
                let excerpt = Excerpt::around(text, span);
                let diagnostic = diagnostic.with_label(LabeledSpan::at(excerpt.caret(), "here"));
                let report = miette::Report::from(diagnostic).with_source_code(excerpt);
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

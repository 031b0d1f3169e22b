//! What is wrong with a configuration, all of it at once, each with its place.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// A file's name and text, for excerpts.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    pub text: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Problem {
    pub message: String,
    /// Shown at the place.
    pub hint: String,
    /// Bytes of a file; otherwise the message says where.
    pub place: Option<(Arc<Source>, Range<usize>)>,
}

impl Problem {
    pub fn new(message: impl Into<String>) -> Problem {
        Problem { message: message.into(), hint: String::new(), place: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = hint.into();
        self
    }

    /// `file:line:column`, counted from one.
    pub fn position(&self) -> Option<String> {
        let (source, span) = self.place.as_ref()?;
        let before = &source.text[..span.start.min(source.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        Some(format!("{}:{line}:{column}", source.name))
    }
}

/// At least one problem, once it is returned as an error.
#[derive(Clone, Debug, Default)]
pub struct Errors(Vec<Problem>);

impl Errors {
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        writeln!(f, "the configuration has {count} error{}", if count == 1 { "" } else { "s" })?;
        for problem in &self.0 {
            writeln!(f)?;
            match &problem.place {
                None if problem.hint.is_empty() => writeln!(f, "error: {}", problem.message)?,
                None => writeln!(f, "error: {} ({})", problem.message, problem.hint)?,
                Some((source, span)) => {
                    let span = span.start.min(source.text.len())..span.end.min(source.text.len());
                    let annotation = AnnotationKind::Primary.span(span).label(problem.hint.as_str());
                    let snippet = Snippet::source(&source.text).path(&source.name).annotation(annotation);
                    let report = [Level::ERROR.primary_title(problem.message.as_str()).element(snippet)];
                    writeln!(f, "{}", Renderer::plain().render(&report))?;
                }
            }
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

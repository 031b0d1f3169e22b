//! What is wrong with a configuration, all of it at once, each with its place.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// More than this many problems are counted, not shown: a file that is none at all would fill the terminal.
const SHOWN_MAX: usize = 50;

/// A file's name and text, for excerpts.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    /// As written, but for what `mask` took out.
    text: String,
}

impl Source {
    pub fn new(name: impl Into<String>, text: &str) -> Source {
        Source { name: name.into(), text: text.to_owned() }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Stars in place of these bytes: excerpts end up in logs, and a secret must not. Line ends and offsets stay.
    pub fn mask(&mut self, span: Range<usize>) {
        let span = self.clamp(span);
        let stars: String = self.text[span.clone()].bytes().map(|b| if b == b'\n' { '\n' } else { '*' }).collect();
        self.text.replace_range(span, &stars);
    }

    /// The nearest range that lies within the text and cuts no character.
    fn clamp(&self, span: Range<usize>) -> Range<usize> {
        let start = self.text.floor_char_boundary(span.start);
        start..self.text.ceil_char_boundary(span.end).max(start)
    }

    /// `file:line:column`, counted from one, the column in characters.
    pub fn position(&self, at: usize) -> String {
        let before = &self.text[..self.text.floor_char_boundary(at)];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        format!("{}:{line}:{column}", self.name)
    }
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

    /// `file:line:column`, counted from one; `None` for what stands in no file.
    pub fn position(&self) -> Option<String> {
        let (source, span) = self.place.as_ref()?;
        Some(source.position(span.start))
    }
}

/// With an excerpt of the file where there is one, and an empty line behind it.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((source, span)) = &self.place else {
            return match self.hint.as_str() {
                "" => writeln!(f, "error: {}", self.message),
                hint => writeln!(f, "error: {} ({hint})", self.message),
            };
        };
        let annotation = AnnotationKind::Primary.span(source.clamp(span.clone())).label(self.hint.as_str());
        let snippet = Snippet::source(source.text()).path(source.name.as_str()).annotation(annotation);
        let report = [Level::ERROR.primary_title(self.message.as_str()).element(snippet)];
        writeln!(f, "{}", Renderer::plain().render(&report))
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

/// In the order of the file, then what stands elsewhere.
impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        writeln!(f, "the configuration has {count} error{}", if count == 1 { "" } else { "s" })?;
        let mut problems: Vec<&Problem> = self.0.iter().collect();
        problems.sort_by_key(|problem| match &problem.place {
            Some((_, span)) => (0, span.start),
            None => (1, 0),
        });
        for problem in problems.iter().take(SHOWN_MAX) {
            writeln!(f)?;
            fmt::Display::fmt(problem, f)?;
        }
        if count > SHOWN_MAX {
            writeln!(f, "\n... and {} more", count - SHOWN_MAX)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// The nearest of the names, if it is near enough to be meant.
pub fn nearest<'n>(written: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(written, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// "did you mean `name`?", or nothing.
pub fn did_you_mean<'n>(written: &str, names: impl IntoIterator<Item = &'n str>) -> String {
    nearest(written, names).map(|name| format!("did you mean `{name}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_keep_every_offset_and_line() {
        let mut source = Source::new("f", "a = \"ü\nx\"\nb = 1\n");
        source.mask(4..10);
        assert_eq!(source.text(), "a = ***\n**\nb = 1\n");
        assert_eq!(source.position(source.text().find('b').unwrap()), "f:3:1");
    }

    #[test]
    fn a_place_outside_of_the_text_or_inside_of_a_character_is_shown_all_the_same() {
        for (text, span) in [("", 0..0), ("", 5..9), ("ü", 1..1), ("a\n", 2..2), ("a\u{1b}\t\r\n", 1..900)] {
            let place = Some((Arc::new(Source::new("f", text)), span));
            let mut errors = Errors::default();
            errors.push(Problem { place, ..Problem::new("wrong").hint("here") });
            assert!(errors.to_string().contains("wrong"));
        }
    }

    #[test]
    fn only_near_names_are_suggested() {
        assert_eq!(nearest("timout", ["timeout", "store"]), Some("timeout"));
        assert_eq!(nearest("elsewhere", ["timeout", "store"]), None);
    }

    #[test]
    fn a_flood_of_problems_is_cut() {
        let mut errors = Errors::default();
        for _ in 0..SHOWN_MAX + 3 {
            errors.push(Problem::new("wrong"));
        }
        assert!(errors.to_string().ends_with("... and 3 more\n"));
    }
}

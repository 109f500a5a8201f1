//! What a value that breaks a rule is told: the thing, the input, the reason and a way out.
//!
//! Every parser and every validating constructor of the domain returns this one error, so that the
//! command line, the HTTP API and a Rust caller all show the same sentence.

use std::fmt;

/// A value that was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// What was being read, such as `job id`.
    pub what: String,
    /// The input as given, shortened to 120 characters, control characters removed.
    pub input: String,
    /// Why it was refused.
    pub reason: String,
    /// What to write instead, if there is something to say.
    pub hint: Option<String>,
}

/// Longest piece of a refused input that an error repeats.
pub const INPUT_SHOWN_MAX: usize = 120;

impl Invalid {
    pub fn new(what: impl Into<String>, input: impl AsRef<str>, reason: impl Into<String>) -> Self {
        Invalid {
            what: what.into(),
            input: printable(input.as_ref(), INPUT_SHOWN_MAX),
            reason: reason.into(),
            hint: None,
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {}", self.what)?;
        if !self.input.is_empty() {
            write!(f, " `{}`", self.input)?;
        }
        write!(f, ": {}", self.reason)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// `text` without control characters, at most `max` characters, cut with `…`.
///
/// Anything that a guest or a caller wrote passes through here before a terminal, a log line or an
/// error repeats it: an escape sequence must not reach a terminal.
pub fn printable(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for (count, c) in text.chars().enumerate() {
        if count == max {
            out.push('…');
            break;
        }
        let bidi = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        out.push(if c.is_control() || bidi { '\u{fffd}' } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_sequence_does_not_survive() {
        assert_eq!(printable("a\u{1b}[31mb\u{202e}c", 20), "a\u{fffd}[31mb\u{fffd}c");
        assert_eq!(printable("abcdef", 3), "abc…");
    }

    #[test]
    fn the_sentence_names_thing_input_reason_and_way_out() {
        let error = Invalid::new("job id", "a/b", "`/` is not allowed").hint("use `a-b`");
        assert_eq!(error.to_string(), "invalid job id `a/b`: `/` is not allowed (use `a-b`)");
    }
}

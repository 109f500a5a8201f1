//! Secrets are taken out of every text of a run that is stored: as they are, and in the forms that
//! programs write them in.

use crate::run::Outcome;
use crate::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::Value;

/// What stands in a secret's place.
const MARK: &str = "[secret]";
/// The beginning of a secret that is taken out where a text was cut within one, in bytes at least.
const CUT_MIN: usize = 4;

/// Takes the secrets of one run out of texts.
#[derive(Default)]
pub struct Redactor {
    /// Longest first, so that a form that contains another one goes as a whole.
    forms: Vec<String>,
}

impl Redactor {
    pub fn new<'a>(secrets: impl Iterator<Item = &'a Secret>) -> Self {
        let mut forms: Vec<String> = secrets.flat_map(|secret| forms(secret.reveal())).collect();
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        forms.dedup();
        Redactor { forms }
    }

    /// Whether a text has a secret in it.
    pub fn finds(&self, text: &str) -> bool {
        self.forms.iter().any(|form| text.contains(form.as_str()))
    }

    pub fn text(&self, text: &mut String) {
        for form in &self.forms {
            if text.contains(form.as_str()) {
                *text = text.replace(form.as_str(), MARK);
            }
        }
    }

    /// The same for a text whose end was cut off, perhaps within a secret.
    pub fn cut_text(&self, text: &mut String) {
        self.text(text);
        let longest = |form: &String| {
            let most = form.len().min(text.len());
            (CUT_MIN..=most).rev().find(|length| form.is_char_boundary(*length) && text.ends_with(&form[..*length]))
        };
        if let Some(length) = self.forms.iter().filter_map(longest).max() {
            text.truncate(text.len() - length);
            text.push_str(MARK);
        }
    }

    /// The same for a text that goes on: an end that may be the beginning of a secret is held back, so
    /// that each later text begins with this one.
    pub fn growing_text(&self, text: &mut String) {
        let held = |form: &String| {
            let most = form.len().saturating_sub(1).min(text.len());
            (1..=most).rev().find(|length| form.is_char_boundary(*length) && text.ends_with(&form[..*length]))
        };
        let mut end = text.len() - self.forms.iter().filter_map(held).max().unwrap_or(0);
        // A secret that is whole may overlap with the one that may begin; it is held back with it. From
        // the last to the first, so that one pass is enough.
        let found = self.forms.iter().flat_map(|form| text.match_indices(form.as_str()));
        let mut found: Vec<(usize, usize)> = found.map(|(at, form)| (at, at + form.len())).collect();
        found.sort_unstable_by_key(|(at, _)| std::cmp::Reverse(*at));
        for (from, to) in found {
            if from < end && end < to {
                end = from;
            }
        }
        text.truncate(end);
        self.text(text);
    }

    pub fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.value(field)),
            _ => {}
        }
    }

    pub fn outcome(&self, outcome: &mut Outcome) {
        if self.forms.is_empty() {
            return;
        }
        if let Outcome::Succeeded { value } = outcome {
            self.value(value);
        }
        outcome.texts_mut().into_iter().for_each(|text| self.cut_text(text));
    }
}

/// A secret as programs write it: as it is, in base64 and hexadecimal, in a URL, in JSON.
fn forms(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let hex = |upper: bool| -> String {
        bytes.iter().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") }).collect()
    };
    let percent: String = bytes
        .iter()
        .map(|byte| {
            let plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
            if plain { char::from(*byte).to_string() } else { format!("%{byte:02X}") }
        })
        .collect();
    let json = Value::from(secret).to_string();
    let mut forms = vec![
        secret.to_owned(),
        STANDARD.encode(bytes),
        STANDARD_NO_PAD.encode(bytes),
        URL_SAFE.encode(bytes),
        URL_SAFE_NO_PAD.encode(bytes),
        hex(false),
        hex(true),
        percent.replace("%20", "+"),
        percent,
        json[1..json.len() - 1].to_owned(),
        format!("{secret:?}").trim_matches('"').to_owned(),
        // As logs and errors have it, without its control characters, and as host names do.
        crate::invalid::printable(secret, usize::MAX),
        secret.to_ascii_lowercase(),
        bytes.iter().rev().map(|byte| char::from(*byte)).collect::<String>(),
    ];
    forms.pop_if(|_| !secret.is_ascii());
    forms
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redactor(secret: &str) -> Redactor {
        Redactor::new([Secret::from(secret)].iter())
    }

    #[test]
    fn every_form_of_a_secret_goes() {
        let secret = "p@ss \"w/rd\"";
        for form in forms(secret) {
            let mut text = format!("before {form} after");
            redactor(secret).text(&mut text);
            assert_eq!(text, "before [secret] after", "{form}");
        }
    }

    #[test]
    fn a_value_is_redacted_at_every_depth() {
        let mut value = serde_json::json!({"a": ["hunter2hunter2", {"b": "x hunter2hunter2"}], "c": 1});
        redactor("hunter2hunter2").value(&mut value);
        assert_eq!(value, serde_json::json!({"a": ["[secret]", {"b": "x [secret]"}], "c": 1}));
    }

    proptest! {
        #[test]
        fn a_growing_text_only_grows_and_shows_no_secret(text in "[QUJD=]{0,40}", at in 0usize..40) {
            // In base64 one form of it is the beginning of another.
            let redactor = Redactor { forms: vec!["QUJDQQ==".into(), "QUJDQQ".into(), "DJUQ".into()] };
            let shown = |text: &str| {
                let mut text = text.to_owned();
                redactor.growing_text(&mut text);
                text
            };
            let (early, late) = (shown(&text[..at.min(text.len())]), shown(&text));
            prop_assert!(late.starts_with(&early), "{early} {late}");
            prop_assert!(!redactor.finds(&late));
        }

        #[test]
        fn a_cut_leaves_at_most_three_bytes_of_a_secret(before in "[a-z ]{0,10}", at in 0usize..16) {
            let secret = "S3CR3T-0123456789";
            let mut text = format!("{before}{}", &secret[..at]);
            redactor(secret).cut_text(&mut text);
            prop_assert!(at < CUT_MIN || !text.contains(&secret[..CUT_MIN]), "{}", text);
        }
    }
}

//! A trigger whose times a plugin decides. It is pure data here: the plugin is asked outside of any
//! turn, and what it answers is checked and recorded as the job's next run time.

use super::{Rule, Trigger, clamp};
use crate::func::FuncRef;
use crate::invalid::Invalid;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

/// Longest parameters of a plugin's trigger, in bytes.
const PARAMETERS_MAX: usize = 4096;

/// The function that decides, and what it is told each time.
///
/// It has the type `func(previous: option<s64>, now: s64, parameters: string) -> result<option<s64>, string>`,
/// with instants as milliseconds since 1970 (`wit/`, world `trigger`), and must have no imports. A
/// job has one such question open at a time; fire times that passed while nobody asked are not
/// known, so there is no backlog to catch up with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedTrigger {
    pub func: FuncRef,
    /// Free text, such as JSON.
    pub parameters: String,
}

impl Trigger {
    /// Fires when a plugin's function says.
    pub fn plugin(func: FuncRef, parameters: impl Into<String>) -> Result<Self, Invalid> {
        let asked = AskedTrigger { func, parameters: parameters.into() };
        Trigger::from(Rule::Plugin(Box::new(asked))).checked()
    }

    /// The function to ask, if this is a plugin's trigger.
    pub fn asked(&self) -> Option<&AskedTrigger> {
        match &self.rule {
            Rule::Plugin(asked) => Some(asked),
            _ => None,
        }
    }

    /// The instant from which a plugin is asked for the first time after `previous`.
    pub(crate) fn ask_from(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.start.map_or(now, |start| now.max(start))
    }

    /// What a plugin's answer means, if it is one: it lies ahead, and after the last fire time.
    pub(crate) fn accept(
        &self,
        previous: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
        answer: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, String> {
        let answer = answer.trunc_subsecs(3);
        // As intervals are.
        let too_soon = |previous: DateTime<Utc>| answer < previous + TimeDelta::seconds(1);
        if previous.is_some_and(too_soon) || answer < self.ask_from(now).trunc_subsecs(3) {
            return Err(format!(
                "its trigger answered {}, which does not lie ahead, by a second at least",
                answer.to_rfc3339()
            ));
        }
        if clamp(answer) != answer {
            return Err(format!("its trigger answered {}, which is not before 2200", answer.to_rfc3339()));
        }
        Ok(Some(answer).filter(|at| self.end.is_none_or(|end| *at <= end)))
    }
}

impl AskedTrigger {
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        if self.parameters.len() > PARAMETERS_MAX {
            return Err(Invalid::new("parameters", "", format!("they must be at most {PARAMETERS_MAX} bytes")));
        }
        Ok(())
    }

    /// The parameters as one word of the text form: a JSON string without a bare quote in it.
    pub(super) fn parameters_text(&self) -> String {
        let plain = |c: char| (c.is_ascii_graphic() || c == ' ') && !matches!(c, '"' | '\'' | '\\');
        let mut text = String::from("\"");
        for c in self.parameters.chars() {
            if plain(c) {
                text.push(c);
            } else {
                let mut units = [0; 2];
                text.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
        text.push('"');
        text
    }
}

//! Tables, times and texts for a terminal. What a guest or a caller wrote loses its control
//! characters here.

use crate::invalid::printable;
use chrono::{DateTime, Local, Utc};
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::ProgressStyle;
use serde::Serialize;
use serde_json::Value;

/// How a command shows its result.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Prints JSON if that is wanted, else calls `text`.
    pub fn show(self, value: &impl Serialize, text: impl FnOnce()) {
        if self.json {
            println!("{}", serde_json::to_string_pretty(value).unwrap_or_default());
        } else {
            text();
        }
    }
}

/// A table without lines, as wide as the terminal.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|cell| cell.to_uppercase()));
    for row in rows {
        table.add_row(row.into_iter().map(|cell| printable(&cell, 80)));
    }
    table.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `name: value` lines, names aligned.
pub fn facts(facts: &[(&str, String)]) {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        println!("{name:width$}  {}", printable(value, 2000));
    }
}

/// A text of several lines, each without control characters.
pub fn lines(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(|line| printable(&line.replace('\t', "    "), 4000))
}

/// A time in the user's zone, with how far it is from now.
pub fn time(value: &Value) -> String {
    let Some(at) = value.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok()) else {
        return String::new();
    };
    let local = at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S %:z");
    format!("{local} ({})", relative(at.to_utc(), Utc::now()))
}

/// The same, short enough for a table.
pub fn short_time(value: &Value) -> String {
    let at = value.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    at.map_or_else(String::new, |at| relative(at.to_utc(), Utc::now()))
}

pub fn relative(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (at - now).as_seconds_f64();
    let size = match seconds.abs() {
        s if s < 1.0 => return if seconds < 0.0 { "just now".into() } else { "now".into() },
        s if s < 120.0 => format!("{s:.0}s"),
        s if s < 7200.0 => format!("{:.0}m", s / 60.0),
        s if s < 172_800.0 => format!("{:.0}h", s / 3600.0),
        s => format!("{:.0}d", s / 86_400.0),
    };
    if seconds < 0.0 { format!("{size} ago") } else { format!("in {size}") }
}

/// A field of an answer as text: strings bare, null empty, the rest as JSON.
pub fn field(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// An outcome in one line: its kind, and the value or the error.
pub fn outcome(outcome: &Value) -> String {
    let kind = field(outcome, "kind");
    let trap = field(outcome, "trap");
    let detail = match kind.as_str() {
        "succeeded" if outcome["value"].is_null() => String::new(),
        "succeeded" => outcome["value"].to_string(),
        "skipped" => field(outcome, "reason"),
        _ => field(outcome, "error"),
    };
    let trap = if trap.is_empty() { trap } else { format!(" ({trap})") };
    let shown = if detail.is_empty() { format!("{kind}{trap}") } else { format!("{kind}{trap}: {detail}") };
    printable(&shown, 4000)
}

/// Bytes for people: `64 MiB`.
pub fn bytes(count: u64) -> String {
    match count {
        n if n >= 1 << 20 => format!("{:.1} MiB", n as f64 / f64::from(1 << 20)),
        n if n >= 1 << 10 => format!("{:.1} KiB", n as f64 / 1024.0),
        n => format!("{n} B"),
    }
}

/// A number with its thousands apart: `1 234 567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or("")).collect();
    groups.join(" ")
}

/// Percent-encodes what a query must not hold as it is.
pub fn query(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~,".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A bar on stderr for work that takes a while.
pub fn bar_style(what: &str) -> ProgressStyle {
    let template = format!("{what} {{bar:40}} {{percent}}% {{elapsed}}");
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_read_well() {
        assert_eq!(thousands(1_234_567), "1 234 567");
        assert_eq!(bytes(64 << 20), "64.0 MiB");
        let now = Utc::now();
        assert_eq!(relative(now + chrono::TimeDelta::seconds(90), now), "in 90s");
        assert_eq!(relative(now - chrono::TimeDelta::hours(5), now), "5h ago");
    }

    #[test]
    fn a_table_shows_no_escape_sequences() {
        let shown = table(&["name"], vec![vec!["a\u{1b}[31m".into()]]);
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }
}

//! Counts in its job's own state: what a run changes is stored together with its success.

wit_bindgen::generate!({ path: ["../../wit", "wit"], world: "sample:counter/counter", generate_all });

use sandclock::plugin::state::{self, Error};

struct Counter;

fn text(error: Error) -> String {
    match error {
        Error::Denied => "the state is not granted".to_owned(),
        Error::Refused(why) => why,
    }
}

impl Guest for Counter {
    fn count(by: i64) -> Result<i64, String> {
        let old = state::get("count").map_err(text)?;
        let old =
            old.map_or(Ok(0), |bytes| String::from_utf8_lossy(&bytes).parse::<i64>().map_err(|e| e.to_string()))?;
        let new = old.checked_add(by).ok_or("the count is larger than 64 bits")?;
        state::set("count", new.to_string().as_bytes()).map_err(text)?;
        Ok(new)
    }

    fn count_and_fail(by: i64) -> Result<i64, String> {
        let count = Self::count(by)?;
        Err(format!("it would be {count}, and is not kept"))
    }
}

export!(Counter);

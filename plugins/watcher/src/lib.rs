//! A listener: takes every event that it understands, and logs the ones that somebody should see.

wit_bindgen::generate!({ path: ["../../wit", "wit"], world: "sample:watcher/watcher", generate_all });

use sandclock::plugin::log::{Level, log};

struct Watcher;

impl Guest for Watcher {
    fn on_event(event: String) -> Result<(), String> {
        if !event.starts_with('{') {
            return Err("it is no JSON object".to_owned());
        }
        if event.contains(r#""kind":"JOB_ERROR""#) || event.contains(r#""kind":"JOB_LATE""#) {
            log(Level::Warn, &event);
        }
        Ok(())
    }
}

export!(Watcher);

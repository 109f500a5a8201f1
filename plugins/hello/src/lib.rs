//! Greets, returns, fails: the smallest useful plugin.

wit_bindgen::generate!({ path: ["../../wit", "wit"], world: "sample:hello/hello", generate_all });

use sandclock::plugin::log::{Level, log};
use sandclock::plugin::run;

struct Hello;

impl Guest for Hello {
    fn greet(name: String) -> Result<String, String> {
        if name.is_empty() {
            return Err("nobody to greet".to_owned());
        }
        println!("greeting {name}");
        log(Level::Info, &format!("greeted {name}"));
        Ok(format!("Hello, {name}!"))
    }

    fn whoami() -> String {
        let info = run::current();
        let fuel = run::fuel_left();
        format!("run {} of job {}, attempt {}, {fuel} fuel left", info.run_id, info.job_id, info.attempt)
    }

    fn fail(reason: String) -> Result<(), String> {
        Err(reason)
    }
}

export!(Hello);

//! Records, lists, options, 64-bit integers and variants, in and out.

wit_bindgen::generate!({ world: "report" });

use exports::sample::report::figures::{Detail, Guest, Period, Sample, Summary};

struct Report;

impl Guest for Report {
    fn summarise(samples: Vec<Sample>, over: Period, detail: Detail) -> Result<Summary, String> {
        let sum = samples.iter().try_fold(0i64, |sum, sample| sum.checked_add(sample.value));
        let sum = sum.ok_or("the sum is larger than 64 bits")?;
        let values = || samples.iter().map(|sample| sample.value);
        Ok(Summary {
            count: samples.len() as u64,
            sum,
            minimum: detail.contains(Detail::MINIMUM).then(|| values().min()).flatten(),
            maximum: detail.contains(Detail::MAXIMUM).then(|| values().max()).flatten(),
            names: if detail.contains(Detail::NAMES) {
                samples.iter().map(|s| s.name.clone()).collect()
            } else {
                Vec::new()
            },
            period: match over {
                Period::All => "all".to_owned(),
                Period::LastDays(days) => format!("the last {days} days"),
                Period::Between((from, to)) => format!("{from} to {to}"),
            },
        })
    }

    fn echo(number: u64) -> u64 {
        number
    }
}

export!(Report);

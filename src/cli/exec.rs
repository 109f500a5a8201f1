//! `sandclock exec`: a function once, now.

use super::client::Client;
use super::output::{Output, bytes, field, lines, outcome, thousands};
use super::{Done, Failure};
use crate::func::FuncRef;
use crate::{Invalid, strict_json};
use clap::Args;
use serde_json::{Map, Value, json};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// What to call: `module:export`.
    func: FuncRef,
    #[command(flatten)]
    call: CallArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

/// Arguments of a function.
#[derive(Debug, Args)]
pub struct CallArgs {
    /// One argument by name; the value is JSON, or else a plain string. May be repeated.
    #[arg(long = "arg", value_name = "NAME=VALUE")]
    arg: Vec<String>,
    /// Arguments by position, as a JSON array.
    #[arg(long, value_name = "JSON")]
    args: Option<String>,
    /// Arguments by name, as a JSON object.
    #[arg(long, value_name = "JSON")]
    kwargs: Option<String>,
}

impl CallArgs {
    pub fn is_given(&self) -> bool {
        !self.arg.is_empty() || self.args.is_some() || self.kwargs.is_some()
    }

    pub fn parse(&self) -> Result<(Vec<Value>, Map<String, Value>), Invalid> {
        let args =
            self.args.as_deref().map_or(Ok(Vec::new()), |text| strict_json::from_slice("--args", text.as_bytes()))?;
        let mut kwargs: Map<String, Value> = self
            .kwargs
            .as_deref()
            .map_or(Ok(Map::new()), |text| strict_json::from_slice("--kwargs", text.as_bytes()))?;
        for pair in &self.arg {
            let (name, text) = pair
                .split_once('=')
                .ok_or_else(|| Invalid::new("--arg", pair, "it has no `=`").hint("such as --arg name=Ada"))?;
            let value = strict_json::from_slice("--arg", text.as_bytes()).unwrap_or_else(|_| Value::from(text));
            if kwargs.insert(name.to_owned(), value).is_some() {
                return Err(Invalid::new("--arg", name, "it is given twice"));
            }
        }
        Ok((args, kwargs))
    }
}

/// What a run may use.
#[derive(Debug, Args)]
pub struct LimitArgs {
    /// Wasm instructions, roughly; 1000000000 is about a second [default: 10000000000]
    #[arg(long, value_name = "N")]
    fuel: Option<u64>,
    /// Linear memory, such as 64MiB [default: 64MiB]
    #[arg(long, value_name = "BYTES", value_parser = crate::size::parse_bytes)]
    memory: Option<u64>,
    /// Wall-clock time, such as 30s [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = crate::trigger::parse_duration)]
    timeout: Option<Duration>,
    /// Kept of each of stdout and stderr, such as 256KiB [default: 256KiB]
    #[arg(long, value_name = "BYTES", value_parser = crate::size::parse_bytes)]
    output: Option<u64>,
}

impl LimitArgs {
    /// The limits that are given, as the API has them.
    pub fn fields(&self) -> Map<String, Value> {
        let given = [
            ("fuel", self.fuel.map(Value::from)),
            ("memory", self.memory.map(Value::from)),
            ("timeout", self.timeout.map(|timeout| timeout.as_secs_f64().into())),
            ("output", self.output.map(Value::from)),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

pub async fn run(args: ExecArgs, client: &Client, output: Output) -> Done {
    let (positional, kwargs) = args.call.parse()?;
    let spec = json!({ "func": args.func, "args": positional, "kwargs": kwargs, "limits": args.limits.fields() });
    let done: Value = client.post("/v1/exec", &spec).await?;
    let succeeded = done["outcome"]["kind"] == "succeeded";
    output.show(&done, || {
        for line in lines(&field(&done, "stdout")) {
            println!("{line}");
        }
        for line in lines(&field(&done, "stderr")) {
            eprintln!("{line}");
        }
        for line in done["log"].as_array().into_iter().flatten() {
            eprintln!("{}: {}", field(line, "level"), field(line, "message"));
        }
        if succeeded && !done["outcome"]["value"].is_null() {
            println!("{}", crate::invalid::printable(&done["outcome"]["value"].to_string(), usize::MAX));
        }
        let fuel = thousands(done["fuel_used"].as_u64().unwrap_or(0));
        let memory = bytes(done["memory_peak"].as_u64().unwrap_or(0));
        let time = Duration::from_secs_f64(done["duration"].as_f64().unwrap_or(0.0).max(0.0));
        eprintln!("fuel {fuel}, memory {memory}, time {time:.1?}");
        for frame in done["outcome"]["backtrace"].as_array().into_iter().flatten() {
            eprintln!("  in {}", frame.as_str().unwrap_or_default());
        }
    });
    if succeeded {
        return Ok(ExitCode::SUCCESS);
    }
    if output.json {
        return Ok(ExitCode::FAILURE);
    }
    Err(Failure::failed(format!("{} {}", field(&spec, "func"), outcome(&done["outcome"]))))
}

//! `sandclock audit`

use super::Done;
use super::client::Client;
use super::output::{Output, field, short_time, table};
use clap::Args;
use serde_json::Value;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Continue after this entry.
    #[arg(long, value_name = "CURSOR")]
    after: Option<u64>,
}

pub async fn run(args: AuditArgs, client: &Client, output: Output) -> Done {
    let after = args.after.map_or(String::new(), |after| format!("&after={after}"));
    let list: Value = client.get(&format!("/v1/audit?limit={}{after}", args.limit)).await?;
    output.show(&list, || {
        let rows = list["items"].as_array().into_iter().flatten().map(|entry| {
            let what = field(entry, "operation");
            let what = if what.is_empty() { field(entry, "method") } else { what };
            let status = format!("{} {}", field(entry, "status"), field(entry, "code"));
            vec![
                short_time(&entry["time"]),
                field(entry, "caller"),
                field(entry, "peer"),
                what,
                field(entry, "path"),
                status,
            ]
        });
        println!("{}", table(&["when", "who", "from", "what", "path", "answer"], rows.collect()));
        if let Some(next) = list["next"].as_str() {
            println!("more: --after {next}");
        }
    });
    Ok(ExitCode::SUCCESS)
}

//! `sandclock events`

use super::client::Client;
use super::output::{Output, outcome};
use super::{Done, Failure};
use crate::event::{Event, EventMask};
use crate::http::{Follow, Status};
use crate::invalid::printable;
use crate::store::List;
use chrono::Local;
use clap::Args;
use futures::StreamExt;
use serde_json::Value;
use std::io::Write;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with new events until interrupted.
    #[arg(long, short)]
    follow: bool,
    /// Only events with a larger sequence number. Default: the newest, or what happens from now on.
    #[arg(long, value_name = "SEQ")]
    since: Option<u64>,
    /// Only these: names such as JOB_ERROR,JOB_MISSED, or a number of APScheduler's bits.
    #[arg(long, default_value = "ALL")]
    mask: String,
    /// Events to show without --follow.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

pub async fn run(args: EventsArgs, client: &Client, output: Output) -> Done {
    let EventMask(mask) = args.mask.parse()?;
    if args.follow && client.is_local() {
        return Err(Failure::failed(
            "no daemon runs on this home, so nothing will happen (`sandclock serve` starts one)",
        ));
    }
    if args.follow {
        let mut stream = client.stream(&format!("/v1/events?mask={mask}{}", since(args.since))).await?;
        loop {
            let data = tokio::select! {
                data = stream.next() => data,
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
            };
            let Some((_, data)) = data else {
                return Err(Failure::failed("the stream of events ended (is the daemon gone?)"));
            };
            let printed = match serde_json::from_str(&data) {
                Ok(_) if output.json => writeln!(std::io::stdout(), "{data}"),
                Ok(Follow::Event(event)) => writeln!(std::io::stdout(), "{}", line(&event)),
                Ok(Follow::Lagged { lagged }) => {
                    writeln!(std::io::stdout(), "… {lagged} events were too fast to show; read them with --since")
                }
                Err(error) => return Err(Failure::failed(format!("an event is not understood: {error}"))),
            };
            if printed.is_err() {
                // Whoever read the output has gone.
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    let list: List<Value> = match args.since {
        Some(from) => {
            let path = format!("/v1/events?mask={mask}&limit={}{}", args.limit, since(Some(from)));
            client.get(&path).await?
        }
        None => newest(client, mask, args.limit).await?,
    };
    output.show(&list, || {
        for event in &list.items {
            if let Ok(event) = serde_json::from_value::<Event>(event.clone()) {
                println!("{}", line(&event));
            }
        }
        if let Some(next) = &list.next {
            println!("more: --since {next}");
        }
    });
    Ok(ExitCode::SUCCESS)
}

/// Events that are asked for at a time.
const PAGE: usize = 500;

/// The newest events of some kinds: looked for among more and more of all kinds.
async fn newest(client: &Client, mask: u32, limit: usize) -> Result<List<Value>, Failure> {
    let status: Status = client.get("/v1/status").await?;
    let last = status.counts.last_event;
    let mut back = limit as u64;
    loop {
        let mut from = last.saturating_sub(back);
        let mut found: Vec<Value> = Vec::new();
        loop {
            let list: List<Value> =
                client.get(&format!("/v1/events?mask={mask}&limit={PAGE}{}", since(Some(from)))).await?;
            found.extend(list.items);
            match list.next.and_then(|next| next.parse().ok()) {
                Some(next) => from = next,
                None => break,
            }
        }
        if found.len() >= limit || back >= last {
            found.drain(..found.len().saturating_sub(limit));
            return Ok(List { items: found, next: None });
        }
        back = back.saturating_mul(10);
    }
}

fn since(since: Option<u64>) -> String {
    since.map_or(String::new(), |since| format!("&since={since}"))
}

/// One event in one line.
fn line(event: &Event) -> String {
    let time = event.time.with_timezone(&Local).format("%H:%M:%S%.3f");
    let job = event.job_id.as_ref().map_or(String::new(), |id| format!(" {id}"));
    let run = event.run_id.map_or(String::new(), |id| format!(" {id}"));
    let ended = event.run.as_ref().and_then(|run| run.outcome.as_ref());
    let ended = ended
        .and_then(|outcome| serde_json::to_value(outcome).ok())
        .map_or(String::new(), |value| format!(" {}", outcome(&value)));
    let detail = event.detail.as_ref().map_or(String::new(), |detail| format!(" {detail}"));
    printable(&format!("{:>5} {time} {}{job}{run}{ended}{detail}", event.seq, event.kind), 300)
}

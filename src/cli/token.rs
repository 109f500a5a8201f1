//! `sandclock token …` and `sandclock open`: who gets in over TCP.

use super::client::Client;
use super::output::{Output, field, short_time, table};
use super::{Done, Failure};
use crate::http::{CodeView, NewToken, TokenKind, TokenSpec};
use crate::job::Alias;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token, told this once.
    Create(CreateArgs),
    /// List tokens; their texts are not kept.
    List,
    /// Give a token a new text; the old one is nothing any more.
    Rotate { name: Alias },
    /// Remove a token; browsers that signed in with it are signed out.
    Remove { name: Alias },
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Who will have it.
    name: Alias,
    /// Only for looking.
    #[arg(long)]
    read_only: bool,
}

pub async fn run(command: TokenCommand, client: &Client, output: Output) -> Done {
    match command {
        TokenCommand::Create(CreateArgs { name, read_only }) => {
            let kind = if read_only { TokenKind::ReadOnly } else { TokenKind::Operator };
            tell(&client.post("/v1/tokens", &TokenSpec { name, kind }).await?, output);
        }
        TokenCommand::Rotate { name } => {
            tell(&client.post(&format!("/v1/tokens/{name}/rotate"), &Value::Null).await?, output);
        }
        TokenCommand::List => {
            let list: Value = client.get("/v1/tokens").await?;
            output.show(&list, || {
                let rows = list["items"].as_array().into_iter().flatten();
                let rows =
                    rows.map(|token| vec![field(token, "name"), field(token, "kind"), short_time(&token["created"])]);
                let rows: Vec<_> = rows.collect();
                if rows.is_empty() {
                    println!("no tokens (`sandclock token create NAME` makes one)");
                } else {
                    println!("{}", table(&["token", "kind", "made"], rows));
                }
            });
        }
        TokenCommand::Remove { name } => {
            client.delete(&format!("/v1/tokens/{name}")).await?;
            output.show(&Value::Null, || println!("removed token {name}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The text alone on stdout, so that it can be put into a file.
fn tell(token: &NewToken, output: Output) {
    output.show(token, || {
        eprintln!("token {} (it is not shown again):", token.token.name);
        println!("{}", token.text);
    });
}

/// Prints an address that signs one browser in, within two minutes.
pub async fn open(client: &Client, output: Output) -> Done {
    if client.is_local() {
        return Err(Failure::failed(
            "no daemon runs on this home (`sandclock serve --listen 127.0.0.1:7878` starts one)",
        ));
    }
    let CodeView { code, addresses } = client.post("/v1/session/code", &Value::Null).await?;
    let Some(mut address) = addresses.first().copied() else {
        return Err(Failure::failed(
            "the daemon does not listen over TCP (`serve --listen 127.0.0.1:7878` has it listen)",
        ));
    };
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let url = format!("http://{address}/#code={code}");
    output.show(&serde_json::json!({ "url": url }), || {
        eprintln!("open this within two minutes; it is good once:");
        println!("{url}");
    });
    Ok(ExitCode::SUCCESS)
}

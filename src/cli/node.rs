//! `sandclock node`: the nodes that share a store.

use super::Done;
use super::client::Client;
use super::output::{Output, table};
use crate::store::{List, Node};
use clap::Subcommand;
use serde_json::Value;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List the nodes that share the store.
    List,
    /// End the lease of a node that is known to be dead, so that its runs are taken over now.
    Remove {
        /// The number of its lease, which `node list` shows.
        #[arg(value_name = "LEASE")]
        lease: u64,
        /// Also while the lease holds: if the node lives, what it runs is interrupted.
        #[arg(long)]
        force: bool,
    },
}

pub async fn run(command: NodeCommand, client: &Client, output: Output) -> Done {
    match command {
        NodeCommand::List => {
            let nodes: List<Node> = client.get("/v1/nodes").await?;
            output.show(&nodes, || match nodes.items.is_empty() {
                true => println!("the store is in the home, so there is one node (`--store` names a database)"),
                false => println!("{}", table(&["lease", "node", "executors", "holds for", ""], rows(&nodes))),
            });
        }
        NodeCommand::Remove { lease, force } => {
            client.delete(&format!("/v1/nodes/{lease}?force={force}")).await?;
            output.show(&Value::Null, || println!("what the node with lease {lease} ran is taken over"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(nodes: &List<Node>) -> Vec<Vec<String>> {
    let row = |node: &Node| {
        let holds = node.left.map_or("run out".to_owned(), |left| format!("{left:.0}s"));
        let (lives, runs) = (node.left.is_some(), !node.executors.is_empty());
        let notes = [
            (node.own, "this one"),
            (lives && !runs, "runs nothing"),
            (lives && runs && !node.claims, "stands by"),
            (!lives, "being taken over"),
        ];
        let notes: Vec<&str> = notes.into_iter().filter(|(is, _)| *is).map(|(_, note)| note).collect();
        vec![node.lease.to_string(), node.name.clone(), node.executors.join(" "), holds, notes.join(", ")]
    };
    nodes.items.iter().map(row).collect()
}

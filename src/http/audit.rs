//! Who did what: a line for each request that changes something or was refused at the gate, appended to
//! `audit.jsonl` before it is answered. Nothing in it is a secret: bodies and queries are left out.

use super::access::{Caller, Peer};
use super::problem::Problem;
use crate::error::{Error, Result};
use crate::files::append_to;
use crate::invalid::printable;
use axum::extract::Request;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// A file of this size makes room for a new one; so many old ones are kept.
const FILE_BYTES_MAX: u64 = 16 << 20;
const FILES_MAX: u32 = 8;
/// Refusals at the gate that are written in one minute; a flood would fill the disk.
const REFUSALS_MAX: u32 = 60;

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Entry {
    /// Counts from 1, over restarts too.
    pub seq: u64,
    pub time: DateTime<Utc>,
    /// `uid 1000`, `token ci`, `nobody`.
    pub caller: String,
    /// `socket`, `process`, or the address of a TCP connection.
    pub peer: String,
    /// `add_job`; absent if it did not come so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    pub method: String,
    /// Without the query.
    pub path: String,
    pub status: u16,
    /// Of the refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

impl Entry {
    pub fn new(time: DateTime<Utc>, caller: Option<&Caller>, operation: Option<&str>, request: &Request) -> Self {
        let peer = match caller.map(|caller| caller.peer) {
            Some(Peer::Process { .. }) => "process".to_owned(),
            Some(Peer::Unix { .. }) => "socket".to_owned(),
            Some(Peer::Tcp { address, .. }) => address.to_string(),
            None => "unknown".to_owned(),
        };
        Entry {
            seq: 0,
            time,
            caller: caller.map_or("nobody".into(), |caller| caller.name.to_string()),
            peer,
            operation: operation.map(str::to_owned),
            method: printable(request.method().as_str(), 16),
            path: printable(request.uri().path(), 300),
            status: 0,
            code: None,
        }
    }

    pub fn ended(self, response: &Response) -> Self {
        let code = response.extensions().get::<Problem>().map(|problem| problem.code.clone());
        let caller = response.extensions().get::<AuditName>().map_or(self.caller, |name| name.0.clone());
        Entry { status: response.status().as_u16(), code, caller, ..self }
    }
}

/// Who a caller turned out to be.
#[derive(Clone)]
pub struct AuditName(pub String);

/// Takes the entry of a request whose end its first answer does not tell, to be written then.
#[derive(Clone)]
pub struct Later(Arc<Mutex<Option<oneshot::Sender<Entry>>>>);

impl Later {
    pub fn new() -> (Self, oneshot::Receiver<Entry>) {
        let (hand, entry) = oneshot::channel();
        (Later(Arc::new(Mutex::new(Some(hand)))), entry)
    }

    pub fn hand(self, entry: Entry) {
        if let Some(hand) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = hand.send(entry);
        }
    }
}

/// The log of one home.
pub struct Audit {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    file: File,
    bytes: u64,
    seq: u64,
    /// The minute of the refusals that are counted.
    minute: i64,
    refusals: u32,
}

fn older(path: &Path, at: u32) -> PathBuf {
    path.with_extension(format!("{at}.jsonl"))
}

impl Audit {
    pub fn open(home: &Path) -> Result<Self> {
        let path = home.join("audit.jsonl");
        let failed = |e| Error::host(format!("cannot write `{}`", path.display()), e);
        let seq = last_seq(&path).or_else(|| last_seq(&older(&path, 1))).unwrap_or(0);
        let file = append_to(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(Audit { path, inner: Mutex::new(Inner { file, bytes, seq, minute: 0, refusals: 0 }) })
    }

    /// Writes one line. A log that cannot be written is an operator's matter, not the caller's.
    pub fn write(&self, entry: Entry) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = inner.write(&self.path, entry) {
            tracing::error!(%error, path = %self.path.display(), "the audit log cannot be written");
        }
    }

    /// Writes of refusals as many as a minute may have, and then how many more there were.
    pub fn refused(&self, entry: Entry) {
        let minute = entry.time.timestamp() / 60;
        let more = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let more = inner.refusals.saturating_sub(REFUSALS_MAX);
            if inner.minute == minute {
                inner.refusals += 1;
                if inner.refusals > REFUSALS_MAX {
                    return;
                }
                0
            } else {
                (inner.minute, inner.refusals) = (minute, 1);
                more
            }
        };
        if more > 0 {
            let code = Some(format!("{more}_more_refusals"));
            self.write(Entry { code, operation: None, caller: "nobody".into(), path: String::new(), ..entry.clone() });
        }
        self.write(entry);
    }

    /// Writes on in a new file of the name: what rotates logs has moved the old one away.
    pub fn reopen(&self) -> std::io::Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.file = append_to(&self.path)?;
        inner.bytes = inner.file.metadata()?.len();
        Ok(())
    }

    /// The newest entries before a number, newest first. Blocks.
    pub fn list(&self, before: Option<u64>, limit: usize) -> std::io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        let files = std::iter::once(self.path.clone()).chain((1..=FILES_MAX).map(|at| older(&self.path, at)));
        for path in files {
            let Ok(file) = File::open(path) else { continue };
            let lines = BufReader::new(file).lines().map_while(std::result::Result::ok);
            let entries = lines.filter_map(|line| serde_json::from_str::<Entry>(&line).ok());
            let mut of_file: Vec<Entry> = entries.filter(|e| before.is_none_or(|before| e.seq < before)).collect();
            of_file.reverse();
            found.extend(of_file);
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}

impl Inner {
    fn write(&mut self, path: &Path, entry: Entry) -> std::io::Result<()> {
        if self.bytes >= FILE_BYTES_MAX {
            for at in (1..FILES_MAX).rev() {
                let _ = std::fs::rename(older(path, at), older(path, at + 1));
            }
            std::fs::rename(path, older(path, 1))?;
            self.file = append_to(path)?;
            self.bytes = 0;
        }
        self.seq += 1;
        let mut line = serde_json::to_vec(&Entry { seq: self.seq, ..entry })?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

/// The number of the last whole line.
fn last_seq(path: &Path) -> Option<u64> {
    let lines = BufReader::new(File::open(path).ok()?).lines().map_while(std::result::Result::ok);
    lines.filter_map(|line| serde_json::from_str::<Entry>(&line).ok()).last().map(|entry| entry.seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        Entry::new(DateTime::UNIX_EPOCH, Some(&Caller::of(Peer::Unix { uid: 7 })), Some("add_job"), &request)
    }

    #[test]
    fn entries_are_numbered_over_restarts_and_hold_no_query() {
        let home = tempfile::tempdir().unwrap();
        let audit = Audit::open(home.path()).unwrap();
        audit.write(entry("/v1/jobs?secret=1"));
        drop(audit);
        let audit = Audit::open(home.path()).unwrap();
        audit.write(entry("/v1/%0a%1b[31m"));
        let list = audit.list(None, 10).unwrap();
        assert_eq!(list.iter().map(|e| (e.seq, e.path.as_str())).collect::<Vec<_>>()[1], (1, "/v1/jobs"));
        assert_eq!((list[0].seq, list[0].caller.as_str(), list[0].peer.as_str()), (2, "uid 7", "socket"));
        assert_eq!(audit.list(Some(2), 10).unwrap().len(), 1);
    }

    #[test]
    fn a_full_file_makes_room_and_the_oldest_goes() {
        let home = tempfile::tempdir().unwrap();
        let audit = Audit::open(home.path()).unwrap();
        for at in 0..=FILES_MAX + 1 {
            audit.inner.lock().unwrap().bytes = FILE_BYTES_MAX;
            audit.write(entry(&format!("/v1/{at}")));
        }
        assert_eq!(audit.list(None, 100).unwrap().len(), FILES_MAX as usize + 1);
        let files = std::fs::read_dir(home.path()).unwrap().count();
        assert_eq!(files, FILES_MAX as usize + 1);
    }

    #[test]
    fn a_flood_of_refusals_is_cut() {
        let home = tempfile::tempdir().unwrap();
        let audit = Audit::open(home.path()).unwrap();
        for _ in 0..1000 {
            audit.refused(entry("/x"));
        }
        assert_eq!(audit.list(None, 5000).unwrap().len(), REFUSALS_MAX as usize);
        let later = DateTime::UNIX_EPOCH + chrono::TimeDelta::minutes(1);
        audit.refused(Entry { time: later, ..entry("/x") });
        let list = audit.list(None, 5000).unwrap();
        assert_eq!((list.len(), list[1].code.as_deref()), (REFUSALS_MAX as usize + 2, Some("940_more_refusals")));
    }
}

//! What the daemon and a worker say to each other over their socket: frames of MessagePack, each
//! behind its length. The worker is not trusted: what it says is bounded and checked.

use crate::func::FuncRef;
use crate::grant::{Grants, Pick, Use};
use crate::job::Limits;
use crate::run::{ERROR_BYTES_MAX, Outcome, RunLogs, USES_MAX, Usage, cut};
use crate::sandbox::{Ended, Setting};
use crate::values::{ValueChanges, Values};
use bytes::BytesMut;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io;
use std::sync::Arc;

/// Bytes of a frame from a worker: more than any result that a guest can return.
pub const FRAME_BYTES_MAX: usize = 48 << 20;
const HEAD: usize = 4;
/// Bytes of room for what comes.
const ROOM: usize = 64 << 10;
/// Bytes of a frame whose room is kept for the next ones.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// Lines of a backtrace.
const FRAMES_MAX: usize = 64;
/// Nesting of a value: no type that a plugin may have is deeper.
const VALUE_DEPTH_MAX: usize = 100;
/// Log lines, with those that say what was denied.
const LOG_LINES_MAX: usize = 1000 + USES_MAX;

/// The first frame to a worker; `code` bytes of compiled code follow it.
#[derive(Serialize, Deserialize)]
pub struct Hello {
    pub digest: Arc<str>,
    pub grants: Arc<Grants>,
    /// Bytes.
    pub code: u64,
    /// Runs at one time.
    pub runs: usize,
    /// Memory that the process may have, in bytes.
    pub memory: u64,
    /// A layer of its jail that is missing is a reason not to begin.
    pub strict: bool,
    /// Its standard error is the file of the daemon's lease.
    pub leased: bool,
}

#[derive(Serialize, Deserialize)]
pub enum ToWorker {
    Call(Box<CallFrame>),
    Cancel(u64),
    /// What has the call written so far?
    Show(u64),
}

/// One call. Its grants are those of the plugin, or the part that is picked.
#[derive(Serialize, Deserialize)]
pub struct CallFrame {
    pub id: u64,
    pub func: FuncRef,
    pub args: Vec<Value>,
    pub kwargs: Map<String, Value>,
    pub picks: Option<Vec<Pick>>,
    pub setting: Setting,
}

#[derive(Serialize, Deserialize)]
pub enum FromWorker {
    /// It has loaded the code and locked itself; or why it has not.
    Ready(Result<(), String>),
    Ended(u64, Box<EndedFrame>),
    /// What a call that goes on has written so far.
    Written(u64, Box<RunLogs>),
}

#[derive(Serialize, Deserialize)]
pub struct EndedFrame {
    outcome: Outcome,
    usage: Usage,
    logs: RunLogs,
    uses: Vec<Use>,
    values: ValueChanges,
}

impl From<Ended> for EndedFrame {
    fn from(ended: Ended) -> Self {
        let Ended { outcome, usage, logs, uses, values } = ended;
        EndedFrame { outcome, usage, logs, uses, values }
    }
}

impl EndedFrame {
    /// How a call ended, with what the worker could not have had cut off.
    pub fn checked(self, limits: &Limits, base: &Arc<Values>) -> Ended {
        let EndedFrame { mut outcome, usage, mut logs, mut uses, mut values } = self;
        let own = !matches!(outcome, Outcome::Missed | Outcome::Skipped { .. } | Outcome::Interrupted);
        let deep = matches!(&outcome, Outcome::Succeeded { value } if crate::job::depth(value) > VALUE_DEPTH_MAX);
        if !own || deep {
            outcome = Outcome::Internal { error: "its worker reports an end that no call has".to_owned() };
        }
        if let Outcome::Trapped { backtrace, .. } = &mut outcome {
            backtrace.truncate(FRAMES_MAX);
        }
        outcome.texts_mut().into_iter().for_each(|text| cut(text, ERROR_BYTES_MAX));
        logs = checked_logs(logs, limits);
        uses.truncate(USES_MAX);
        if !matches!(outcome, Outcome::Succeeded { .. }) {
            values = ValueChanges::default();
        } else if let Err(error) = values.validate(base) {
            outcome = Outcome::Internal { error: format!("its worker reports a state that cannot be: {error}") };
            values = ValueChanges::default();
        }
        Ended { outcome, usage, logs, uses, values }
    }
}

/// What a call wrote, cut to what it may have written.
pub fn checked_logs(mut logs: RunLogs, limits: &Limits) -> RunLogs {
    logs.log.truncate(LOG_LINES_MAX);
    // What is no UTF-8 takes three bytes for each, and a mark says what was cut.
    let most = usize::try_from(limits.output).unwrap_or(usize::MAX).saturating_mul(3).saturating_add(256);
    for text in [&mut logs.stdout, &mut logs.stderr] {
        cut(text, most);
    }
    let mut left = most.saturating_add(USES_MAX * ERROR_BYTES_MAX);
    logs.log.retain(|line| {
        let fits = line.message.len() <= left;
        left = left.saturating_sub(line.message.len());
        fits
    });
    logs
}

pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEAD];
    rmp_serde::encode::write_named(&mut frame, message).map_err(io::Error::other)?;
    let length = u32::try_from(frame.len() - HEAD).map_err(io::Error::other)?;
    frame[..HEAD].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

pub fn decode<T: DeserializeOwned>(frame: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(frame).map_err(io::Error::other)
}

/// Room for what comes.
pub fn room() -> BytesMut {
    BytesMut::with_capacity(ROOM)
}

/// Takes the first whole frame from what has come, if there is one. Errors: it is too long.
pub fn next_frame(come: &mut BytesMut) -> io::Result<Option<BytesMut>> {
    let Some(head) = come.first_chunk::<HEAD>() else { return Ok(None) };
    let length = u32::from_le_bytes(*head) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other("a frame is too long"));
    }
    if come.len() < HEAD + length {
        come.reserve(HEAD + length - come.len());
        return Ok(None);
    }
    let mut frame = come.split_to(HEAD + length);
    if length > KEPT_BYTES_MAX {
        // What is left shares the frame's memory, and would keep it for as long as the other side lives.
        let rest = std::mem::replace(come, room());
        come.extend_from_slice(&rest);
    }
    Ok(Some(frame.split_off(HEAD)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::RunId;
    use crate::sandbox::Given;
    use crate::secret::Secret;
    use chrono::DateTime;
    use proptest::prelude::*;

    #[test]
    fn a_message_comes_back_from_its_frame_however_it_is_divided() {
        let values = Arc::new(Values::from([("k".to_owned(), vec![0, 255])]));
        let call = CallFrame {
            id: 7,
            func: "m:f".parse().unwrap(),
            args: vec![serde_json::json!({"a": [1, null, "x", 1.5, u64::MAX]})],
            kwargs: Map::new(),
            picks: Some(vec!["http:a.org".parse().unwrap()]),
            setting: Setting {
                job_id: "j".into(),
                run_id: RunId(ulid::Ulid::from_parts(1, 2)),
                scheduled_time: DateTime::from_timestamp_micros(1_234_567).unwrap(),
                attempt: 3,
                epoch: None,
                term: Some(-3),
                started: DateTime::from_timestamp_micros(7_654_321).unwrap(),
                limits: Limits { timeout: std::time::Duration::from_millis(1500), ..Limits::default() },
                deterministic: true,
                live: Default::default(),
                given: Given {
                    secrets: [("s".parse().unwrap(), Secret::from("hunter2hunter2"))].into(),
                    values: values.clone(),
                    ..Given::default()
                },
            },
        };
        let frame = encode(&ToWorker::Call(Box::new(call))).unwrap();
        let mut come = BytesMut::new();
        for byte in &frame[..frame.len() - 1] {
            come.extend_from_slice(&[*byte]);
            assert!(next_frame(&mut come).unwrap().is_none());
        }
        come.extend_from_slice(&frame[frame.len() - 1..]);
        let ToWorker::Call(back) = decode(&next_frame(&mut come).unwrap().unwrap()).unwrap() else { panic!() };
        assert_eq!(
            (back.id, back.args[0]["a"][4].as_u64(), back.setting.limits.timeout.as_millis()),
            (7, Some(u64::MAX), 1500)
        );
        assert_eq!(
            (back.setting.given.values, back.setting.given.secrets.len(), back.picks.unwrap().len()),
            (values, 1, 1)
        );
        let outcome = Outcome::Denied { capability: "http:a.org:443".into(), error: "x".into() };
        let ended = Ended { outcome: outcome.clone(), ..Ended::without_a_call(Outcome::Cancelled) };
        let frame = encode(&FromWorker::Ended(1, Box::new(ended.into()))).unwrap();
        let FromWorker::Ended(1, back) = decode(&frame[HEAD..]).unwrap() else { panic!() };
        assert_eq!(back.checked(&Limits::default(), &Arc::default()).outcome, outcome);
    }

    #[test]
    fn the_room_of_a_large_frame_is_not_kept() {
        let large = encode(&FromWorker::Ended(
            1,
            Box::new(Ended::without_a_call(Outcome::Failed { error: "x".repeat(8 << 20) }).into()),
        ))
        .unwrap();
        let mut come = room();
        come.extend_from_slice(&large);
        come.extend_from_slice(&large[..100]);
        let frame = next_frame(&mut come).unwrap().unwrap();
        assert_eq!((frame.len(), &come[..]), (large.len() - HEAD, &large[..100]));
        drop(frame);
        assert!(!come.try_reclaim(KEPT_BYTES_MAX), "what is left keeps all of it");
    }

    #[test]
    fn a_worker_that_lies_is_cut_short() {
        let outcome = Outcome::Trapped {
            trap: "x".into(),
            error: "e".repeat(1 << 20),
            backtrace: vec!["f".repeat(1 << 16); 1000],
        };
        let values = ValueChanges([("k".repeat(300), Some(vec![]))].into());
        let logs = RunLogs { stdout: "o".repeat(1 << 20), ..RunLogs::default() };
        let lie = |outcome| {
            let ended = Ended { logs: logs.clone(), values: values.clone(), ..Ended::without_a_call(outcome) };
            let limits = Limits { output: 1000, ..Limits::default() };
            EndedFrame::from(ended).checked(&limits, &Arc::default())
        };
        let ended = lie(outcome);
        assert!(serde_json::to_string(&ended.outcome).unwrap().len() < 66 * 4200 && ended.logs.stdout.len() < 4000);
        assert!(ended.values.is_empty());
        let ended = lie(Outcome::Succeeded { value: Value::Null });
        assert!(matches!(ended.outcome, Outcome::Internal { .. }) && ended.values.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_from_a_worker_end_without_panic(bytes: Vec<u8>) {
            let mut come = BytesMut::from(&bytes[..]);
            if let Ok(Some(frame)) = next_frame(&mut come) {
                let _ = decode::<FromWorker>(&frame);
            }
            let _ = decode::<FromWorker>(&bytes);
        }
    }
}

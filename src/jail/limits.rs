//! Resource limits of a locked process.

use super::{Layer, Rules, Status};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::Duration;

/// Sets them all, soft and hard, so that the process can't take them back.
pub(super) fn apply(rules: &Rules) -> Vec<Layer> {
    let mut layers = vec![
        Layer::new(super::MEMORY_LIMIT, "taking more memory than granted", memory(rules.data_bytes)),
        Layer::new("open files limit", "opening more files than granted", limit(Resource::Nofile, rules.open_files, 0)),
        Layer::new("file size limit", "writing larger files than granted", file_size(rules.file_bytes)),
    ];
    if let Some(cpu) = rules.cpu {
        let limit = limit(Resource::Cpu, seconds(cpu), 1);
        layers.push(Layer::new("processor limit", "using more processor time than granted", limit));
    }
    layers
}

/// A limit below what is in use would end the process at its next allocation, in here, without a word:
/// so that is said instead, and nothing set.
fn memory(bytes: u64) -> Status {
    match data_bytes_in_use() {
        Some(used) if used > bytes => {
            Status::Off(format!("not set: {used} bytes are in use already, more than the limit of {bytes}"))
        }
        _ => limit(Resource::Data, bytes, 0),
    }
}

/// What `RLIMIT_DATA` counts, now.
fn data_bytes_in_use() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[expect(unsafe_code, reason = "to ignore a signal there is only the C function")]
fn file_size(bytes: u64) -> Status {
    // SAFETY: no handler is installed, so nothing of ours runs in signal context.
    let ignored = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let lack = (ignored == libc::SIG_ERR).then_some("writing past it ends the process: SIGXFSZ cannot be ignored");
    limit(Resource::Fsize, bytes, 0).but(lack)
}

/// Never 0, which the kernel would take as 1 anyway.
fn seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

/// Sets the soft limit to `most` and the hard one `above` that, and reads them back. A limit that is
/// lower already stays.
fn limit(resource: Resource, most: u64, above: u64) -> Status {
    let old = getrlimit(resource);
    let hard = old.maximum.map_or(most + above, |hard| hard.min(most + above));
    let new = Rlimit { current: Some(most.min(hard)), maximum: Some(hard) };
    if let Err(errno) = setrlimit(resource, new) {
        return Status::Off(errno.to_string());
    }
    match getrlimit(resource).current {
        Some(current) if current <= most => Status::Enforced,
        other => Status::Off(format!("the kernel took the limit {most} and answers {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_rounded_up_to_whole_seconds() {
        for (millis, expect) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (60_000, 60)] {
            assert_eq!(seconds(Duration::from_millis(millis)), expect, "{millis} ms");
        }
    }

    #[test]
    fn the_kernel_tells_the_data_in_use() {
        assert!(data_bytes_in_use().is_some_and(|bytes| bytes > 0));
    }
}

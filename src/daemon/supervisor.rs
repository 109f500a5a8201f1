//! What the daemon tells systemd, by the protocol of `sd_notify(3)`. Without it, nobody hears.

use crate::store::Counts;
use sd_notify::NotifyState;
use std::time::Duration;

pub struct Supervisor {
    /// How often a sign of life is owed.
    watchdog: Option<Duration>,
}

impl Supervisor {
    pub fn from_environment() -> Self {
        Supervisor { watchdog: sd_notify::watchdog_enabled() }
    }

    /// When the next sign of life is due: twice within the time after which the supervisor despairs.
    pub async fn next_sign(&self) {
        match self.watchdog {
            Some(within) => tokio::time::sleep(within / 2).await,
            None => std::future::pending().await,
        }
    }

    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    pub fn reloading(&self) {
        let now = NotifyState::monotonic_usec_now().ok();
        tell(&std::iter::once(NotifyState::Reloading).chain(now).collect::<Vec<_>>());
    }

    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// `counts` are of the store, if it gives them in time.
    pub fn alive(&self, counts: Option<&Counts>) {
        let status = match counts {
            Some(counts) => {
                format!("{} jobs, {} running, {} quarantined", counts.jobs, counts.running, counts.quarantined)
            }
            None => "the database does not answer in time".to_owned(),
        };
        tell(&[NotifyState::Watchdog, NotifyState::Status(&status)]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the supervisor cannot be told how the daemon is");
    }
}

//! Sandclock's own interfaces for guests, as `wit/plugin.wit` describes them: who a run is, its log,
//! its job's state, and secrets.

use super::host::State;
use crate::grant::{Pick, SecretName};
use crate::run::LogLevel;
use chrono::{DateTime, Utc};
use wasmtime::component::{ComponentType, Lift, Linker, Lower};
use wasmtime::{Result, StoreContextMut, Trap};

/// Fuel that a call costs, beside one for each byte that it carries.
const CALL_FUEL: u64 = 1000;

/// The record `info` of `sandclock:plugin/run`.
#[derive(ComponentType, Lift, Lower, Clone, Debug)]
#[component(record)]
pub struct Info {
    #[component(name = "job-id")]
    pub job_id: String,
    #[component(name = "run-id")]
    pub run_id: String,
    #[component(name = "scheduled-time")]
    pub scheduled_time: Instant,
    pub attempt: u32,
    pub deadline: Instant,
}

/// The record `instant`: time since 1970-01-01 00:00:00 UTC.
#[derive(ComponentType, Lift, Lower, Clone, Copy, Debug)]
#[component(record)]
pub struct Instant {
    seconds: i64,
    nanoseconds: u32,
}

impl From<DateTime<Utc>> for Instant {
    fn from(at: DateTime<Utc>) -> Self {
        Instant { seconds: at.timestamp(), nanoseconds: at.timestamp_subsec_nanos() }
    }
}

/// The enum `level` of `sandclock:plugin/log`.
#[derive(ComponentType, Lift, Lower, Clone, Copy, Debug)]
#[expect(dead_code, reason = "the guest makes them")]
#[component(enum)]
#[repr(u8)]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => LogLevel::Trace,
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        }
    }
}

/// The variant `error` of `sandclock:plugin/state` and `secrets`.
#[derive(ComponentType, Lift, Lower, Clone, Debug)]
#[component(variant)]
enum Refusal {
    #[component(name = "denied")]
    Denied,
    #[component(name = "refused")]
    Refused(String),
}

/// The host's work is paid for like the guest's, and gives way like it: otherwise a guest that does
/// nothing but call the host would outrun its limits.
fn pay(store: &mut StoreContextMut<'_, State>, bytes: usize) -> Result<()> {
    let cost = CALL_FUEL + bytes as u64;
    let left = store.get_fuel()?.checked_sub(cost).ok_or(Trap::OutOfFuel)?;
    store.set_fuel(left)
}

/// What every plugin may import.
pub fn link(linker: &mut Linker<State>) -> Result<()> {
    let mut run = linker.instance("sandclock:plugin/run@1.0.0")?;
    run.func_wrap("current", |store: StoreContextMut<'_, State>, (): ()| Ok((store.data().info.clone(),)))?;
    run.func_wrap("fuel-left", |store: StoreContextMut<'_, State>, (): ()| Ok((store.get_fuel()?,)))?;
    let mut log = linker.instance("sandclock:plugin/log@1.0.0")?;
    log.func_wrap_async("log", |mut store: StoreContextMut<'_, State>, (level, message): (Level, String)| {
        Box::new(async move {
            pay(&mut store, message.len())?;
            store.data().written.log(level.into(), &message);
            tokio::task::yield_now().await;
            Ok(())
        })
    })
}

/// `sandclock:plugin/state`.
pub fn link_state(linker: &mut Linker<State>) -> Result<()> {
    let mut state = linker.instance("sandclock:plugin/state@1.0.0")?;
    state.func_wrap_async("get", |mut store: StoreContextMut<'_, State>, (key,): (String,)| {
        Box::new(async move {
            pay(&mut store, key.len())?;
            tokio::task::yield_now().await;
            let found = store.data_mut().state(|draft| Ok(draft.get(&key).cloned()));
            pay(&mut store, found.as_ref().map_or(0, |value| value.as_ref().map_or(0, Vec::len)))?;
            Ok((found,))
        })
    })?;
    state.func_wrap_async("set", |mut store: StoreContextMut<'_, State>, (key, value): (String, Vec<u8>)| {
        Box::new(async move {
            pay(&mut store, key.len() + value.len())?;
            tokio::task::yield_now().await;
            Ok((store.data_mut().state(|draft| draft.set(&key, value)),))
        })
    })?;
    state.func_wrap_async("delete", |mut store: StoreContextMut<'_, State>, (key,): (String,)| {
        Box::new(async move {
            pay(&mut store, key.len())?;
            tokio::task::yield_now().await;
            Ok((store.data_mut().state(|draft| draft.delete(&key)),))
        })
    })?;
    state.func_wrap_async("keys", |mut store: StoreContextMut<'_, State>, (prefix,): (String,)| {
        Box::new(async move {
            pay(&mut store, prefix.len())?;
            tokio::task::yield_now().await;
            let keys = store.data_mut().state(|draft| Ok(draft.keys(&prefix)));
            pay(&mut store, keys.as_ref().map_or(0, |keys| keys.iter().map(String::len).sum()))?;
            Ok((keys,))
        })
    })
}

/// `sandclock:plugin/secrets`.
pub fn link_secrets(linker: &mut Linker<State>) -> Result<()> {
    let mut secrets = linker.instance("sandclock:plugin/secrets@1.0.0")?;
    secrets.func_wrap_async("get", |mut store: StoreContextMut<'_, State>, (name,): (String,)| {
        Box::new(async move {
            pay(&mut store, name.len())?;
            // Setting the fuel anew puts off the engine's own pause.
            tokio::task::yield_now().await;
            Ok((store.data_mut().secret(&name),))
        })
    })
}

impl State {
    /// Works on the job's state, if it is granted.
    fn state<T>(
        &mut self,
        work: impl FnOnce(&mut crate::values::Draft) -> Result<T, crate::Invalid>,
    ) -> Result<T, Refusal> {
        let granted = self.given.grants.state;
        self.uses.record(Pick::State, !granted);
        if !granted {
            return Err(Refusal::Denied);
        }
        work(&mut self.draft).map_err(|error| Refusal::Refused(error.to_string()))
    }

    /// A secret that the guest may read.
    fn secret(&self, name: &str) -> Result<String, Refusal> {
        let name: SecretName = name.parse().map_err(|error: crate::Invalid| Refusal::Refused(error.to_string()))?;
        let granted = self.given.grants.secrets.iter().any(|secret| secret.name == name && secret.host.is_none());
        self.uses.record(Pick::Secret(name.clone()), !granted);
        if !granted {
            return Err(Refusal::Denied);
        }
        match self.given.secrets.get(&name) {
            Some(secret) => Ok(secret.reveal().to_owned()),
            None => Err(Refusal::Refused(format!("the secret `{name}` is not stored (`sandclock secret set {name}`)"))),
        }
    }
}

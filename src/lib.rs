//! Sandclock runs untrusted WebAssembly tasks on a schedule, safely. A *job* binds a function of a
//! plugin to a *trigger*; each time the trigger fires, a *run* is claimed durably, called in a fresh
//! sandbox with limits, and its *outcome* recorded and published as an *event*.
//!
//! ```
//! use sandclock::{AddOptions, Alias, Job, MemoryStore, NativeExecutor, Scheduler, SystemClock, Trigger};
//! use std::sync::Arc;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> sandclock::Result<()> {
//! let native = NativeExecutor::new(4, Arc::new(SystemClock))
//!     .with("native:greet".parse()?, |_claimed| async { Ok("hello".into()) });
//! let store = MemoryStore::new(Alias::default(), "me");
//! let scheduler =
//!     Scheduler::builder().executor(Alias::default(), native).jobstore(Alias::default(), store).build().await?;
//! scheduler.start().await?;
//! let job = Job::new("greeting".parse()?, "native:greet".parse()?, Trigger::crontab("0 9 * * *", Default::default(), Default::default())?);
//! scheduler.add_job(job, AddOptions::default()).await?;
//! let run = scheduler.run_job(&"greeting".parse()?).await?;
//! println!("{:?}", scheduler.wait_run(run).await?.outcome);
//! # Ok(())
//! # }
//! ```
//!
//! The parts: [`Job`], [`FuncRef`], [`Trigger`] (its guide is `src/trigger/GUIDE.md`), [`Run`], [`Outcome`] and [`Event`] are data;
//! [`plan()`](plan()) decides; [`JobStore`] remembers ([`MemoryStore`], [`SledStore`]); [`Executor`] runs
//! ([`AsyncExecutor`] in a [`sandbox`], [`NativeExecutor`] in Rust); [`Scheduler`] drives them.
//!
//! It is no workflow engine: a run is one call of one function.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod bundle;
mod clock;
mod event;
pub mod failure;
mod func;
pub mod grant;
mod invalid;
mod job;
mod lease;
mod listener;
mod plan;
mod plugin;
mod run;
mod secret;
mod size;
mod strict_json;
mod trigger;
mod values;

pub mod delivery;
mod error;
pub mod executor;
mod files;
pub mod jail;
pub mod outbound;
pub mod sandbox;
pub mod scheduler;
pub mod simulate;
pub mod store;
mod tls;
pub mod zoneinfo;

/// The guide to triggers, so that its examples are tested.
#[cfg(doctest)]
#[doc = include_str!("trigger/GUIDE.md")]
pub struct TriggerGuide;

mod backup;
mod child;
#[doc(hidden)]
pub mod cli;
pub mod config;
pub mod daemon;
pub mod http;
pub mod observe;
pub mod settings;

pub use child::{THIS_PROGRAM, child_main};
pub use clock::{Clock, SimClock, SystemClock};
pub use error::{Error, Result, Source};
pub use event::{Event, EventKind, EventMask};
pub use executor::{
    AsyncExecutor, AsyncOptions, Executor, NativeExecutor, NativeResult, PluginHost, PoolOptions, ProcessExecutor,
    ThreadPoolExecutor,
};
pub use func::{FuncRef, PluginName, Version};
pub use grant::{Capability, Grants};
pub use invalid::{Invalid, printable};
pub use job::{
    Alias, Arguments, Backfill, Carried, Coalesce, Expect, Job, JobId, JobState, Limits, OnInterrupted, Origin,
    Overlap, PendingRun, Question, RemoveReason, Retry, RunningRun, Status,
};
pub use lease::Lease;
pub use listener::{DeadLetter, Listener, Progress, Target};
pub use plan::{FireTimes, Plan, plan};
pub use plugin::{Export, Import, Interface, Plugin, PluginVersion};
pub use run::{LogLevel, LogLine, Outcome, OutcomeKind, Run, RunId, RunLogs, RunState, SkipReason, Usage};
pub use scheduler::{AddOptions, BackgroundScheduler, Drain, Heard, Listeners, Scheduler, SchedulerBuilder};
pub use secret::Secret;
pub use store::{Conflict, JobEntry, JobFilter, JobStore, List, MemoryStore, Page, PluginStore, RunFilter, SledStore};
pub use trigger::{
    AskedTrigger, CalendarInterval, ClockChange, CronFields, Dialect, Dst, Exclusion, Explanation, NextTime,
    OffsetChange, ReadZone, SEARCH_STEPS_MAX, TEXT_MAX as TRIGGER_TEXT_MAX, Trigger, Zone, ZoneSource, parse_duration,
    parse_time,
};
pub use values::{ValueChanges, Values};

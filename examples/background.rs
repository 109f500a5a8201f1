//! The scheduler on threads of its own, for a program without an async runtime.

use sandclock::{
    AddOptions, Alias, BackgroundScheduler, Clock, Drain, EventKind, Heard, Job, MemoryStore, NativeExecutor, Result,
    Scheduler, SystemClock, Trigger,
};
use serde_json::json;
use std::sync::{Arc, mpsc};
use std::time::Duration;

fn main() -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let native = NativeExecutor::new(4, clock).with("native:tick".parse()?, |claimed| async move {
        Ok(json!(format!("tick for {}", claimed.run.scheduled_time)))
    });
    let (tell, heard) = mpsc::channel();
    let background = BackgroundScheduler::start(|| async {
        let scheduler = Scheduler::default();
        scheduler.add_executor(Alias::default(), Arc::new(native)).await?;
        scheduler.add_jobstore(Alias::default(), Arc::new(MemoryStore::new(Alias::default(), "example"))).await?;
        scheduler.add_listener(EventKind::JobExecuted, move |heard| {
            if let Heard::Event(event) = heard {
                drop(tell.send(event.clone()));
            }
        });
        Ok(scheduler)
    })?;
    let job = Job::new("ticker".parse()?, "native:tick".parse()?, Trigger::every(Duration::from_secs(1))?);
    background.add_job(job, AddOptions::default())?;
    for event in heard.iter().take(2) {
        println!("{} {:?}", event.kind, event.run.as_ref().and_then(|run| run.outcome.as_ref()));
    }
    background.shutdown(Drain::For(Duration::from_secs(1)))
}

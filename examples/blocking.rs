//! The blocking flavour: `main` hands its thread over until something stops it.

use sandclock::{
    AddOptions, Alias, BackgroundScheduler, Clock, Drain, Job, MemoryStore, NativeExecutor, Result, Scheduler,
    SystemClock, Trigger,
};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

fn main() -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let native = NativeExecutor::new(1, clock).with("native:say".parse()?, |claimed| async move {
        println!("said at {}", claimed.run.scheduled_time.to_rfc3339());
        Ok(Value::Null)
    });
    let background = BackgroundScheduler::start(|| async {
        let scheduler = Scheduler::default();
        scheduler.add_executor(Alias::default(), Arc::new(native)).await?;
        scheduler.add_jobstore(Alias::default(), Arc::new(MemoryStore::new(Alias::default(), "example"))).await?;
        Ok(scheduler)
    })?;
    let job = Job::new("sayer".parse()?, "native:say".parse()?, Trigger::every(Duration::from_secs(1))?);
    background.add_job(job, AddOptions::default())?;
    // A signal handler would call this; here a thread does after three seconds.
    let stop = background.stop();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(3));
        stop();
    });
    background.wait();
    background.shutdown(Drain::For(Duration::from_secs(1)))
}

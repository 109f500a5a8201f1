//! A worker: it loads the compiled code of one plugin, locks itself in, and then makes the calls that
//! the daemon asks for, many at a time on one thread, until the daemon is gone.

use super::broker::Brokered;
use super::wire::{self, CallFrame, EndedFrame, FromWorker, Hello, ToWorker};
use crate::error::Error;
use crate::executor::host::PAUSES_BEFORE_A_LOOK;
use crate::grant::{Capability, Grants};
use crate::jail::{self, GrantedDir, Layer, Rules};
use crate::job::Job;
use crate::lease::Lease;
use crate::run::Outcome;
use crate::sandbox::{Ended, Live, Plugin, Sandbox, SandboxOptions};
use crate::trigger::Trigger;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Files that a worker may have open.
const FILES_MAX: u64 = 512;
/// The largest file that a worker may write, in bytes, whatever the quota.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// The same for a worker that has no files: the engine's images of a component's data are some.
const IMAGE_BYTES_MAX: u64 = 64 << 20;
/// Threads for what blocks, such as files.
const BLOCKING_THREADS: usize = 4;

/// What the process does, from its beginning to its end. The daemon's socket is its standard input,
/// the broker's its standard output.
pub fn worker(parent: u32) -> io::Result<()> {
    jail::before(parent, &[])?;
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let broker = io::stdout().as_fd().try_clone_to_owned()?;
    let lease = io::stderr().as_fd().try_clone_to_owned()?;
    let hello: Hello = read_first(&mut socket)?;
    let begun = begin(&hello, &mut socket, broker, lease);
    let told = begun.as_ref().map(|_| ()).map_err(Error::chain);
    socket.write_all(&wire::encode(&FromWorker::Ready(told))?)?;
    let (sandbox, plugin) = begun.map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .event_interval(PAUSES_BEFORE_A_LOOK)
        .thread_stack_size(512 << 10)
        .build()?;
    let worker = Arc::new(Worker { sandbox, plugin, grants: hello.grants, running: Mutex::default() });
    let served = runtime.block_on(worker.serve(socket));
    // A file operation that still blocks is not waited for.
    runtime.shutdown_background();
    served
}

fn read_first(socket: &mut UnixStream) -> io::Result<Hello> {
    let mut head = [0; 4];
    socket.read_exact(&mut head)?;
    let mut frame = vec![0; u32::from_le_bytes(head) as usize];
    socket.read_exact(&mut frame)?;
    wire::decode(&frame)
}

/// Loads the code, then locks the process: from then on no code can be loaded.
#[expect(unsafe_code, reason = "loading native code that the daemon has verified")]
fn begin(
    hello: &Hello,
    socket: &mut UnixStream,
    broker: OwnedFd,
    lease: OwnedFd,
) -> Result<(Sandbox, Arc<Plugin>), Error> {
    let failed = |e: io::Error| Error::host("the code did not arrive", e);
    let mut code = vec![0; usize::try_from(hello.code).unwrap_or(0)];
    socket.read_exact(&mut code).map_err(failed)?;
    let options = SandboxOptions {
        runs: hello.runs,
        lines: true,
        connect: Arc::new(Brokered::new(broker)),
        lease: match hello.leased {
            true => Lease::of(lease).map_err(|e| Error::host("the lease cannot be read", e))?,
            false => Lease::forever(),
        },
        ..SandboxOptions::default()
    };
    let sandbox = Sandbox::with(options)?;
    // SAFETY: the daemon sends what its cache gave, whose HMAC it has verified.
    let plugin = unsafe { sandbox.load_code(&hello.digest, &code) }?;
    drop(code);
    let network = plugin.asks().contains(&Capability::Http);
    let layers = jail::lock(&rules(hello, network));
    // Without its own limit, one worker could take all of the machine's memory.
    let needed =
        |layer: &&Layer| (hello.strict && !layer.is_enforced()) || (layer.name == jail::MEMORY_LIMIT && layer.is_off());
    if let Some(missing) = layers.iter().find(needed) {
        return Err(Error::host("the worker cannot lock itself in", missing.to_string()));
    }
    Ok((sandbox, plugin))
}

/// What a worker of a plugin may do.
fn rules(hello: &Hello, network: bool) -> Rules {
    let dirs = hello.grants.dirs.iter();
    Rules {
        data_bytes: hello.memory,
        cpu: None,
        open_files: FILES_MAX,
        file_bytes: if hello.grants.dirs.iter().any(|dir| dir.writable) { FILE_BYTES_MAX } else { IMAGE_BYTES_MAX },
        dirs: dirs.map(|dir| GrantedDir { path: dir.host.clone().into(), writable: dir.writable }).collect(),
        threads: true,
        sockets: network,
    }
}

struct Worker {
    sandbox: Sandbox,
    plugin: Arc<Plugin>,
    grants: Arc<Grants>,
    running: Mutex<HashMap<u64, (CancellationToken, Live)>>,
}

impl Worker {
    async fn serve(self: Arc<Self>, socket: UnixStream) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let (mut reader, mut writer) = tokio::net::UnixStream::from_std(socket)?.into_split();
        // At most one answer for each call that the daemon makes, which are as many as it allows.
        let (tell, mut answers) = mpsc::unbounded_channel::<Vec<u8>>();
        let write = async move {
            while let Some(mut frame) = answers.recv().await {
                while let Ok(more) = answers.try_recv() {
                    frame.extend_from_slice(&more);
                }
                writer.write_all(&frame).await?;
            }
            Ok::<_, io::Error>(())
        };
        let read = async move {
            let mut come = wire::room();
            while reader.read_buf(&mut come).await? > 0 {
                while let Some(frame) = wire::next_frame(&mut come)? {
                    match wire::decode(&frame)? {
                        ToWorker::Call(call) => self.start(*call, tell.clone()),
                        ToWorker::Cancel(id) => self.cancel(id),
                        ToWorker::Show(id) => self.show(id, &tell),
                    }
                }
            }
            Ok::<_, io::Error>(())
        };
        // The daemon is gone when it says nothing more: what runs ends with this process.
        tokio::select! {
            read = read => read,
            write = write => write,
        }
    }

    fn start(self: &Arc<Self>, call: CallFrame, tell: mpsc::UnboundedSender<Vec<u8>>) {
        let cancel = CancellationToken::new();
        let id = call.id;
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, (cancel.clone(), call.setting.live.clone()));
        let worker = self.clone();
        tokio::spawn(async move {
            let made = {
                let (worker, cancel) = (worker.clone(), cancel.clone());
                tokio::spawn(async move { worker.call(call, &cancel).await }).await
            };
            let ended = made.unwrap_or_else(|error| {
                Ended::without_a_call(Outcome::Internal { error: format!("the host panicked: {error}") })
            });
            worker.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            let frame = encode_ended(id, ended);
            let _ = frame.map(|frame| tell.send(frame));
        });
    }

    fn cancel(&self, id: u64) {
        if let Some((cancel, _)) = self.running.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            cancel.cancel();
        }
    }

    fn show(&self, id: u64, tell: &mpsc::UnboundedSender<Vec<u8>>) {
        let live = self.running.lock().unwrap_or_else(PoisonError::into_inner).get(&id).map(|(_, live)| live.clone());
        // The answer to a call that has ended is on its way.
        let Some(live) = live else { return };
        let tell = tell.clone();
        // A long text takes its time, and other calls must not wait for it.
        tokio::task::spawn_blocking(move || {
            let frame = wire::encode(&FromWorker::Written(id, Box::new(live.so_far())));
            frame.map(|frame| tell.send(frame))
        });
    }

    async fn call(&self, call: CallFrame, cancel: &CancellationToken) -> Ended {
        let grants = match &call.picks {
            None => self.grants.clone(),
            Some(picks) => match self.grants.narrowed(picks) {
                Ok(grants) => grants.into(),
                Err(error) => return Ended::without_a_call(Outcome::Invalid { error: error.to_string() }),
            },
        };
        let mut setting = call.setting;
        setting.given.grants = grants;
        let bound = "run".parse().map(|id| {
            let mut job = Job::new(id, call.func, Trigger::now());
            (job.args, job.kwargs) = (call.args, call.kwargs);
            job
        });
        match bound.map_err(Error::from).and_then(|job| self.plugin.bind(&job)) {
            Ok(call) => self.sandbox.call(call, &setting, cancel).await,
            Err(error) => Ended::without_a_call(Outcome::Invalid { error: error.to_string() }),
        }
    }
}

fn encode_ended(id: u64, ended: Ended) -> io::Result<Vec<u8>> {
    let frame = wire::encode(&FromWorker::Ended(id, Box::new(EndedFrame::from(ended))))?;
    if frame.len() <= wire::FRAME_BYTES_MAX {
        return Ok(frame);
    }
    let error = format!("its result has {} bytes as JSON, the most is {}", frame.len(), wire::FRAME_BYTES_MAX);
    let outcome = Outcome::Trapped { trap: "transfer_limit".into(), error, backtrace: Vec::new() };
    wire::encode(&FromWorker::Ended(id, Box::new(EndedFrame::from(Ended::without_a_call(outcome)))))
}

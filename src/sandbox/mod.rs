//! Where untrusted code runs. wasmtime lives here and nowhere else.
//!
//! A [`Sandbox`] is one engine with its linkers and its compiled components. A call gets a fresh
//! store with fuel, a memory limit, a deadline and what it was granted, and answers with an outcome
//! whatever the guest does. The sandbox knows no triggers, stores or events.

mod bind;
mod cache;
mod compile;
pub mod connect;
mod dear;
mod engine;
mod errors;
mod files;
mod host;
mod http;
mod inspect;
mod interfaces;
mod limiter;
mod outcome;
mod output;
mod redact;
mod registry;
mod setting;
mod value;

pub use crate::plugin::digest;
pub use bind::{Call, Plugin};
pub use compile::{Compiler, child as compile_child};
pub use inspect::COMPONENT_BYTES_MAX;
pub use registry::{AddPlugin, Registry};
pub use setting::{Given, Live, Setting};

use self::http::Client;
use crate::error::{Error, Result};
use crate::grant::{Capability, Use};
use crate::lease::{Lease, Term};
use crate::plugin::{Function, Interface, Param};
use crate::run::{ERROR_BYTES_MAX, Outcome, RunLogs, Usage, cut};
use crate::values::ValueChanges;
use cache::Cache;
use connect::{Connect, Direct};
use files::Shares;
use host::State;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use wasmtime::component::{Component, Linker, Type, Val};
use wasmtime::{CallHook, Engine, Store};

/// Components kept loaded; the one unused for longest goes first.
const LOADED_MAX: usize = 256;

/// How a [`Sandbox`] is made.
#[derive(Clone)]
pub struct SandboxOptions {
    /// Runs at one time. Default 64.
    pub runs: usize,
    /// Where compiled code is kept. Default nowhere.
    pub cache: Option<PathBuf>,
    /// Default in this process.
    pub compiler: Compiler,
    /// Backtraces have source lines, if the component has them. The guest's own data is parsed for
    /// that, so this is for processes that can be lost. Default no.
    pub lines: bool,
    /// Makes the connections of guests. Default from this process.
    pub connect: Arc<dyn Connect>,
    /// Guests do nothing once it has run out. Default for ever.
    pub lease: Lease,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        let connect = Arc::new(Direct::default());
        let (compiler, lease) = (Compiler::InProcess, Lease::forever());
        SandboxOptions { runs: 64, cache: None, compiler, lines: false, connect, lease }
    }
}

/// One engine, and the components that were loaded into it.
pub struct Sandbox {
    engine: Engine,
    linkers: Linkers,
    compatibility: u64,
    lines: bool,
    cache: Option<Cache>,
    compiler: Compiler,
    client: OnceLock<Arc<Client>>,
    connect: Arc<dyn Connect>,
    lease: Lease,
    shares: Shares,
    loaded: Mutex<Loaded>,
    from_cache: AtomicU64,
    compiled: AtomicU64,
}

/// A linker for each set of capabilities, made when it is first needed: an interface that is not in
/// the set is not linked at all.
struct Linkers {
    engine: Engine,
    made: Mutex<BTreeMap<Vec<Capability>, Arc<Linker<State>>>>,
}

impl Linkers {
    fn with(&self, capabilities: &[Capability]) -> wasmtime::Result<Arc<Linker<State>>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(linker) = made.get(capabilities) {
            return Ok(linker.clone());
        }
        let mut linker = Linker::new(&self.engine);
        host::link(&mut linker)?;
        for capability in capabilities {
            host::link_granted(&mut linker, *capability)?;
        }
        let linker = Arc::new(linker);
        made.insert(capabilities.to_vec(), linker.clone());
        Ok(linker)
    }
}

#[derive(Default)]
struct Loaded {
    plugins: HashMap<String, (Arc<Plugin>, u64)>,
    uses: u64,
}

/// How a call ended.
#[derive(Debug)]
pub struct Ended {
    pub outcome: Outcome,
    pub usage: Usage,
    pub logs: RunLogs,
    pub uses: Vec<Use>,
    /// Empty unless it succeeded.
    pub values: ValueChanges,
}

impl Ended {
    /// A call that was not made.
    pub fn without_a_call(outcome: Outcome) -> Self {
        Ended {
            outcome,
            usage: Usage::default(),
            logs: RunLogs::default(),
            uses: Vec::new(),
            values: ValueChanges::default(),
        }
    }
}

impl Sandbox {
    /// An engine with room for `runs` at once, which compiles in this process and keeps compiled code
    /// in `cache` if given.
    pub fn new(runs: usize, cache: Option<&Path>) -> Result<Self> {
        Sandbox::with(SandboxOptions { runs, cache: cache.map(Path::to_owned), ..SandboxOptions::default() })
    }

    pub fn with(options: SandboxOptions) -> Result<Self> {
        let SandboxOptions { runs, cache, compiler, lines, connect, lease } = options;
        let engine = engine::engine(runs, lines)?;
        let linkers = Linkers { engine: engine.clone(), made: Mutex::default() };
        linkers.with(&[]).map_err(|e| Error::host("cannot link the host's interfaces", e))?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        lines.hash(&mut hasher);
        let cache = cache.as_deref().map(Cache::open).transpose()?;
        Ok(Sandbox {
            engine,
            linkers,
            compatibility: hasher.finish(),
            lines,
            cache,
            compiler,
            client: OnceLock::new(),
            connect,
            lease,
            shares: Shares::default(),
            loaded: Mutex::default(),
            from_cache: AtomicU64::new(0),
            compiled: AtomicU64::new(0),
        })
    }

    /// Compiles a component and says what it offers and asks for. Refuses what is none, what asks
    /// for more than plugins can be granted, and signatures that JSON cannot carry. Blocks: seconds
    /// for a large component that was not compiled before.
    pub fn inspect(&self, bytes: &[u8]) -> Result<Interface> {
        inspect::check_bytes(bytes)?;
        let component = self.compile(&digest(bytes), bytes)?;
        let interface = inspect::interface(&self.engine, &component)?;
        let linker = self.linkers.with(&interface.asks()).map_err(|e| refused(&e))?;
        linker.instantiate_pre(&component).map_err(|e| refused(&e))?;
        Ok(interface)
    }

    /// What jobs can call of a component, with its types. Blocks.
    pub fn functions(&self, digest: &str, bytes: &[u8]) -> Result<Vec<Function>> {
        let plugin = self.load(digest, bytes)?;
        let param = |(name, ty): &(String, Type)| Param { name: name.clone(), ty: value::form_of(ty) };
        let view = |function: &inspect::Function| Function {
            name: function.name.clone(),
            signature: function.signature.clone(),
            params: if function.command { Vec::new() } else { function.params.iter().map(param).collect() },
            command: function.command,
        };
        Ok(plugin.functions.iter().map(view).collect())
    }

    /// The component with this digest, if it is loaded already.
    pub fn loaded(&self, digest: &str) -> Option<Arc<Plugin>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.uses += 1;
        let uses = loaded.uses;
        let (plugin, used) = loaded.plugins.get_mut(digest)?;
        *used = uses;
        Some(plugin.clone())
    }

    /// Loads a component, from the cache if it was compiled before. Blocks.
    pub fn load(&self, digest: &str, bytes: &[u8]) -> Result<Arc<Plugin>> {
        if let Some(plugin) = self.loaded(digest) {
            return Ok(plugin);
        }
        inspect::check_bytes(bytes)?;
        let component = self.compile(digest, bytes)?;
        self.keep(digest, &component)
    }

    /// Loads compiled code that [`Sandbox::code`] of a sandbox with the same options gave.
    ///
    /// # Safety
    ///
    /// The code must be what `code` gave, unchanged: it is native code.
    #[expect(unsafe_code, reason = "passes on what deserializing requires")]
    pub unsafe fn load_code(&self, digest: &str, code: &[u8]) -> Result<Arc<Plugin>> {
        // SAFETY: as this function requires.
        let component = unsafe { Component::deserialize(&self.engine, code) }.map_err(|e| refused(&e))?;
        self.keep(digest, &component)
    }

    /// The compiled code of a component, from the cache if it was compiled before. Blocks.
    pub fn code(&self, digest: &str, bytes: &[u8]) -> Result<Vec<u8>> {
        if let Some(code) = self.cached(digest)? {
            return Ok(code);
        }
        inspect::check_bytes(bytes)?;
        self.compile_anew(digest, bytes)
    }

    fn keep(&self, digest: &str, component: &Component) -> Result<Arc<Plugin>> {
        let functions = inspect::functions(&self.engine, component)?;
        let asks = inspect::interface(&self.engine, component)?.asks();
        let linker = self.linkers.with(&asks).map_err(|e| refused(&e))?;
        let pre = linker.instantiate_pre(component).map_err(|e| refused(&e))?;
        if asks.contains(&Capability::Http) {
            // Before the process locks itself: it reads the machine's certificates.
            self.client();
        }
        let plugin = Arc::new(Plugin { digest: digest.into(), functions, pre, asks });
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.uses += 1;
        let uses = loaded.uses;
        if loaded.plugins.len() >= LOADED_MAX
            && let Some(oldest) =
                loaded.plugins.iter().min_by_key(|(_, (_, used))| *used).map(|(digest, _)| digest.clone())
        {
            loaded.plugins.remove(&oldest);
        }
        loaded.plugins.insert(digest.to_owned(), (plugin.clone(), uses));
        Ok(plugin)
    }

    /// Forgets a component and its compiled code, and that it could not be compiled.
    pub fn forget(&self, digest: &str) {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).plugins.remove(digest);
        if let Some(cache) = &self.cache {
            cache.remove(digest);
        }
    }

    fn client(&self) -> Arc<Client> {
        self.client.get_or_init(|| Arc::new(Client::new(self.connect.clone()))).clone()
    }

    /// Compiled code that is kept. Errors: the component is known to break the compiler.
    fn cached(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        let Some(cache) = &self.cache else { return Ok(None) };
        if let Some(reason) = cache.refused(digest, self.compatibility) {
            let reason = format!("{reason} (this was found before; `plugin add --retry` compiles it again)");
            return Err(Error::PluginRefused { reason });
        }
        let code = cache.get(digest, self.compatibility);
        self.from_cache.fetch_add(u64::from(code.is_some()), Ordering::Relaxed);
        Ok(code)
    }

    /// How components were had since the start: loaded already, from the cache, compiled.
    pub fn cache_counts(&self) -> [(&'static str, u64); 3] {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).uses;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [("loaded", loaded), ("cached", count(&self.from_cache)), ("compiled", count(&self.compiled))]
    }

    fn compile_anew(&self, digest: &str, bytes: &[u8]) -> Result<Vec<u8>> {
        self.compiled.fetch_add(1, Ordering::Relaxed);
        let compiled = self.compiler.compile(&self.engine, self.lines, bytes);
        match (&compiled, &self.cache) {
            (Ok(code), Some(cache)) => cache.put(digest, self.compatibility, code),
            (Err(Error::PluginRefused { reason }), Some(cache)) if compile::is_bomb(reason) => {
                cache.refuse(digest, self.compatibility, reason);
            }
            _ => {}
        }
        compiled
    }

    #[expect(unsafe_code, reason = "loading native code, whose origin is checked right before")]
    fn compile(&self, digest: &str, bytes: &[u8]) -> Result<Component> {
        if let Some(code) = self.cached(digest)? {
            // SAFETY: the cache gives back only what this program wrote, told by an HMAC with a key
            // that only this user can read; the bytes checked are the very bytes loaded.
            match unsafe { Component::deserialize(&self.engine, code) } {
                Ok(component) => return Ok(component),
                Err(error) => tracing::warn!(%error, digest, "cached code does not load; it is compiled again"),
            }
        }
        let code = self.compile_anew(digest, bytes)?;
        // SAFETY: these bytes came from the compiler a moment ago, over a pipe that nobody else has. A
        // compiler that a component has taken over could send others: docs/security.md says so.
        unsafe { Component::deserialize(&self.engine, &code) }.map_err(|e| refused(&e))
    }

    /// The lease's term that is now.
    pub fn term(&self) -> Term {
        self.lease.term()
    }

    /// Runs a call to its end, its timeout, or its cancellation.
    pub async fn call(&self, call: Call, setting: &Setting, cancel: &CancellationToken) -> Ended {
        let limits = &setting.limits;
        let term = setting.term.map_or_else(|| self.lease.term(), |number| self.lease.term_of(number));
        let internal = |error: String| Ended::without_a_call(Outcome::Internal { error });
        let timed_out = || Outcome::TimedOut { error: timed_out(limits.timeout) };
        let until = tokio::time::Instant::now() + limits.timeout;
        // Its directories are looked at, and that may take its time.
        let made = tokio::select! {
            biased;
            () = term.ended() => return Ended::without_a_call(Outcome::Interrupted),
            () = cancel.cancelled() => return Ended::without_a_call(Outcome::Cancelled),
            made = tokio::time::timeout_at(until, self.state(setting, &call, &term)) => made,
        };
        let state = match made {
            Ok(Ok(state)) => state,
            Ok(Err(error)) => return internal(error),
            Err(_) => return Ended::without_a_call(timed_out()),
        };
        let mut store = match self.store(state, setting, &term) {
            Ok(store) => store,
            Err(error) => return internal(error.to_string()),
        };
        // The guest's time is bounded by the clock around everything it does, because neither fuel
        // nor anything else runs while it waits in the host.
        let ended = tokio::select! {
            biased;
            () = term.ended() => None,
            () = cancel.cancelled() => None,
            ended = tokio::time::timeout_at(until, call.invoke(&mut store)) => Some(ended),
        };
        let outcome = match ended {
            _ if !term.holds() => Outcome::Interrupted,
            None => Outcome::Cancelled,
            Some(Err(_)) => timed_out(),
            Some(Ok(Ok(results))) => returned(&results),
            Some(Ok(Err(error))) => outcome::outcome_of(&error, &store, limits),
        };
        let usage = Usage {
            fuel_used: store.get_fuel().ok().map(|left| limits.fuel.saturating_sub(left)),
            memory_peak: Some(store.data().limiter.peak()),
        };
        let state = store.data_mut();
        let written = state.written.clone();
        let redactor = written.redactor();
        let mut uses = state.uses.take();
        // A name that was reached for can carry a secret.
        uses.retain(|used| !redactor.finds(&used.what.to_string()));
        let logs = state.logs(&uses);
        let outcome = outcome::with_last_words(outcome, &logs.stderr);
        let mut outcome = outcome::denied(outcome, &uses, &state.given.grants);
        redactor.outcome(&mut outcome);
        let values =
            if matches!(outcome, Outcome::Succeeded { .. }) { state.changes() } else { ValueChanges::default() };
        Ended { outcome, usage, logs, uses, values }
    }

    async fn state(&self, setting: &Setting, call: &Call, term: &Term) -> Result<State, String> {
        let client = call.plugin().asks().contains(&Capability::Http).then(|| (self.client(), term.clone()));
        State::new(setting, &call.argv, client, &self.shares).await
    }

    fn store(&self, state: State, setting: &Setting, term: &Term) -> wasmtime::Result<Store<State>> {
        let mut store = Store::try_new(&self.engine, state)?;
        store.limiter(|state| &mut state.limiter);
        // Before instantiation: start functions run there.
        store.set_fuel(setting.limits.fuel)?;
        store.fuel_async_yield_interval(Some(engine::YIELD_FUEL))?;
        store.set_hostcall_fuel(engine::TRANSFER_BYTES_MAX);
        store.set_max_component_handles(engine::HANDLES_MAX);
        if !self.lease.is_forever() {
            let term = term.clone();
            // Whatever a guest does to the world is a call of the host.
            store.call_hook(move |_, hook| match hook {
                CallHook::CallingHost if !term.holds() => Err(wasmtime::Error::msg("the lease has run out")),
                _ => Ok(()),
            });
        }
        Ok(store)
    }
}

/// The outcome of a call that came back: `err` is the guest's own failure.
fn returned(results: &[Val]) -> Outcome {
    match results.first() {
        None => Outcome::Succeeded { value: serde_json::Value::Null },
        Some(Val::Result(Err(error))) => {
            let json = error.as_deref().map(value::to_json);
            let mut error = match json {
                None => "it returned an error without a value".to_owned(),
                Some(serde_json::Value::String(text)) => crate::invalid::printable(&text, ERROR_BYTES_MAX),
                Some(json) => json.to_string(),
            };
            cut(&mut error, ERROR_BYTES_MAX);
            Outcome::Failed { error }
        }
        Some(Val::Result(Ok(value))) => {
            Outcome::Succeeded { value: value.as_deref().map_or(serde_json::Value::Null, value::to_json) }
        }
        Some(value) => Outcome::Succeeded { value: value::to_json(value) },
    }
}

fn timed_out(timeout: Duration) -> String {
    let shown = crate::trigger::duration_text(timeout);
    format!("it ran longer than {shown} (`--timeout` raises it, to 24h at most)")
}

fn refused(error: &wasmtime::Error) -> Error {
    let text = format!("{error:#}").replace('\n', " ");
    Error::PluginRefused { reason: crate::invalid::printable(&text, 400) }
}

//! Where untrusted code runs. wasmtime lives here and nowhere else.
//!
//! A [`Sandbox`] is one engine with its linker and its compiled components. A call gets a fresh
//! store with fuel, a memory limit and a deadline, and answers with an outcome whatever the guest
//! does. The sandbox knows no triggers, stores or events.

mod cache;
mod engine;
mod host;
mod inspect;
mod limiter;
mod outcome;
mod output;
mod registry;
mod value;

pub use crate::plugin::digest;
pub use inspect::COMPONENT_BYTES_MAX;
pub use registry::Registry;

use crate::error::{Error, Result};
use crate::func::FuncRef;
use crate::invalid::Invalid;
use crate::job::{Job, Limits};
use crate::plugin::Interface;
use crate::run::{ERROR_BYTES_MAX, Outcome, Run, RunLogs, Usage, cut};
use cache::{COMPILED_BYTES_MAX, Cache};
use chrono::{DateTime, Utc};
use host::State;
use inspect::Function;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use wasmtime::component::{Component, InstancePre, Linker, Val};
use wasmtime::{Engine, Store};

/// Components kept loaded; the one unused for longest goes first.
const LOADED_MAX: usize = 256;

/// One engine, and the components that were loaded into it.
pub struct Sandbox {
    engine: Engine,
    linker: Linker<State>,
    compatibility: u64,
    cache: Option<Cache>,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    plugins: HashMap<String, (Arc<Plugin>, u64)>,
    uses: u64,
}

/// A component that is ready to run.
pub struct Plugin {
    digest: Arc<str>,
    functions: Vec<Function>,
    pre: InstancePre<State>,
    pure: bool,
}

/// A function with its arguments, checked against each other.
pub struct Call {
    plugin: Arc<Plugin>,
    function: usize,
    args: Vec<Val>,
    argv: Vec<String>,
}

/// How a call ended.
pub struct Ended {
    pub outcome: Outcome,
    pub usage: Usage,
    pub logs: RunLogs,
}

impl Sandbox {
    /// An engine with room for `runs` at once, keeping compiled code in `cache` if given.
    pub fn new(runs: usize, cache: Option<&Path>) -> Result<Self> {
        let engine = engine::engine(runs)?;
        let mut linker = Linker::new(&engine);
        host::link(&mut linker).map_err(|e| Error::host("cannot link the host's interfaces", e))?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let cache = cache.map(Cache::open).transpose()?;
        Ok(Sandbox { engine, linker, compatibility: hasher.finish(), cache, loaded: Mutex::default() })
    }

    /// Compiles a component and says what it offers and asks for. Refuses what is none, what asks
    /// for more than plugins are given, and signatures that JSON cannot carry. Blocks: seconds for a
    /// large component that was not compiled before.
    pub fn inspect(&self, bytes: &[u8]) -> Result<Interface> {
        inspect::check_bytes(bytes)?;
        let component = self.compile(&digest(bytes), bytes)?;
        let interface = inspect::interface(&self.engine, &component)?;
        self.linker.instantiate_pre(&component).map_err(|e| refused(&e))?;
        Ok(interface)
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
        let functions = inspect::functions(&self.engine, &component)?;
        let pure = component.component_type().imports(&self.engine).len() == 0;
        let pre = self.linker.instantiate_pre(&component).map_err(|e| refused(&e))?;
        let plugin = Arc::new(Plugin { digest: digest.into(), functions, pre, pure });
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

    /// Forgets a component and its compiled code.
    pub fn forget(&self, digest: &str) {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).plugins.remove(digest);
        if let Some(cache) = &self.cache {
            cache.remove(digest);
        }
    }

    #[expect(unsafe_code, reason = "loading native code, whose origin is checked right before")]
    fn compile(&self, digest: &str, bytes: &[u8]) -> Result<Component> {
        if let Some(code) = self.cache.as_ref().and_then(|cache| cache.get(digest, self.compatibility)) {
            // SAFETY: the cache gives back only what this program wrote, told by an HMAC with a key
            // that only this user can read; the bytes checked are the very bytes loaded.
            match unsafe { Component::deserialize(&self.engine, code) } {
                Ok(component) => return Ok(component),
                Err(error) => tracing::warn!(%error, digest, "cached code does not load; it is compiled again"),
            }
        }
        let code = self.engine.precompile_component(bytes).map_err(|e| refused(&e))?;
        if code.len() > COMPILED_BYTES_MAX {
            let reason = format!("compiled it has {} bytes, the most is {COMPILED_BYTES_MAX}", code.len());
            return Err(Error::PluginRefused { reason });
        }
        // SAFETY: these bytes were made by this engine a moment ago and nobody else had them.
        let component = unsafe { Component::deserialize(&self.engine, &code) }.map_err(|e| refused(&e))?;
        if let Some(cache) = &self.cache {
            cache.put(digest, self.compatibility, &code);
        }
        Ok(component)
    }

    /// Runs a call to its end, its timeout, or its cancellation.
    pub async fn call(
        &self,
        call: Call,
        run: &Run,
        limits: &Limits,
        now: DateTime<Utc>,
        cancel: &CancellationToken,
    ) -> Ended {
        let deadline = now + chrono::TimeDelta::from_std(limits.timeout).unwrap_or_default();
        let state = State::new(run, limits, deadline, &call.argv);
        let mut store = match self.store(state, limits) {
            Ok(store) => store,
            Err(error) => {
                let outcome = Outcome::Internal { error: error.to_string() };
                return Ended { outcome, usage: Usage::default(), logs: RunLogs::default() };
            }
        };
        // The guest's time is bounded by the clock around everything it does, because neither fuel
        // nor anything else runs while it waits in the host.
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            ended = tokio::time::timeout(limits.timeout, call.invoke(&mut store)) => Some(ended),
        };
        let outcome = match ended {
            None => Outcome::Cancelled,
            Some(Err(_)) => Outcome::TimedOut { error: timed_out(limits.timeout) },
            Some(Ok(Ok(results))) => returned(&results),
            Some(Ok(Err(error))) => outcome::outcome_of(&error, &store, limits),
        };
        let usage = Usage {
            fuel_used: store.get_fuel().ok().map(|left| limits.fuel.saturating_sub(left)),
            memory_peak: Some(store.data().limiter.peak()),
        };
        Ended { outcome, usage, logs: store.data().logs() }
    }

    fn store(&self, state: State, limits: &Limits) -> wasmtime::Result<Store<State>> {
        let mut store = Store::try_new(&self.engine, state)?;
        store.limiter(|state| &mut state.limiter);
        // Before instantiation: start functions run there.
        store.set_fuel(limits.fuel)?;
        store.fuel_async_yield_interval(Some(engine::YIELD_FUEL))?;
        store.set_hostcall_fuel(engine::TRANSFER_BYTES_MAX);
        store.set_max_component_handles(engine::HANDLES_MAX);
        Ok(store)
    }
}

impl Plugin {
    pub fn digest(&self) -> &Arc<str> {
        &self.digest
    }

    /// Whether it has no imports, so that its functions are functions of their arguments.
    pub fn is_pure(&self) -> bool {
        self.pure
    }

    /// Binds a job's arguments to the parameters of its function.
    pub fn bind(self: &Arc<Self>, job: &Job) -> Result<Call> {
        let function = self.find(&job.func)?;
        let at = self.functions.iter().position(|f| std::ptr::eq(f, function)).unwrap_or_default();
        let mut call = Call { plugin: self.clone(), function: at, args: Vec::new(), argv: Vec::new() };
        if function.command {
            call.argv = argv(job)?;
            return Ok(call);
        }
        call.args = bind(function, job)
            .map_err(|error| error.hint(format!("its signature is `{}: {}`", function.name, function.signature)))?;
        Ok(call)
    }

    fn find(&self, func: &FuncRef) -> Result<&Function> {
        inspect::find(&self.functions, &func.export).ok_or_else(|| {
            let mut names: Vec<String> = self.functions.iter().map(|f| format!("`{}`", f.name)).collect();
            if names.len() > 10 {
                names.truncate(10);
                names.push("…".into());
            }
            let (plugin, export) = (func.module.clone(), func.export.to_string());
            Error::ExportNotFound { plugin, export, available: names.join(", ") }
        })
    }
}

impl Call {
    async fn invoke(&self, store: &mut Store<State>) -> wasmtime::Result<Vec<Val>> {
        let instance = self.plugin.pre.instantiate_async(&mut *store).await?;
        let function = &self.plugin.functions[self.function];
        let func = instance
            .get_func(&mut *store, function.index)
            .ok_or_else(|| wasmtime::Error::msg("the export is not in the instance"))?;
        let mut results = vec![Val::Bool(false); func.ty(&*store).results().len()];
        func.call_async(&mut *store, &self.args, &mut results).await?;
        Ok(results)
    }
}

fn bind(function: &Function, job: &Job) -> Result<Vec<Val>, Invalid> {
    let names = || function.params.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    if job.args.len() > function.params.len() {
        let reason = format!("{} are given, the function takes {}", job.args.len(), function.params.len());
        return Err(Invalid::new("arguments", "", reason));
    }
    if let Some(unknown) = job.kwargs.keys().find(|name| !function.params.iter().any(|(param, _)| param == *name)) {
        return Err(Invalid::new("argument", unknown, format!("there is no such parameter, there is {}", names())));
    }
    let bound =
        function.params.iter().enumerate().map(|(at, (name, ty))| match (job.args.get(at), job.kwargs.get(name)) {
            (Some(_), Some(_)) => Err(Invalid::new("argument", name, "it is given by position and by name")),
            (Some(value), None) => value::from_json(ty, value, &format!("{name} (args[{at}])")),
            (None, Some(value)) => value::from_json(ty, value, name),
            (None, None) => Err(Invalid::new("arguments", "", format!("parameter `{name}` is missing"))),
        });
    bound.collect()
}

/// A command's arguments: its name, then the job's args, all strings.
fn argv(job: &Job) -> Result<Vec<String>> {
    if !job.kwargs.is_empty() {
        let names: Vec<&str> = job.kwargs.keys().map(String::as_str).collect();
        let error = Invalid::new("argument", names.join(", "), "a command takes arguments by position only");
        return Err(Error::Invalid(error));
    }
    let mut argv = vec![job.func.module.to_string()];
    for (at, arg) in job.args.iter().enumerate() {
        match arg.as_str() {
            Some(text) if !text.contains('\0') => argv.push(text.to_owned()),
            _ => {
                let error = Invalid::new(
                    format!("argument args[{at}]"),
                    arg.to_string(),
                    "a command takes strings without NUL",
                );
                return Err(Error::Invalid(error));
            }
        }
    }
    Ok(argv)
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

//! A job's function and arguments, checked against what a component offers.

use super::host::State;
use super::inspect::{self, Function};
use super::value;
use crate::error::{Error, Result};
use crate::func::FuncRef;
use crate::grant::Capability;
use crate::invalid::Invalid;
use crate::job::Job;
use std::sync::Arc;
use wasmtime::Store;
use wasmtime::component::{InstancePre, Val};

/// A component that is ready to run.
pub struct Plugin {
    pub(super) digest: Arc<str>,
    pub(super) functions: Vec<Function>,
    pub(super) pre: InstancePre<State>,
    /// What its imports need grants for.
    pub(super) asks: Vec<Capability>,
}

/// A function with its arguments, checked against each other.
pub struct Call {
    plugin: Arc<Plugin>,
    function: usize,
    args: Vec<Val>,
    pub(super) argv: Vec<String>,
}

impl Plugin {
    pub fn digest(&self) -> &Arc<str> {
        &self.digest
    }

    /// What its imports need grants for.
    pub fn asks(&self) -> &[Capability] {
        &self.asks
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
    pub(super) fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    pub(super) async fn invoke(&self, store: &mut Store<State>) -> wasmtime::Result<Vec<Val>> {
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

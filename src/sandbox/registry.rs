//! Registering plugins: inspected, stored by digest, one more version of a name, with what it was
//! granted.

use super::{Sandbox, digest};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::func::{PluginName, check_label};
use crate::grant::{DirGrant, Grants};
use crate::invalid::Invalid;
use crate::plugin::{Function, Interface, Plugin, PluginVersion, VERSIONS_MAX};
use crate::store::PluginStore;
use chrono::{DateTime, Utc};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The plugins of one installation.
#[derive(Clone)]
pub struct Registry {
    sandbox: Arc<Sandbox>,
    plugins: Arc<dyn PluginStore>,
    clock: Arc<dyn Clock>,
    /// Never given to plugins: where the installation keeps its own things.
    home: Option<PathBuf>,
    /// One registration at a time: a component must not be dropped as unused before its plugin is
    /// written.
    changes: Arc<tokio::sync::Mutex<()>>,
}

/// How a component is registered.
#[derive(Debug, Clone, Default)]
pub struct AddPlugin {
    /// A label by which jobs can pin this version.
    pub label: Option<String>,
    /// What it is granted, all of it. Default what the version before it was granted, as far as this
    /// one asks for it.
    pub grants: Option<Grants>,
    /// What is not granted is linked all the same, denied when it is used, and recorded.
    pub audit: bool,
    /// Forget that compiling it has failed before.
    pub retry: bool,
}

impl AddPlugin {
    #[must_use]
    pub fn label(self, label: impl Into<String>) -> Self {
        AddPlugin { label: Some(label.into()), ..self }
    }

    #[must_use]
    pub fn grants(self, grants: Grants) -> Self {
        AddPlugin { grants: Some(grants), ..self }
    }
}

/// A component that is no version of a plugin yet.
struct Inspected {
    digest: Arc<str>,
    size: u64,
    interface: Interface,
}

impl Inspected {
    /// Makes it the newest version.
    fn join(&self, plugin: &mut Plugin, add: &AddPlugin, added: DateTime<Utc>) -> Result<PluginVersion> {
        let AddPlugin { label, grants, audit, .. } = add;
        let Inspected { digest, size, interface } = self;
        let taken = |version: &&PluginVersion| label.is_some() && version.label == *label && version.digest != *digest;
        if let Some(other) = plugin.versions.iter().find(taken) {
            let reason = format!("component {} has it already", &other.digest[..12]);
            return Err(Invalid::new("version label", label.clone().unwrap_or_default(), reason).into());
        }
        // What the version before it could not use is not for this one.
        let usable = |before: &PluginVersion| (*before.grants).clone().for_imports(&before.interface.asks());
        let inherited = plugin.current().map(usable).unwrap_or_default();
        // The same component again keeps the labels by which jobs may have pinned it.
        let again = |version: &PluginVersion| {
            version.digest == *digest && (label.is_none() || version.label.is_none() || version.label == *label)
        };
        let before = plugin.versions.iter().position(again).map(|at| plugin.versions.remove(at));
        let own = before.as_ref().map(|before| (*before.grants).clone());
        let grants = grants.clone().or(own).unwrap_or_else(|| inherited.for_imports(&interface.asks()));
        let version = PluginVersion {
            digest: digest.clone(),
            label: label.clone().or(before.and_then(|before| before.label)),
            size: *size,
            added,
            interface: interface.clone(),
            grants: grants.into(),
            audit: *audit,
        };
        plugin.versions.push(version.clone());
        Ok(version)
    }
}

/// Drops the oldest version that is not the current one, if there are too many.
fn drop_oldest(plugin: &mut Plugin) -> Option<PluginVersion> {
    if plugin.versions.len() <= VERSIONS_MAX {
        return None;
    }
    let current = plugin.current().map(|current| current.digest.clone());
    let oldest = plugin.versions.iter().position(|version| Some(&version.digest) != current.as_ref());
    Some(plugin.versions.remove(oldest.unwrap_or(0)))
}

impl Registry {
    pub fn new(sandbox: Arc<Sandbox>, plugins: Arc<dyn PluginStore>, clock: Arc<dyn Clock>) -> Self {
        Registry { sandbox, plugins, clock, home: None, changes: Arc::default() }
    }

    /// Never grants a directory that has `home` in it, or lies within it.
    #[must_use]
    pub fn protecting(self, home: &Path) -> Self {
        Registry { home: Some(home.canonicalize().unwrap_or_else(|_| home.to_owned())), ..self }
    }

    /// Registers a component under a name. It becomes the current version, unless it asks for
    /// something that it is not granted: then it waits for [`Registry::grant`]. The same component
    /// again only becomes current; a label that another version has is refused.
    pub async fn add(&self, name: PluginName, add: AddPlugin, bytes: Vec<u8>) -> Result<PluginVersion> {
        if let Some(label) = &add.label {
            check_label(label).map_err(|reason| Invalid::new("version label", label, reason))?;
        }
        if let Some(grants) = &add.grants {
            self.check(grants)?;
        }
        let _change = self.changes.lock().await;
        let component = self.inspect(bytes, add.retry).await?;
        // Another node may change the plugin meanwhile.
        loop {
            let before = self.plugins.get(&name).await?;
            let mut plugin = before.clone().unwrap_or_else(|| Plugin { name: name.clone(), versions: Vec::new() });
            let version = component.join(&mut plugin, &add, self.clock.now())?;
            let dropped = drop_oldest(&mut plugin);
            if self.plugins.replace(before.as_ref(), plugin).await? {
                dropped.iter().for_each(|dropped| self.sandbox.forget(&dropped.digest));
                return Ok(version);
            }
        }
    }

    /// Finds out what a component is, and stores its bytes.
    async fn inspect(&self, bytes: Vec<u8>, retry: bool) -> Result<Inspected> {
        let digest = digest(&bytes);
        let (interface, bytes) = {
            let (sandbox, digest) = (self.sandbox.clone(), digest.clone());
            let inspect = move || {
                if retry {
                    sandbox.forget(&digest);
                }
                sandbox.inspect(&bytes).map(|interface| (interface, bytes))
            };
            tokio::task::spawn_blocking(inspect)
                .await
                .map_err(|e| Error::host("inspecting a plugin broke off", e))??
        };
        self.plugins.put_component(&digest, &bytes).await?;
        Ok(Inspected { digest: digest.into(), size: bytes.len() as u64, interface })
    }

    /// Grants the newest version of a plugin, or the one with a digest that begins so, exactly this,
    /// and says whether it is audited. Jobs of the plugin are for the caller to look at.
    pub async fn grant(
        &self,
        name: &PluginName,
        digest: Option<&str>,
        audit: bool,
        change: impl Fn(&Grants) -> Grants,
    ) -> Result<PluginVersion> {
        let _change = self.changes.lock().await;
        loop {
            let before = self.get(name).await?;
            let mut plugin = before.clone();
            let wanted = |version: &&mut PluginVersion| digest.is_none_or(|prefix| version.digest.starts_with(prefix));
            let Some(version) = plugin.versions.iter_mut().rev().find(wanted) else {
                let reason = "the plugin has no version with this digest (`sandclock plugin show` lists them)";
                return Err(Invalid::new("digest", digest.unwrap_or_default(), reason).into());
            };
            let grants = change(&version.grants);
            self.check(&grants)?;
            (version.grants, version.audit) = (grants.into(), audit);
            let version = version.clone();
            if self.plugins.replace(Some(&before), plugin).await? {
                return Ok(version);
            }
        }
    }

    /// What must hold of grants on this machine.
    fn check(&self, grants: &Grants) -> Result<()> {
        grants.validate()?;
        grants.dirs.iter().try_for_each(|dir| self.check_dir(dir)).map_err(Error::Invalid)
    }

    fn check_dir(&self, dir: &DirGrant) -> Result<(), Invalid> {
        let bad = |reason: String| Err(Invalid::new("directory", dir.to_string(), reason));
        let real = match Path::new(&dir.host).canonicalize() {
            Ok(real) if real.is_dir() => real,
            Ok(_) => return bad("it is no directory".into()),
            Err(error) => return bad(format!("it cannot be found: {error}")),
        };
        if real != Path::new(&dir.host) {
            return bad(format!("there is a link in it; its own path is `{}`", real.display()));
        }
        if self.home.as_ref().is_some_and(|home| home.starts_with(&real) || real.starts_with(home)) {
            return bad("Sandclock keeps its own things there".into());
        }
        Ok(())
    }

    pub async fn get(&self, name: &PluginName) -> Result<Plugin> {
        self.plugins.get(name).await?.ok_or_else(|| Error::PluginNotFound(name.clone()))
    }

    /// What jobs can call of a plugin's current version.
    pub async fn functions(&self, name: &PluginName) -> Result<Vec<Function>> {
        let plugin = self.get(name).await?;
        let Some(digest) = plugin.current().map(|version| version.digest.clone()) else { return Ok(Vec::new()) };
        let bytes = self.plugins.required_component(&digest).await?;
        let sandbox = self.sandbox.clone();
        let work = move || sandbox.functions(&digest, &bytes);
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::host("loading a plugin broke off", e))?
    }

    /// The bytes of a component, verified.
    pub async fn component(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        self.plugins.component(digest).await
    }

    /// How components were had since the start.
    pub fn cache_counts(&self) -> [(&'static str, u64); 3] {
        self.sandbox.cache_counts()
    }

    /// All plugins, by name.
    pub async fn list(&self) -> Result<Vec<Plugin>> {
        self.plugins.list().await
    }

    /// Removes a plugin and the compiled code of its versions. Whether jobs use it is for the caller
    /// to ask.
    pub async fn remove(&self, name: &PluginName) -> Result<()> {
        let _change = self.changes.lock().await;
        let plugin = self.get(name).await?;
        self.plugins.remove(name).await?;
        let others = self.plugins.list().await?;
        for version in plugin.versions {
            let used = others.iter().flat_map(|other| &other.versions).any(|other| other.digest == version.digest);
            if !used {
                self.sandbox.forget(&version.digest);
            }
        }
        Ok(())
    }
}

//! Registering plugins: inspected, stored by digest, one more version of a name.

use super::{Sandbox, digest};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::func::{PluginName, check_label};
use crate::invalid::Invalid;
use crate::plugin::{Plugin, PluginVersion, VERSIONS_MAX};
use crate::store::PluginStore;
use std::sync::Arc;

/// The plugins of one installation.
#[derive(Clone)]
pub struct Registry {
    sandbox: Arc<Sandbox>,
    plugins: Arc<dyn PluginStore>,
    clock: Arc<dyn Clock>,
    /// One registration at a time: a component must not be dropped as unused before its plugin is
    /// written.
    changes: Arc<tokio::sync::Mutex<()>>,
}

impl Registry {
    pub fn new(sandbox: Arc<Sandbox>, plugins: Arc<dyn PluginStore>, clock: Arc<dyn Clock>) -> Self {
        Registry { sandbox, plugins, clock, changes: Arc::default() }
    }

    /// Registers a component under a name and makes it the current version. The same component
    /// again only becomes current; a label that another version has is refused.
    pub async fn add(&self, name: PluginName, label: Option<String>, bytes: Vec<u8>) -> Result<PluginVersion> {
        if let Some(label) = &label {
            check_label(label).map_err(|reason| Invalid::new("version label", label, reason))?;
        }
        let _change = self.changes.lock().await;
        let digest = digest(&bytes);
        let mut plugin = self.plugins.get(&name).await?.unwrap_or_else(|| Plugin { name, versions: Vec::new() });
        let taken = |version: &&PluginVersion| label.is_some() && version.label == label && *version.digest != *digest;
        if let Some(other) = plugin.versions.iter().find(taken) {
            let reason = format!("component {} has it already", &other.digest[..12]);
            return Err(Error::Invalid(Invalid::new("version label", label.unwrap_or_default(), reason)));
        }
        let (interface, bytes) = {
            let sandbox = self.sandbox.clone();
            let inspect = move || sandbox.inspect(&bytes).map(|interface| (interface, bytes));
            tokio::task::spawn_blocking(inspect)
                .await
                .map_err(|e| Error::host("inspecting a plugin broke off", e))??
        };
        let size = bytes.len() as u64;
        self.plugins.put_component(&digest, &bytes).await?;
        // The same component again keeps the labels by which jobs may have pinned it.
        let again = |version: &PluginVersion| {
            *version.digest == *digest && (label.is_none() || version.label.is_none() || version.label == label)
        };
        let before = plugin.versions.iter().position(again).map(|at| plugin.versions.remove(at));
        let label = label.or(before.and_then(|before| before.label));
        let version = PluginVersion { digest: digest.into(), label, size, added: self.clock.now(), interface };
        plugin.versions.push(version.clone());
        if plugin.versions.len() > VERSIONS_MAX {
            let dropped = plugin.versions.remove(0);
            self.sandbox.forget(&dropped.digest);
        }
        self.plugins.put(plugin).await?;
        Ok(version)
    }

    pub async fn get(&self, name: &PluginName) -> Result<Plugin> {
        self.plugins.get(name).await?.ok_or_else(|| Error::PluginNotFound(name.clone()))
    }

    /// The bytes of a component, verified.
    pub async fn component(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        self.plugins.component(digest).await
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

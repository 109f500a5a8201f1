//! The smaller things that a home keeps: plugins, listeners, secrets. Each is a value in pieces under
//! its name.

use super::codec::prefix;
use super::disk::{LISTENER, PLUGIN, SECRET, Writes};
use super::{Open, SledStore, component, joined, plugins};
use crate::error::{Error, Result};
use crate::func::{FuncRef, PluginName};
use crate::grant::SecretName;
use crate::job::Alias;
use crate::listener::{Listener, Progress};
use crate::plugin::Plugin;
use crate::secret::Secret;
use crate::store::{Component, ListenerStore, PluginStore, SecretStore};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::sync::PoisonError;

#[async_trait]
impl PluginStore for SledStore {
    async fn replace(&self, before: Option<&Plugin>, plugin: Plugin) -> Result<bool> {
        let (home, before) = (self.home.clone(), before.cloned());
        self.write(move |open| {
            if plugins(&open.plugins).get(&plugin.name) != before.as_ref() {
                return Ok(false);
            }
            let mut writes = Writes::default();
            let bytes = serde_json::to_vec(&plugin).map_err(|e| Error::host("cannot encode a plugin", e))?;
            open.put_pieces(PLUGIN, plugin.name.as_str().as_bytes(), Some(&bytes), &mut writes)?;
            open.disk.commit(writes)?;
            open.plugins.write().unwrap_or_else(PoisonError::into_inner).insert(plugin.name.clone(), plugin);
            component::drop_unused(&home, plugins(&open.plugins).values());
            open.changed = true;
            Ok(true)
        })
        .await
    }

    async fn get(&self, name: &PluginName) -> Result<Option<Plugin>> {
        Ok(plugins(&self.plugins).get(name).cloned())
    }

    async fn list(&self) -> Result<Vec<Plugin>> {
        Ok(plugins(&self.plugins).values().cloned().collect())
    }

    async fn resolve(&self, func: &FuncRef) -> Result<Component> {
        crate::store::resolve(plugins(&self.plugins).get(&func.module), func)
    }

    async fn remove(&self, name: &PluginName) -> Result<bool> {
        let (home, name) = (self.home.clone(), name.clone());
        self.write(move |open| {
            if !plugins(&open.plugins).contains_key(&name) {
                return Ok(false);
            }
            let mut writes = Writes::default();
            open.put_pieces(PLUGIN, name.as_str().as_bytes(), None, &mut writes)?;
            open.disk.commit(writes)?;
            open.plugins.write().unwrap_or_else(PoisonError::into_inner).remove(&name);
            component::drop_unused(&home, plugins(&open.plugins).values());
            open.changed = true;
            Ok(true)
        })
        .await
    }

    async fn put_component(&self, digest: &str, bytes: &[u8]) -> Result<()> {
        let (home, digest, bytes) = (self.home.clone(), digest.to_owned(), bytes.to_vec());
        let work = move || component::write(&home, &digest, &bytes);
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Error::host("storing a component broke off", e)))
    }

    async fn component(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        let (home, digest) = (self.home.clone(), digest.to_owned());
        let work = move || component::read(&home, &digest);
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Error::host("reading a component broke off", e)))
    }
}

/// A listener on disk.
#[derive(Serialize, Deserialize)]
struct StoredListener {
    listener: Listener,
    progress: Progress,
}

#[async_trait]
impl ListenerStore for SledStore {
    async fn put_listener(&self, listener: &Listener, progress: &Progress) -> Result<()> {
        let stored = StoredListener { listener: listener.clone(), progress: progress.clone() };
        self.write(move |open| {
            let bytes = serde_json::to_vec(&stored).map_err(|e| Error::host("cannot encode a listener", e))?;
            let (writes, _) = open.put_one(LISTENER, stored.listener.name.as_str(), Some(&bytes))?;
            open.disk.commit(writes)
        })
        .await
    }

    async fn list_listeners(&self) -> Result<Vec<(Listener, Progress)>> {
        self.read(|open| {
            let decode = |bytes: Vec<u8>| serde_json::from_slice::<StoredListener>(&bytes).ok();
            let stored = joined(&open.disk, LISTENER)?.into_values().filter_map(decode);
            Ok(stored.map(|stored| (stored.listener, stored.progress)).collect())
        })
        .await
    }

    async fn remove_listener(&self, name: &Alias) -> Result<bool> {
        let name = name.clone();
        self.write(move |open| {
            let (writes, known) = open.put_one(LISTENER, name.as_str(), None)?;
            if known { open.disk.commit(writes).map(|()| true) } else { Ok(false) }
        })
        .await
    }
}

impl Open {
    /// Replaces one value of a tree, or removes it. False if there was none to remove.
    fn put_one(&self, tree: usize, key: &str, bytes: Option<&[u8]>) -> Result<(Writes, bool)> {
        let mut writes = Writes::default();
        let known = self.disk.tree(tree).scan_prefix(prefix(key.as_bytes())).next().is_some();
        self.put_pieces(tree, key.as_bytes(), bytes, &mut writes)?;
        Ok((writes, known))
    }
}

#[async_trait]
impl SecretStore for SledStore {
    async fn put_secret(&self, name: &SecretName, secret: Secret) -> Result<()> {
        let name = name.clone();
        self.write(move |open| {
            let (writes, _) = open.put_one(SECRET, name.as_str(), Some(secret.reveal().as_bytes()))?;
            open.disk.commit(writes)
        })
        .await
    }

    async fn secret(&self, name: &SecretName) -> Result<Option<Secret>> {
        let name = name.clone();
        self.read(move |open| {
            let bytes = super::value_of(&open.disk, SECRET, name.as_str().as_bytes())?;
            Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()).map(|text| Secret::from(text.as_str())))
        })
        .await
    }

    async fn list_secrets(&self) -> Result<Vec<SecretName>> {
        self.read(|open| {
            let name = |key: Vec<u8>| String::from_utf8(key).ok()?.parse().ok();
            Ok(joined(&open.disk, SECRET)?.into_keys().filter_map(name).collect())
        })
        .await
    }

    async fn remove_secret(&self, name: &SecretName) -> Result<bool> {
        let name = name.clone();
        self.write(move |open| {
            let (writes, known) = open.put_one(SECRET, name.as_str(), None)?;
            if known { open.disk.commit(writes).map(|()| true) } else { Ok(false) }
        })
        .await
    }
}

//! Plugins, secrets and listeners of a shared store: records by name. Plugins are kept in memory, and
//! read again when their number in the database has changed, which every turn looks at.

use super::database::{Database, Kind};
use super::{SharedStore, codec::encode};
use crate::error::Result;
use crate::func::{FuncRef, PluginName};
use crate::grant::SecretName;
use crate::job::Alias;
use crate::listener::{Listener, Progress};
use crate::plugin::{self, Plugin};
use crate::secret::Secret;
use crate::store::{Component, ListenerStore, PluginStore, SecretStore};
use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

/// How long a component may be there before its plugin is: another node may be registering it.
const COMPONENT_AGE: Duration = Duration::from_secs(600);

/// A record, unless it is damaged, which stops no other one.
fn decode<T: DeserializeOwned>(kind: &str, name: &str, bytes: &[u8]) -> Option<T> {
    let decoded = serde_json::from_slice(bytes);
    if let Err(error) = &decoded {
        tracing::error!(%error, "{kind} `{name}` is damaged and is passed over; what replaces it mends it");
    }
    decoded.ok()
}

/// What is known of plugins, and at which number of the catalog.
pub struct Plugins(RwLock<(u64, BTreeMap<PluginName, Plugin>)>);

impl Plugins {
    pub async fn load<D: Database>(database: &D) -> Result<Self> {
        let plugins = Plugins(RwLock::new((u64::MAX, BTreeMap::new())));
        plugins.refresh(database, database.catalog().await?).await?;
        Ok(plugins)
    }

    /// Reads them again if the catalog has another number.
    pub async fn refresh<D: Database>(&self, database: &D, catalog: u64) -> Result<()> {
        if self.0.read().unwrap_or_else(PoisonError::into_inner).0 == catalog {
            return Ok(());
        }
        let mut plugins = BTreeMap::new();
        for (name, bytes) in database.records(Kind::Plugin).await? {
            if let Some(plugin) = decode::<Plugin>("plugin", &name, &bytes) {
                plugins.insert(plugin.name.clone(), plugin);
            }
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have read later ones meanwhile.
        if known.0 == u64::MAX || known.0 < catalog {
            *known = (catalog, plugins);
        }
        Ok(())
    }

    fn get(&self, name: &PluginName) -> Option<Plugin> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).1.get(name).cloned()
    }
}

impl<D: Database> SharedStore<D> {
    async fn fresh(&self) -> Result<&Plugins> {
        let database = self.open_database()?;
        self.plugins.refresh(database, database.catalog().await?).await?;
        Ok(&self.plugins)
    }

    /// Removes components that no plugin refers to.
    async fn drop_unused(&self) -> Result<()> {
        let plugins = self.list().await?;
        let used: HashSet<&str> =
            plugins.iter().flat_map(|plugin| &plugin.versions).map(|version| &*version.digest).collect();
        let database = self.open_database()?;
        for digest in database.keys(Kind::Component, COMPONENT_AGE).await? {
            if !used.contains(digest.as_str()) {
                database.remove_record(Kind::Component, &digest).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl<D: Database> PluginStore for SharedStore<D> {
    async fn replace(&self, before: Option<&Plugin>, plugin: Plugin) -> Result<bool> {
        let database = self.open_database()?;
        let name = plugin.name.as_str();
        let stored = database.record(Kind::Plugin, name).await?;
        let known = stored.as_ref().and_then(|bytes| decode::<Plugin>("plugin", name, bytes));
        if known.as_ref() != before
            || !database.replace_record(Kind::Plugin, name, stored.as_deref(), &encode(&plugin)?).await?
        {
            return Ok(false);
        }
        self.fresh().await?;
        database.hint().await;
        self.drop_unused().await.map(|()| true)
    }

    async fn get(&self, name: &PluginName) -> Result<Option<Plugin>> {
        Ok(self.fresh().await?.get(name))
    }

    async fn list(&self) -> Result<Vec<Plugin>> {
        let plugins = self.fresh().await?;
        Ok(plugins.0.read().unwrap_or_else(PoisonError::into_inner).1.values().cloned().collect())
    }

    async fn resolve(&self, func: &FuncRef) -> Result<Component> {
        // As it was when the run was claimed, or later: the turn saw to that.
        crate::store::resolve(self.plugins.get(&func.module).as_ref(), func)
    }

    async fn remove(&self, name: &PluginName) -> Result<bool> {
        let database = self.open_database()?;
        let known = database.remove_record(Kind::Plugin, name.as_str()).await?;
        self.fresh().await?;
        database.hint().await;
        self.drop_unused().await?;
        Ok(known)
    }

    async fn put_component(&self, digest: &str, bytes: &[u8]) -> Result<()> {
        self.open_database()?.put_record(Kind::Component, digest, bytes).await
    }

    async fn component(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        let bytes = self.open_database()?.record(Kind::Component, digest).await?;
        Ok(bytes.filter(|bytes| {
            let sound = plugin::digest(bytes) == digest;
            if !sound {
                tracing::error!(digest, "a stored component does not have its digest and is ignored");
            }
            sound
        }))
    }
}

#[async_trait]
impl<D: Database> SecretStore for SharedStore<D> {
    async fn put_secret(&self, name: &SecretName, secret: Secret) -> Result<()> {
        self.open_database()?.put_record(Kind::Secret, name.as_str(), secret.reveal().as_bytes()).await
    }

    async fn secret(&self, name: &SecretName) -> Result<Option<Secret>> {
        let bytes = self.open_database()?.record(Kind::Secret, name.as_str()).await?;
        Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()).map(|text| Secret::from(text.as_str())))
    }

    async fn list_secrets(&self) -> Result<Vec<SecretName>> {
        let keys = self.open_database()?.keys(Kind::Secret, Duration::ZERO).await?;
        Ok(keys.iter().filter_map(|name| name.parse().ok()).collect())
    }

    async fn remove_secret(&self, name: &SecretName) -> Result<bool> {
        self.open_database()?.remove_record(Kind::Secret, name.as_str()).await
    }
}

/// A listener as a record.
#[derive(Serialize, Deserialize)]
struct StoredListener {
    listener: Listener,
    progress: Progress,
}

#[async_trait]
impl<D: Database> ListenerStore for SharedStore<D> {
    async fn put_listener(&self, listener: &Listener, progress: &Progress) -> Result<()> {
        let stored = StoredListener { listener: listener.clone(), progress: progress.clone() };
        let bytes = encode(&stored)?;
        self.open_database()?.put_record(Kind::Listener, listener.name.as_str(), &bytes).await
    }

    async fn put_progress(&self, listener: &Listener, progress: &Progress) -> Result<bool> {
        let (database, name) = (self.open_database()?, listener.name.as_str());
        let Some(before) = database.record(Kind::Listener, name).await? else { return Ok(false) };
        let stored = decode::<StoredListener>("listener", name, &before);
        let same =
            |stored: StoredListener| stored.listener == *listener && stored.progress.generation == progress.generation;
        if !stored.is_some_and(same) {
            return Ok(false);
        }
        let stored = StoredListener { listener: listener.clone(), progress: progress.clone() };
        database.replace_record(Kind::Listener, name, Some(&before), &encode(&stored)?).await
    }

    async fn list_listeners(&self) -> Result<Vec<(Listener, Progress)>> {
        let records = self.open_database()?.records(Kind::Listener).await?;
        let decoded = records.iter().filter_map(|(name, bytes)| decode::<StoredListener>("listener", name, bytes));
        Ok(decoded.map(|stored| (stored.listener, stored.progress)).collect())
    }

    async fn remove_listener(&self, name: &Alias) -> Result<bool> {
        self.open_database()?.remove_record(Kind::Listener, name.as_str()).await
    }
}

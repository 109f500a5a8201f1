//! Which store a URL means: the home's own, or a database that several nodes share.

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::invalid::Invalid;
use crate::lease::Lease;
use crate::store::{
    Backup, Database, HomeLock, JobStore, ListenerStore, Nodes, PluginStore, SecretStore, SharedOptions, SharedStore,
    SledOptions, SledStore,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A store that is open, by what it is asked.
pub struct Opened {
    pub jobs: Arc<dyn JobStore>,
    pub plugins: Arc<dyn PluginStore>,
    pub secrets: Arc<dyn SecretStore>,
    pub listeners: Arc<dyn ListenerStore>,
    pub clock: Arc<dyn Clock>,
    /// Until when this process may act.
    pub lease: Lease,
    /// One in the home can be copied.
    pub backup: Option<Arc<dyn Backup>>,
    /// One in a database is shared by these.
    pub nodes: Option<Arc<dyn Nodes>>,
    /// Held so that a home has one process at a time, wherever its jobs are.
    pub lock: Option<Arc<HomeLock>>,
}

/// Whether a URL is one of a store that this program can open.
pub fn check_url(url: &str) -> std::result::Result<(), Invalid> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    // The rest may hold a password, and so may what has no scheme.
    let named = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+');
    let shown = if named { format!("{scheme}://…") } else { "…".to_owned() };
    let refused = |reason: String| Invalid::new("store", shown.as_str(), reason);
    let built = [
        ("postgres", "postgres", cfg!(feature = "postgres")),
        ("postgresql", "postgres", cfg!(feature = "postgres")),
        ("mysql", "mysql", cfg!(feature = "mysql")),
        ("sqlite", "sqlite", cfg!(feature = "sqlite")),
        ("redis", "redis", cfg!(feature = "redis")),
        ("rediss", "redis", cfg!(feature = "redis")),
    ];
    match built.iter().find(|(name, ..)| *name == scheme) {
        Some((.., true)) => Ok(()),
        Some((_, feature, false)) => {
            Err(refused(format!("this program was built without it (`--features {feature}`)")))
        }
        None => Err(refused("it is none that there is".into())
            .hint("`postgres://user:password@host/database`, `mysql://…`, `redis://…` or `sqlite:///path/to/file`")),
    }
}

/// Whether the store of a URL is a server, which may be away for a while.
pub fn is_remote(url: &str) -> bool {
    !url.starts_with("sqlite:")
}

/// A store's URL as it may be shown: without what comes before the host, which may be a password, and
/// without parameters.
pub fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let plain = rest.split(['?', '#']).next().unwrap_or_default();
    match (plain.rsplit_once('@'), rest.contains('@')) {
        (Some((_, place)), _) => format!("{scheme}://{place}"),
        (None, false) => format!("{scheme}://{plain}"),
        // Who knows what is a password here.
        (None, true) => format!("{scheme}://…"),
    }
}

/// Opens the store at a URL, or the home's own.
pub async fn open(url: Option<&str>, home: &Path, node: &str, lease: Duration) -> Result<Opened> {
    let Some(url) = url else { return open_home(home, node).await };
    check_url(url)?;
    let lock = HomeLock::take(home)?;
    let options = SharedOptions { node: node.to_owned(), lease, ..SharedOptions::default() };
    let opened = connect(url, options).await.map_err(|error| match error {
        Error::StoreFailed { what, source } => Error::StoreFailed { what: format!("{what} ({})", shown(url)), source },
        error => error,
    })?;
    Ok(Opened { lock: Some(Arc::new(lock)), ..opened })
}

/// Opens the store of a URL that is one of those that this program can open.
async fn connect(url: &str, options: SharedOptions) -> Result<Opened> {
    #[cfg(not(any(feature = "mysql", feature = "postgres", feature = "redis", feature = "sqlite")))]
    drop(options);
    match url.split_once("://") {
        #[cfg(feature = "postgres")]
        Some(("postgres" | "postgresql", _)) => crate::store::PostgresStore::connect(url, options).await.map(shared),
        #[cfg(feature = "mysql")]
        Some(("mysql", _)) => crate::store::MysqlStore::connect(url, options).await.map(shared),
        #[cfg(feature = "sqlite")]
        Some(("sqlite", _)) => crate::store::SqliteStore::connect(url, options).await.map(shared),
        #[cfg(feature = "redis")]
        Some(("redis" | "rediss", _)) => crate::store::RedisStore::connect(url, options).await.map(shared),
        _ => unreachable!("`check_url` refuses what is not built in"),
    }
}

async fn open_home(home: &Path, node: &str) -> Result<Opened> {
    let clock = SystemClock;
    let (home, node, now) = (home.to_owned(), node.to_owned(), clock.now());
    let opening = move || SledStore::open(&home, SledOptions { node, ..SledOptions::default() }, now);
    let opened = tokio::task::spawn_blocking(opening).await.map_err(|e| Error::host("opening broke off", e))?;
    let store = Arc::new(opened?);
    Ok(Opened {
        jobs: store.clone(),
        plugins: store.clone(),
        secrets: store.clone(),
        listeners: store.clone(),
        clock: Arc::new(clock),
        lease: Lease::forever(),
        backup: Some(store),
        nodes: None,
        lock: None,
    })
}

#[cfg_attr(not(any(feature = "mysql", feature = "postgres", feature = "redis", feature = "sqlite")), allow(dead_code))]
fn shared<D: Database>(store: SharedStore<D>) -> Opened {
    let store = Arc::new(store);
    Opened {
        jobs: store.clone(),
        plugins: store.clone(),
        secrets: store.clone(),
        listeners: store.clone(),
        clock: Arc::new(store.clock()),
        lease: store.lease(),
        backup: None,
        nodes: Some(store),
        lock: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for (url, expected) in [
            ("postgres://u:secret@host:5432/db?sslmode=require&password=secret", "postgres://host:5432/db"),
            ("postgres://u:sec/ret@host/db", "postgres://host/db"),
            ("postgres://u:se?cret@host/db", "postgres://…"),
            ("postgres://u:se#c@ret@host/db", "postgres://…"),
            ("postgres:///db?host=/run&password=secret", "postgres:///db"),
            ("redis://:secret@host/0", "redis://host/0"),
            ("sqlite:///var/lib/jobs.db", "sqlite:///var/lib/jobs.db"),
        ] {
            assert_eq!(shown(url), expected, "{url}");
        }
    }

    #[test]
    fn nor_is_that_of_a_url_that_is_none() {
        for url in ["u:secret@host/db", "postgres:/u:secret@host/db", "postgres//u:secret@host", "u:secret://host", ""]
        {
            let refused = check_url(url).unwrap_err().to_string();
            assert!(refused.starts_with("invalid store `…`: ") && !refused.contains("secret"), "{refused}");
        }
        assert!(
            check_url("oracle://u:secret@host").unwrap_err().to_string().starts_with("invalid store `oracle://…`: ")
        );
    }
}

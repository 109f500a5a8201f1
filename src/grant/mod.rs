//! What a plugin may reach beyond computing: granted when it is registered, bound to the component's
//! digest, narrowed by jobs. Without a grant there is nothing.

mod address;
mod form;
mod suggest;

pub use address::{Network, special};
pub use form::{DirGrant, HttpGrant, Pick, SecretGrant, SecretName};
pub use suggest::{Change, Learned, Line, RUNS_FEW, Suggestion, suggest};

use crate::invalid::Invalid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Grants of one kind that a plugin may have.
pub const GRANTS_MAX: usize = 64;
/// Longest environment variable, in bytes: a name, a value.
pub const ENV_BYTES_MAX: usize = 32 << 10;

/// What can be granted. A component that imports the interface of one of the first three cannot be
/// scheduled without the grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Outgoing HTTP to named hosts and ports: `wasi:http`.
    Http,
    /// A job's own key-value state: `sandclock:plugin/state`.
    State,
    /// Secrets by name: `sandclock:plugin/secrets`.
    Secrets,
    Env,
    Files,
}

impl Capability {
    pub const ALL: [Capability; 5] =
        [Capability::Http, Capability::State, Capability::Secrets, Capability::Env, Capability::Files];

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Capability::Http => "outgoing HTTP",
            Capability::State => "a key-value state",
            Capability::Secrets => "secrets",
            Capability::Env => "environment variables",
            Capability::Files => "directories",
        }
    }

    /// The flag of `plugin add` and `plugin grant` that grants it.
    pub fn flag(self) -> &'static str {
        match self {
            Capability::Http => "--allow-http HOST[:PORT]",
            Capability::State => "--allow-state",
            Capability::Secrets => "--secret NAME",
            Capability::Env => "--allow-env NAME=VALUE",
            Capability::Files => "--allow-dir HOST-DIR:GUEST-DIR[:rw]",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Capability::Http => "http",
            Capability::State => "state",
            Capability::Secrets => "secrets",
            Capability::Env => "env",
            Capability::Files => "files",
        })
    }
}

/// What one version of a plugin was granted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<HttpGrant>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dirs: Vec<DirGrant>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub state: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretGrant>,
}

impl Grants {
    pub fn is_empty(&self) -> bool {
        *self == Grants::default()
    }

    /// Whether something of this kind is granted.
    pub fn has(&self, capability: Capability) -> bool {
        match capability {
            Capability::Http => !self.http.is_empty(),
            Capability::State => self.state,
            Capability::Secrets => !self.secrets.is_empty(),
            Capability::Env => !self.env.is_empty(),
            Capability::Files => !self.dirs.is_empty(),
        }
    }

    /// The grant for requests to a host and port, if there is one.
    pub fn http(&self, host: &str, port: u16) -> Option<&HttpGrant> {
        self.http.iter().find(|grant| grant.matches(host, port))
    }

    /// Adds what another one has; of what has the same name, the other's counts.
    pub fn merge(&mut self, other: Grants) {
        self.http.retain(|old| !other.http.iter().any(|new| (new.host(), new.port()) == (old.host(), old.port())));
        self.http.extend(other.http);
        self.env.extend(other.env);
        self.dirs.retain(|old| !other.dirs.iter().any(|new| new.guest == old.guest));
        self.dirs.extend(other.dirs);
        self.state |= other.state;
        self.secrets.retain(|old| !other.secrets.iter().any(|new| new.name == old.name));
        self.secrets.extend(other.secrets);
    }

    /// Only what a component that imports `asks` can use: an interface that it dropped is not granted
    /// to a later version that has it again.
    #[must_use]
    pub fn for_imports(mut self, asks: &[Capability]) -> Self {
        if !asks.contains(&Capability::Http) {
            self.http.clear();
        }
        self.state &= asks.contains(&Capability::State);
        self.secrets.retain(|secret| {
            if secret.host.is_some() { asks.contains(&Capability::Http) } else { asks.contains(&Capability::Secrets) }
        });
        self
    }

    /// What a component asks for and these grants do not give.
    pub fn missing(&self, asks: &[Capability]) -> Vec<Capability> {
        asks.iter().copied().filter(|asked| !self.has(*asked)).collect()
    }

    /// The part of these grants that a job names. Errors: a name of something that is not granted.
    pub fn narrowed(&self, picks: &[Pick]) -> Result<Grants, Invalid> {
        let mut narrow = Grants::default();
        for pick in picks {
            let not_granted = || {
                Invalid::new("grant", pick.to_string(), "its plugin was not granted this")
                    .hint("a job narrows what its plugin has: `sandclock plugin grants NAME` shows it")
            };
            match pick {
                Pick::Http { host, port } => {
                    narrow.http.push(self.http(host, *port).ok_or_else(not_granted)?.clone());
                }
                Pick::Env(name) => {
                    let value = self.env.get(name).ok_or_else(not_granted)?;
                    narrow.env.insert(name.clone(), value.clone());
                }
                Pick::Dir { guest, writable } => {
                    let dir = self.dirs.iter().find(|dir| dir.guest == *guest && (dir.writable || !writable));
                    narrow.dirs.push(DirGrant { writable: *writable, ..dir.ok_or_else(not_granted)?.clone() });
                }
                Pick::State => narrow.state = Some(self.state).filter(|state| *state).ok_or_else(not_granted)?,
                Pick::Secret(name) => {
                    let secret = self.secrets.iter().find(|secret| secret.name == *name);
                    narrow.secrets.push(secret.ok_or_else(not_granted)?.clone());
                }
            }
        }
        Ok(narrow)
    }

    /// The same as names that a job may pick.
    pub fn picks(&self) -> Vec<Pick> {
        let http = self.http.iter().map(|grant| Pick::Http { host: grant.host().to_owned(), port: grant.port() });
        let env = self.env.keys().cloned().map(Pick::Env);
        let dirs = self.dirs.iter().map(|dir| Pick::Dir { guest: dir.guest.clone(), writable: dir.writable });
        let state = self.state.then_some(Pick::State);
        let secrets = self.secrets.iter().map(|secret| Pick::Secret(secret.name.clone()));
        http.chain(env).chain(dirs).chain(state).chain(secrets).collect()
    }

    /// The rules that need nothing but the grants.
    pub fn validate(&self) -> Result<(), Invalid> {
        let counts = [self.http.len(), self.env.len(), self.dirs.len(), self.secrets.len()];
        if counts.iter().any(|count| *count > GRANTS_MAX) {
            return Err(Invalid::new("grants", "", format!("there are more than {GRANTS_MAX} of one kind")));
        }
        for (name, value) in &self.env {
            form::check_env(name, value)?;
        }
        for (at, dir) in self.dirs.iter().enumerate() {
            for other in &self.dirs[..at] {
                form::check_apart(dir, other)?;
            }
        }
        for secret in &self.secrets {
            let Some((host, port)) = &secret.host else { continue };
            if self.http(host, *port).is_none() {
                let reason = format!("its host has no grant (add `--allow-http {host}:{port}`)");
                return Err(Invalid::new("secret", secret.to_string(), reason));
            }
        }
        Ok(())
    }
}

/// Something that a guest reached for, and whether it got it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Use {
    /// As a job would pick it: `http:api.example.org:443`.
    pub what: Pick,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants() -> Grants {
        Grants {
            http: vec!["api.example.org".parse().unwrap(), "10.1.2.3:8080".parse().unwrap()],
            env: [("TZ".to_owned(), "UTC".to_owned())].into(),
            dirs: vec!["/srv/data:/data:rw".parse().unwrap()],
            state: true,
            secrets: vec!["token@api.example.org".parse().unwrap()],
        }
    }

    #[test]
    fn they_survive_json() {
        let json = serde_json::to_string(&grants()).unwrap();
        assert_eq!(serde_json::from_str::<Grants>(&json).unwrap(), grants());
        assert_eq!(serde_json::to_string(&Grants::default()).unwrap(), "{}");
    }

    #[test]
    fn a_job_narrows_and_never_widens() {
        let narrowed = |picks: &[&str]| {
            let picks: Vec<Pick> = picks.iter().map(|pick| pick.parse().unwrap()).collect();
            grants().narrowed(&picks)
        };
        assert_eq!(narrowed(&[]).unwrap(), Grants::default());
        let narrow = narrowed(&["http:api.example.org", "dir:/data:ro"]).unwrap();
        assert_eq!((narrow.http.len(), narrow.dirs[0].writable, narrow.state), (1, false, false));
        let all: Vec<String> = grants().picks().iter().map(ToString::to_string).collect();
        assert_eq!(narrowed(&all.iter().map(String::as_str).collect::<Vec<_>>()).unwrap(), grants());
        for other in ["http:api.example.org:80", "http:example.org", "env:HOME", "dir:/", "secret:other"] {
            let error = narrowed(&[other]).unwrap_err().to_string();
            assert!(error.contains("was not granted"), "{error}");
        }
    }

    #[test]
    fn a_version_that_drops_an_import_loses_its_grants() {
        let kept = grants().for_imports(&[Capability::State]);
        assert_eq!((kept.http.len(), kept.secrets.len(), kept.state), (0, 0, true));
        assert_eq!(kept.missing(&[Capability::State, Capability::Http]), [Capability::Http]);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let mut overlapping = grants();
        overlapping.dirs.push("/srv/data/inner:/inner:ro".parse().unwrap());
        assert!(overlapping.validate().unwrap_err().to_string().contains("within"));
        let mut stray = grants();
        stray.secrets = vec!["token@other.example.org".parse().unwrap()];
        assert!(stray.validate().unwrap_err().to_string().contains("--allow-http other.example.org:443"));
        grants().validate().unwrap();
    }
}

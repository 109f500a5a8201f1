//! Who calls, and what they may do.

use super::gate::token::Credential;
use crate::plugin::Plugin;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;

/// What a caller may do; each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Ask whether the daemon lives, and sign in.
    #[default]
    None,
    /// Look.
    Read,
    /// Change jobs, runs, listeners and the scheduler. Whoever may use the socket has this.
    Operate,
    /// Register plugins, which have grants; change grants, secrets and tokens; take backups.
    Grant,
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// This process: a command without a daemon.
    Process { uid: u32 },
    /// A process of this machine, by the daemon's socket.
    Unix { uid: u32 },
    /// A connection over TCP, and the port that it came to.
    Tcp { address: SocketAddr, port: u16 },
}

/// Who sent a request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// As the audit log has it: `uid 1000`, `token ci`.
    pub name: Arc<str>,
    pub access: Access,
    pub peer: Peer,
    /// What they came with, to be looked at again by what goes on for long.
    pub credential: Option<Credential>,
    /// The text of their session, if they came with one.
    pub session: Option<Arc<str>>,
}

impl Caller {
    /// Somebody who shows nothing but where they come from.
    pub fn of(peer: Peer) -> Self {
        let (name, access) = match peer {
            Peer::Process { uid } => (format!("uid {uid}"), Access::Grant),
            Peer::Unix { uid } => (format!("uid {uid}"), Access::Operate),
            Peer::Tcp { .. } => ("nobody".to_owned(), Access::None),
        };
        Caller { name: name.into(), access, peer, credential: None, session: None }
    }

    /// A plugin as this caller may see it: what its environment variables are is not for those who only
    /// look.
    pub fn shown(&self, mut plugin: Plugin) -> Plugin {
        if self.access < Access::Operate {
            for version in &mut plugin.versions {
                let grants = Arc::make_mut(&mut version.grants);
                grants.env.values_mut().for_each(|value| "(hidden)".clone_into(value));
            }
        }
        plugin
    }

    /// The same with what a token gives.
    #[must_use]
    pub fn with(self, credential: Credential) -> Self {
        let (token, access) = (&credential.token.name, credential.token.kind.access());
        let name = match self.peer {
            Peer::Process { uid } | Peer::Unix { uid } => format!("token {token}, uid {uid}"),
            Peer::Tcp { .. } => format!("token {token}"),
        };
        Caller { name: name.into(), access, credential: Some(credential), ..self }
    }
}

//! A plugin as it is registered: a name, and the versions of its component.

use crate::func::{FuncRef, PluginName, Version};
use crate::grant::{Capability, Grants};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Versions kept of one plugin; registering one more than this drops the oldest that is not current.
pub const VERSIONS_MAX: usize = 32;

/// A registered plugin. The last version that was granted all that it asks for is the current one; if
/// there is none, the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Plugin {
    pub name: PluginName,
    pub versions: Vec<PluginVersion>,
}

/// One component under a plugin's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PluginVersion {
    /// SHA-256 of the component, lower-case hexadecimal.
    pub digest: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Bytes.
    pub size: u64,
    pub added: DateTime<Utc>,
    #[serde(flatten)]
    pub interface: Interface,
    /// What it may reach.
    #[serde(default, skip_serializing_if = "is_none")]
    pub grants: Arc<Grants>,
    /// It is watched: what it is not granted is linked all the same, denied when it is used, and
    /// recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
}

impl PluginVersion {
    /// What it asks for and was not granted. It cannot be scheduled while there is something.
    pub fn missing(&self) -> Vec<Capability> {
        if self.audit { Vec::new() } else { self.grants.missing(&self.interface.asks()) }
    }
}

/// What a component offers and what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Interface {
    pub exports: Vec<Export>,
    pub imports: Vec<Import>,
}

/// A function that a job can call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Export {
    /// As in a func: `greet`, `demo:pkg/greeter@1.0.0#greet`, or `run` of a command.
    pub name: String,
    /// In WIT: `func(name: string) -> result<string, string>`.
    pub signature: String,
}

/// A function with its types as data, from which forms can be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Function {
    pub name: String,
    pub signature: String,
    pub params: Vec<Param>,
    /// It takes any number of strings.
    pub command: bool,
}

/// A parameter, or a field of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Param {
    pub name: String,
    #[serde(rename = "type")]
    pub ty: WitType,
}

/// A case of a variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Case {
    pub name: String,
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub ty: Option<WitType>,
}

/// A WIT type that JSON can carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WitType {
    Bool,
    S8,
    U8,
    S16,
    U16,
    S32,
    U32,
    S64,
    U64,
    F32,
    F64,
    Char,
    String,
    List {
        of: Box<WitType>,
    },
    Record {
        fields: Vec<Param>,
    },
    Tuple {
        items: Vec<WitType>,
    },
    Variant {
        cases: Vec<Case>,
    },
    Enum {
        names: Vec<String>,
    },
    Flags {
        names: Vec<String>,
    },
    Option {
        of: Box<WitType>,
    },
    Result {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ok: Option<Box<WitType>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        err: Option<Box<WitType>>,
    },
}

/// An interface that the component needs from its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Import {
    pub name: String,
    /// In words: `clocks`, `standard output`.
    pub asks_for: String,
    /// The capability that it needs a grant for, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Capability>,
}

impl Interface {
    /// The capabilities that need a grant before it can be scheduled, each once.
    pub fn asks(&self) -> Vec<Capability> {
        let mut asks: Vec<Capability> = self.imports.iter().filter_map(|import| import.needs).collect();
        asks.sort_unstable();
        asks.dedup();
        asks
    }
}

fn is_none(grants: &Arc<Grants>) -> bool {
    grants.is_empty()
}

/// The SHA-256 of a component, in lower-case hexadecimal: what it is stored and pinned by.
pub fn digest(component: &[u8]) -> String {
    Sha256::digest(component).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Plugin {
    pub fn current(&self) -> Option<&PluginVersion> {
        self.versions.iter().rfind(|version| version.missing().is_empty()).or(self.versions.last())
    }

    /// The version that a func means.
    pub fn version(&self, func: &FuncRef) -> Option<&PluginVersion> {
        match &func.version {
            None => self.current(),
            Some(Version::Digest(prefix)) => self.versions.iter().rfind(|v| v.digest.starts_with(prefix)),
            Some(Version::Label(label)) => self.versions.iter().rfind(|version| version.label.as_ref() == Some(label)),
        }
    }
}

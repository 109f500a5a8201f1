//! Texts that are never shown: of listeners, and of plugins that were granted one.

use crate::invalid::Invalid;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Shortest secret of a plugin, in bytes: a shorter one would be found in texts that have nothing to do
/// with it, and be taken out of them.
pub const SECRET_BYTES_MIN: usize = 8;
pub const SECRET_BYTES_MAX: usize = 16 << 10;

/// A text that is not to be shown, in logs neither.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Secret(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Secret {
    /// The rule for secrets that plugins are given.
    pub fn validate(&self) -> Result<(), Invalid> {
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&self.0.len()) {
            let reason = format!(
                "it must have {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, not {}; a shorter one could not be told from other text",
                self.0.len()
            );
            return Err(Invalid::new("secret", "", reason));
        }
        Ok(())
    }
}

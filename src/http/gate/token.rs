//! Tokens: made at random, kept as hashes, shown once.

use crate::error::{Error, Result};
use crate::files::write_whole;
use crate::http::access::Access;
use crate::invalid::Invalid;
use crate::job::Alias;
use crate::plugin::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use subtle::ConstantTimeEq;

/// Tokens that one installation has at most.
pub const TOKENS_MAX: usize = 64;
/// What every token begins with, so that scanners for leaked secrets can know it.
const PREFIX: &str = "sandclock_";
/// The token that the command line of the installation's own user sends.
pub const LOCAL: &str = "operator";

/// What a token may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    ReadOnly,
    Operator,
}

impl TokenKind {
    pub fn access(self) -> Access {
        match self {
            TokenKind::ReadOnly => Access::Read,
            TokenKind::Operator => Access::Grant,
        }
    }
}

/// A token without what makes it one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Token {
    pub name: Alias,
    pub kind: TokenKind,
    pub created: DateTime<Utc>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    token: Token,
    /// SHA-256 of its text, in hexadecimal.
    hash: String,
}

/// A token as it is now: another text, or another token of the same name, is not this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub token: Token,
    hash: String,
}

impl From<&Kept> for Credential {
    fn from(kept: &Kept) -> Self {
        Credential { token: kept.token.clone(), hash: kept.hash.clone() }
    }
}

/// The tokens of one installation, in `tokens.json`.
pub struct Tokens {
    path: PathBuf,
    local: PathBuf,
    kept: Mutex<Vec<Kept>>,
}

/// Where the command line finds the operator's token.
pub fn local_path(home: &Path) -> PathBuf {
    home.join("operator.token")
}

/// 256 random bits as text.
pub fn random() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| Error::host("no random numbers", std::io::Error::from(e)))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

impl Tokens {
    /// Reads the tokens of a home, which nobody else may have open.
    pub fn open(home: &Path) -> Result<Self> {
        let path = home.join("tokens.json");
        let kept = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| Error::host(format!("`{}` is damaged (remove it to begin anew)", path.display()), e))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::host(format!("cannot read `{}`", path.display()), e)),
        };
        Ok(Tokens { path, local: local_path(home), kept: Mutex::new(kept) })
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that the installation's own user has a token.
    pub fn ensure_local(&self, now: DateTime<Utc>) -> Result<()> {
        let name: Alias = LOCAL.parse()?;
        let text = std::fs::read_to_string(&self.local).unwrap_or_default();
        if self.find(text.trim()).is_some_and(|found| found.token.name == name) {
            return Ok(());
        }
        self.make(name, now, |_| Ok(TokenKind::Operator)).map(|_| ())
    }

    /// The token with this text.
    pub fn find(&self, text: &str) -> Option<Credential> {
        let given = digest(text.as_bytes());
        // Every one is compared, each in constant time.
        self.kept().iter().fold(None, |found, kept| {
            let equal = bool::from(kept.hash.as_bytes().ct_eq(given.as_bytes()));
            if equal { Some(kept.into()) } else { found }
        })
    }

    /// The token of this name, as it is now.
    pub fn get(&self, name: &Alias) -> Option<Credential> {
        self.kept().iter().find(|kept| kept.token.name == *name).map(Credential::from)
    }

    /// Whether a token still has the text with which somebody came.
    pub fn is_valid(&self, credential: &Credential) -> bool {
        self.get(&credential.token.name).as_ref() == Some(credential)
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Token> {
        let mut tokens: Vec<Token> = self.kept().iter().map(|kept| kept.token.clone()).collect();
        tokens.sort_by(|a, b| a.name.cmp(&b.name));
        tokens
    }

    /// A new token, whose text is told this once.
    pub fn create(&self, name: Alias, kind: TokenKind, now: DateTime<Utc>) -> Result<(Token, String)> {
        self.make(name, now, |there| match there {
            None => Ok(kind),
            Some(token) => {
                let reason = "there is one of this name (`sandclock token rotate` gives it a new text)";
                Err(Invalid::new("token", token.name.as_str(), reason).into())
            }
        })
    }

    /// The same token with a new text; the old one is nothing any more.
    pub fn rotate(&self, name: &Alias, now: DateTime<Utc>) -> Result<(Token, String)> {
        let missing = || Error::TokenNotFound(name.clone());
        self.make(name.clone(), now, |there| there.map(|token| token.kind).ok_or_else(missing))
    }

    pub fn remove(&self, name: &Alias) -> Result<()> {
        if name.as_str() == LOCAL {
            let reason = "the command line needs it (`sandclock token rotate operator` gives it a new text)";
            return Err(Invalid::new("token", LOCAL, reason).into());
        }
        let mut kept = self.kept();
        let others: Vec<Kept> = kept.iter().filter(|kept| kept.token.name != *name).cloned().collect();
        if others.len() == kept.len() {
            return Err(Error::TokenNotFound(name.clone()));
        }
        self.write(&others)?;
        *kept = others;
        Ok(())
    }

    /// Gives a name a new text. `kind` says what it will be, or that it must not, from what is there.
    fn make(
        &self,
        name: Alias,
        created: DateTime<Utc>,
        kind: impl FnOnce(Option<&Token>) -> Result<TokenKind>,
    ) -> Result<(Token, String)> {
        let text = format!("{PREFIX}{}", random()?);
        let mut kept = self.kept();
        let there = kept.iter().map(|kept| &kept.token).find(|token| token.name == name);
        let token = Token { kind: kind(there)?, name, created };
        let mut all: Vec<Kept> = kept.iter().filter(|kept| kept.token.name != token.name).cloned().collect();
        if all.len() >= TOKENS_MAX {
            let reason = format!("there are {TOKENS_MAX} already (`sandclock token remove` removes one)");
            return Err(Invalid::new("token", token.name.as_str(), reason).into());
        }
        all.push(Kept { token: token.clone(), hash: digest(text.as_bytes()) });
        if token.name.as_str() == LOCAL {
            write_whole(&self.local, &[text.as_bytes()])
                .map_err(|e| Error::host(format!("cannot write `{}`", self.local.display()), e))?;
        }
        self.write(&all)?;
        *kept = all;
        Ok((token, text))
    }

    fn write(&self, kept: &[Kept]) -> Result<()> {
        let failed = |e: std::io::Error| Error::host(format!("cannot write `{}`", self.path.display()), e);
        let bytes = serde_json::to_vec_pretty(kept).map_err(|e| failed(e.into()))?;
        write_whole(&self.path, &[&bytes]).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_kept_as_a_hash_and_goes_when_it_is_rotated_or_removed() {
        let home = tempfile::tempdir().unwrap();
        let (ci, now): (Alias, _) = ("ci".parse().unwrap(), DateTime::UNIX_EPOCH);
        let tokens = Tokens::open(home.path()).unwrap();
        let (token, text) = tokens.create(ci.clone(), TokenKind::ReadOnly, now).unwrap();
        assert_eq!((text.len(), tokens.find(&text).map(|found| found.token)), (53, Some(token)));
        assert!(tokens.create(ci.clone(), TokenKind::Operator, now).is_err());
        let file = std::fs::read_to_string(home.path().join("tokens.json")).unwrap();
        assert!(!file.contains(&text) && file.contains(&digest(text.as_bytes())));
        let again = Tokens::open(home.path()).unwrap();
        assert!(again.find(&text).is_some() && again.find("").is_none() && again.find(&text[1..]).is_none());
        let (_, new) = again.rotate(&ci, now).unwrap();
        assert!(again.find(&text).is_none() && again.find(&new).is_some());
        again.remove(&ci).unwrap();
        assert!(again.find(&new).is_none() && again.remove(&ci).is_err());
    }

    #[test]
    fn the_own_user_has_a_token_that_nobody_else_can_read() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(home.path()).unwrap();
        let read = || std::fs::read_to_string(local_path(home.path())).unwrap();
        tokens.ensure_local(DateTime::UNIX_EPOCH).unwrap();
        let text = read();
        tokens.ensure_local(DateTime::UNIX_EPOCH).unwrap();
        assert_eq!(read(), text);
        let rotated = tokens.rotate(&LOCAL.parse().unwrap(), DateTime::UNIX_EPOCH).unwrap().1;
        assert_eq!(read(), rotated);
        for file in ["operator.token", "tokens.json"] {
            let mode = std::fs::metadata(home.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }
}

//! Sessions of browsers: signed in with a token, or with a code that is good once.

use super::token::{Credential, random};
use crate::error::Result;
use crate::plugin::digest;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Sessions, and codes that wait to be used, at one time; the oldest goes.
const SESSIONS_MAX: usize = 64;
const CODES_MAX: usize = 16;
/// How long a session lives, and a code.
const SESSION_AGE: TimeDelta = TimeDelta::hours(12);
const CODE_AGE: TimeDelta = TimeDelta::seconds(120);

/// In memory only: a restart signs everybody out.
#[derive(Default)]
pub struct Sessions(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    sessions: HashMap<String, (Credential, DateTime<Utc>)>,
    codes: HashMap<String, (Credential, DateTime<Utc>)>,
}

/// Keeps one more, and at most so many.
fn keep(
    kept: &mut HashMap<String, (Credential, DateTime<Utc>)>,
    most: usize,
    token: Credential,
    until: DateTime<Utc>,
) -> Result<String> {
    let text = random()?;
    if kept.len() >= most
        && let Some(oldest) = kept.iter().min_by_key(|(_, (_, until))| *until).map(|(hash, _)| hash.clone())
    {
        kept.remove(&oldest);
    }
    kept.insert(digest(text.as_bytes()), (token, until));
    Ok(text)
}

impl Sessions {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new session of a token: the text of its cookie.
    pub fn begin(&self, token: Credential, now: DateTime<Utc>) -> Result<String> {
        keep(&mut self.inner().sessions, SESSIONS_MAX, token, now + SESSION_AGE)
    }

    /// The token whose session this is. Looked up by hash, so that time tells nothing of the text.
    pub fn find(&self, text: &str, now: DateTime<Utc>) -> Option<Credential> {
        self.inner()
            .sessions
            .get(&digest(text.as_bytes()))
            .filter(|(_, until)| *until > now)
            .map(|(token, _)| token.clone())
    }

    pub fn end(&self, text: &str) {
        self.inner().sessions.remove(&digest(text.as_bytes()));
    }

    /// A code that begins one session, soon.
    pub fn code(&self, token: Credential, now: DateTime<Utc>) -> Result<String> {
        keep(&mut self.inner().codes, CODES_MAX, token, now + CODE_AGE)
    }

    /// The token of a code, which is used up.
    pub fn redeem(&self, code: &str, now: DateTime<Utc>) -> Option<Credential> {
        self.inner().codes.remove(&digest(code.as_bytes())).filter(|(_, until)| *until > now).map(|(token, _)| token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::gate::token::{TokenKind, Tokens};

    fn credential() -> Credential {
        let home = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(home.path()).unwrap();
        let (_, text) = tokens.create("t".parse().unwrap(), TokenKind::ReadOnly, DateTime::UNIX_EPOCH).unwrap();
        tokens.find(&text).unwrap()
    }

    #[test]
    fn a_code_is_good_once_and_soon() {
        let (sessions, now, token) = (Sessions::default(), DateTime::UNIX_EPOCH, credential());
        let code = sessions.code(token.clone(), now).unwrap();
        assert_eq!(sessions.redeem(&code, now), Some(token.clone()));
        assert_eq!(sessions.redeem(&code, now), None);
        let late = sessions.code(token, now).unwrap();
        assert_eq!(sessions.redeem(&late, now + CODE_AGE), None);
    }

    #[test]
    fn a_session_ends_by_age_and_by_hand_and_there_are_only_so_many() {
        let (sessions, now, token) = (Sessions::default(), DateTime::UNIX_EPOCH, credential());
        let begin = || sessions.begin(token.clone(), now).unwrap();
        let (one, two) = (begin(), begin());
        assert_eq!(sessions.find(&one, now), Some(token.clone()));
        assert_eq!(sessions.find(&one, now + SESSION_AGE), None);
        sessions.end(&one);
        assert_eq!(sessions.find(&one, now), None);
        assert_eq!(sessions.find(&two, now), Some(token.clone()));
        let all: Vec<String> = (1..SESSIONS_MAX as i64 + 2)
            .map(|at| sessions.begin(token.clone(), now + TimeDelta::seconds(at)).unwrap())
            .collect();
        assert!(sessions.find(&all[0], now).is_none() && sessions.find(&all[1], now).is_some());
    }
}

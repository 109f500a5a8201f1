//! The text forms of grants, as flags and JSON have them.

use super::ENV_BYTES_MAX;
use super::address::{Network, special};
use crate::func::text_form;
use crate::invalid::Invalid;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

/// The port of a host that is named without one.
const PORT: u16 = 443;
/// Bytes that a writable directory may hold unless the grant says otherwise.
const QUOTA: u64 = 64 << 20;
const PATH_MAX: usize = 1024;

/// Requests to one host and port: `HOST[:PORT][@NETWORK]`, the port 443 unless it is given.
///
/// The host's addresses must be of the public internet, unless it is an address itself, is
/// `localhost`, or a network is given that they may be in: `db.internal:8080@10.0.0.0/8`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HttpGrant {
    host: String,
    port: u16,
    network: Option<Network>,
}

impl HttpGrant {
    /// In lower case, without a final dot; an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn matches(&self, host: &str, port: u16) -> bool {
        self.port == port && canonical_host(host).is_ok_and(|host| host == self.host)
    }

    /// Whether it names an inner address, where there is often no TLS.
    pub fn is_inner(&self) -> bool {
        self.network.is_some() || self.host == "localhost" || self.host.parse::<IpAddr>().is_ok()
    }

    /// Why a request must not go to this address of the host, if it must not.
    pub fn refuses(&self, address: IpAddr) -> Option<&'static str> {
        let what = special(address)?;
        let named = self.host.parse() == Ok(address)
            || self.network.is_some_and(|network| network.contains(address))
            || (self.host == "localhost" && address.to_canonical().is_loopback());
        (!named).then_some(what)
    }
}

/// A host as it is compared: lower case, no final dot, addresses in their one spelling.
fn canonical_host(text: &str) -> Result<String, &'static str> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if host.is_empty() {
        return Err("it has no host");
    }
    if host.contains('*') {
        return Err("a host is named exactly, without `*`");
    }
    let label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        !label.is_empty() && label.len() <= 63 && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    if host.len() > 253 || !host.split('.').all(label) {
        return Err("a host has letters, digits, `-` and `.`; other alphabets are written as `xn--…`");
    }
    // `127.1`, `0x7f.1` and `2130706433` are addresses to a resolver.
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") {
        return Err("an address is written in full, such as `127.0.0.1`");
    }
    Ok(host)
}

fn host_and_port(text: &str) -> Result<(String, u16), &'static str> {
    let colon = match (text.rfind(':'), text.rfind(']')) {
        (Some(colon), Some(bracket)) => Some(colon).filter(|colon| *colon > bracket),
        (Some(colon), None) if text.parse::<IpAddr>().is_err() => Some(colon),
        _ => None,
    };
    let (host, port) = match colon {
        None => (text, PORT),
        Some(at) => (&text[..at], text[at + 1..].parse().map_err(|_| "the port is a number from 1 to 65535")?),
    };
    if port == 0 {
        return Err("the port is a number from 1 to 65535");
    }
    if host.contains("//") || host.contains('/') {
        return Err("it is a host and perhaps a port, no URL");
    }
    Ok((canonical_host(host)?, port))
}

fn show_host(f: &mut fmt::Formatter<'_>, host: &str, port: u16) -> fmt::Result {
    if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
}

impl FromStr for HttpGrant {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = |reason: &str| {
            Invalid::new("host", text, reason)
                .hint("such as `api.example.org`, `10.1.2.3:8080`, `db.internal@10.0.0.0/8`")
        };
        let (target, network) = text.split_once('@').map_or((text, None), |(host, network)| (host, Some(network)));
        let (host, port) = host_and_port(target).map_err(bad)?;
        let network = network.map(|network| network.parse().map_err(bad)).transpose()?;
        Ok(HttpGrant { host, port, network })
    }
}

impl fmt::Display for HttpGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_host(f, &self.host, self.port)?;
        self.network.map_or(Ok(()), |network| write!(f, "@{network}"))
    }
}

text_form!(HttpGrant);

/// A directory of the host under a name in the guest: `HOST-DIR:GUEST-DIR[:ro|rw][:QUOTA]`, such as
/// `/srv/data:/data:rw:100MiB`. Read-only unless it says `rw`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DirGrant {
    /// Absolute.
    pub host: String,
    /// Absolute, as the guest opens it.
    pub guest: String,
    pub writable: bool,
    /// Bytes that the directory may hold while guests write to it.
    pub quota: u64,
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if !path.starts_with('/') {
        return Err("both paths begin with `/`");
    }
    if path.len() > PATH_MAX || path.chars().any(|c| c.is_control() || c == ':') {
        return Err("a path has at most 1024 bytes, no `:` and no control characters");
    }
    let inner = path.trim_end_matches('/');
    if inner.split('/').skip(1).any(|part| part.is_empty() || part == "." || part == "..") {
        return Err("a path has no `.`, `..` or empty parts");
    }
    Ok(())
}

impl FromStr for DirGrant {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = |reason: &str| Invalid::new("directory", text, reason).hint("such as `/srv/data:/data:rw:100MiB`");
        let mut parts = text.split(':');
        let (Some(host), Some(guest)) = (parts.next(), parts.next()) else {
            return Err(bad("it needs a directory of the host and its name in the guest"));
        };
        for path in [host, guest] {
            check_path(path).map_err(bad)?;
        }
        let (mut writable, mut quota) = (false, QUOTA);
        for part in parts {
            match part {
                "ro" => writable = false,
                "rw" => writable = true,
                size => {
                    quota = crate::size::parse_bytes(size)
                        .map_err(|_| bad("after the paths come `ro` or `rw` and a quota"))?;
                }
            }
        }
        let trimmed = |path: &str| match path.trim_end_matches('/') {
            "" => "/".to_owned(),
            path => path.to_owned(),
        };
        let (host, guest) = (trimmed(host), trimmed(guest));
        if ["/", "/proc", "/dev", "/sys"].contains(&host.as_str())
            || ["/proc/", "/dev/", "/sys/"].iter().any(|tree| host.starts_with(tree))
        {
            return Err(bad("the root, `/proc`, `/dev` and `/sys` are never given"));
        }
        Ok(DirGrant { host, guest, writable, quota })
    }
}

impl fmt::Display for DirGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.host, self.guest, if self.writable { "rw" } else { "ro" })?;
        if self.quota == QUOTA { Ok(()) } else { write!(f, ":{}", self.quota) }
    }
}

text_form!(DirGrant);

/// Two directories of one plugin lie apart: through one that is written to, another that is only read
/// could be changed.
pub(super) fn check_apart(a: &DirGrant, b: &DirGrant) -> Result<(), Invalid> {
    if a.guest == b.guest {
        return Err(Invalid::new("directory", a.to_string(), format!("`{}` is given twice", a.guest)));
    }
    let within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if within(&a.host, &b.host) || within(&b.host, &a.host) {
        return Err(Invalid::new("directory", a.to_string(), format!("it is within `{}`, or that within it", b.host)));
    }
    Ok(())
}

/// The rule for environment variables.
pub(super) fn check_env(name: &str, value: &str) -> Result<(), Invalid> {
    let legal = |(at, b): (usize, u8)| b.is_ascii_alphabetic() || b == b'_' || (at > 0 && b.is_ascii_digit());
    if name.is_empty() || !name.bytes().enumerate().all(legal) {
        return Err(Invalid::new("environment variable", name, "its name has letters, digits and `_`"));
    }
    if name.len() + value.len() > ENV_BYTES_MAX || value.contains('\0') {
        let reason = format!("it has at most {ENV_BYTES_MAX} bytes, and no NUL");
        return Err(Invalid::new("environment variable", name, reason));
    }
    Ok(())
}

/// The name of a secret: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(Arc<str>);

impl SecretName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let legal = |(at, b): (usize, u8)| b.is_ascii_alphanumeric() || (at > 0 && b"._-".contains(&b));
        if text.is_empty() || text.len() > 64 || !text.bytes().enumerate().all(legal) {
            let reason = "it must be 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`, the first a letter or digit";
            return Err(Invalid::new("secret name", text, reason));
        }
        Ok(SecretName(text.into()))
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(SecretName, "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$");

/// A secret that a guest may ask for: `NAME`, which it can read, or `NAME@HOST[:PORT]`, which it never
/// sees: where it writes `{{secret:NAME}}` in a header of a request to that host, the host of the
/// sandbox puts the secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretGrant {
    pub name: SecretName,
    pub host: Option<(String, u16)>,
}

impl FromStr for SecretGrant {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (name, host) = text.split_once('@').map_or((text, None), |(name, host)| (name, Some(host)));
        let bad = |reason| Invalid::new("secret", text, reason).hint("such as `token` or `token@api.example.org`");
        let host = host.map(|host| host_and_port(host).map_err(bad)).transpose()?;
        Ok(SecretGrant { name: name.parse()?, host })
    }
}

impl fmt::Display for SecretGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        let Some((host, port)) = &self.host else { return Ok(()) };
        f.write_str("@")?;
        show_host(f, host, *port)
    }
}

text_form!(SecretGrant);

/// One grant by its name: what a job narrows its plugin's grants to, and what a run used.
/// `http:HOST[:PORT]`, `env:NAME`, `dir:GUEST-DIR[:ro|rw]`, `state`, `secret:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pick {
    Http { host: String, port: u16 },
    Env(String),
    Dir { guest: String, writable: bool },
    State,
    Secret(SecretName),
}

impl Pick {
    pub fn capability(&self) -> super::Capability {
        match self {
            Pick::Http { .. } => super::Capability::Http,
            Pick::Env(_) => super::Capability::Env,
            Pick::Dir { .. } => super::Capability::Files,
            Pick::State => super::Capability::State,
            Pick::Secret(_) => super::Capability::Secrets,
        }
    }

    /// The flag that would grant it.
    pub fn flag(&self) -> String {
        match self {
            Pick::Http { .. } => format!("--allow-http {}", self.to_string().trim_start_matches("http:")),
            Pick::Env(name) => format!("--allow-env {name}=…"),
            Pick::Dir { guest, writable } => {
                format!("--allow-dir /…:{guest}:{}", if *writable { "rw" } else { "ro" })
            }
            Pick::State => "--allow-state".to_owned(),
            Pick::Secret(name) => format!("--secret {name}"),
        }
    }
}

impl FromStr for Pick {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = |reason: &str| {
            Invalid::new("grant", text, reason)
                .hint("write `http:HOST[:PORT]`, `env:NAME`, `dir:GUEST-DIR[:ro|rw]`, `state` or `secret:NAME`")
        };
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        Ok(match kind {
            "http" => {
                let (host, port) = host_and_port(rest).map_err(bad)?;
                Pick::Http { host, port }
            }
            "env" => {
                check_env(rest, "")?;
                Pick::Env(rest.to_owned())
            }
            "dir" => {
                let (guest, mode) = rest.rsplit_once(':').unwrap_or((rest, "ro"));
                check_path(guest).map_err(bad)?;
                let writable = match mode {
                    "ro" => false,
                    "rw" => true,
                    _ => return Err(bad("after the directory comes `ro` or `rw`")),
                };
                Pick::Dir { guest: guest.to_owned(), writable }
            }
            "state" if rest.is_empty() => Pick::State,
            "secret" => Pick::Secret(rest.parse()?),
            _ => return Err(bad("there is no such kind of grant")),
        })
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pick::Http { host, port } => {
                f.write_str("http:")?;
                show_host(f, host, *port)
            }
            Pick::Env(name) => write!(f, "env:{name}"),
            Pick::Dir { guest, writable } => write!(f, "dir:{guest}:{}", if *writable { "rw" } else { "ro" }),
            Pick::State => f.write_str("state"),
            Pick::Secret(name) => write!(f, "secret:{name}"),
        }
    }
}

text_form!(Pick);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn http(text: &str) -> HttpGrant {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_host_matches_however_it_is_spelled_and_nothing_else_does() {
        let grant = http("Api.Example.ORG.");
        assert_eq!(grant.to_string(), "api.example.org:443");
        assert!(grant.matches("API.example.org", 443) && grant.matches("api.example.org.", 443));
        for (host, port) in [
            ("api.example.org", 80),
            ("example.org", 443),
            ("evil-api.example.org", 443),
            ("api.example.org.evil.net", 443),
            ("api.example.org..", 443),
            ("", 443),
        ] {
            assert!(!grant.matches(host, port), "{host}:{port}");
        }
        assert!(http("[::1]:80").matches("[::1]", 80) && http("[::1]:80").matches("[0:0::1]", 80));
        assert!(http("::1").matches("[::1]", 443));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            ":80",
            "*.example.org",
            "https://a.org",
            "a.org/x",
            "a.org:0",
            "a.org:99999",
            "a.org:x",
            "a b",
            "a@b",
            "ok.com@evil",
            "127.1",
            "0x7f.1",
            "2130706433",
            "017700000001",
            "ä.org",
            "a\0.org",
            "-a.org",
            "a.org@10.0.0.0/33",
        ] {
            assert!(text.parse::<HttpGrant>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn inner_addresses_are_for_those_who_name_them() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let public = http("api.example.org");
        assert_eq!(public.refuses(ip("8.8.8.8")), None);
        assert_eq!(public.refuses(ip("127.0.0.1")), Some("a loopback address"));
        assert_eq!(http("localhost:80").refuses(ip("127.0.0.1")), None);
        assert_eq!(http("localhost:80").refuses(ip("::1")), None);
        assert!(http("localhost:80").refuses(ip("10.0.0.1")).is_some());
        assert_eq!(http("10.1.2.3:80").refuses(ip("10.1.2.3")), None);
        assert!(http("10.1.2.3:80").refuses(ip("10.1.2.4")).is_some());
        let internal = http("db.internal:80@10.0.0.0/8");
        assert_eq!(internal.refuses(ip("10.200.0.1")), None);
        assert!(internal.refuses(ip("192.168.0.1")).is_some());
        assert_eq!(internal.to_string(), "db.internal:80@10.0.0.0/8");
    }

    #[test]
    fn a_directory_is_read_only_unless_it_says_so() {
        let dir: DirGrant = "/srv/a/:/data/".parse().unwrap();
        assert_eq!((dir.to_string().as_str(), dir.writable), ("/srv/a:/data:ro", false));
        let dir: DirGrant = "/srv/a:/:rw:1MiB".parse().unwrap();
        assert_eq!((dir.guest.as_str(), dir.writable, dir.quota), ("/", true, 1 << 20));
        for bad in [
            "/srv",
            "srv:/d",
            "/srv:d",
            "/:/d",
            "/proc:/d",
            "/dev/shm:/d",
            "/sys/x:/d",
            "/a/../b:/d",
            "/a:/d:xx",
            "/a\n:/d",
        ] {
            assert!(bad.parse::<DirGrant>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_prints_as_it_reads(text in "[a-zA-Z0-9:./@\\[\\]_ *-]{0,40}") {
            if let Ok(grant) = text.parse::<HttpGrant>() {
                prop_assert_eq!(grant.to_string().parse::<HttpGrant>().unwrap(), grant);
            }
            if let Ok(grant) = text.parse::<DirGrant>() {
                prop_assert_eq!(grant.to_string().parse::<DirGrant>().unwrap(), grant);
            }
            if let Ok(grant) = text.parse::<SecretGrant>() {
                prop_assert_eq!(grant.to_string().parse::<SecretGrant>().unwrap(), grant);
            }
            if let Ok(pick) = text.parse::<Pick>() {
                prop_assert_eq!(pick.to_string().parse::<Pick>().unwrap(), pick);
            }
        }
    }
}

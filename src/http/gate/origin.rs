//! Whether a request over TCP was meant for this daemon, and was not sent by somebody's web page. What
//! names or rebinds this machine must not reach it: `Host` is compared with a list, exactly.

use crate::http::problem::Problem;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use std::sync::{PoisonError, RwLock};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The hosts by which the daemon is called, beside those of this machine.
#[derive(Default)]
pub struct Hosts(RwLock<Vec<String>>);

impl Hosts {
    pub fn set(&self, hosts: Vec<String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = hosts;
    }

    /// `host` or `host:port`, in whatever case. A name that is configured without a port is right with
    /// every one, because a proxy in front has its own.
    fn has(&self, host: &str, port: u16) -> bool {
        let own = ["127.0.0.1", "localhost", "[::1]"];
        own.iter().any(|own| host.eq_ignore_ascii_case(&format!("{own}:{port}")))
            || self.0.read().unwrap_or_else(PoisonError::into_inner).iter().any(|known| {
                let bare = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
                known.eq_ignore_ascii_case(host) || bare.is_some_and(|(bare, _)| known.eq_ignore_ascii_case(bare))
            })
    }

    /// Refuses what was not meant for this daemon on `port`.
    pub fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap, port: u16) -> Result<(), Problem> {
        let refused = |code, detail: String| Err(Problem::new(StatusCode::FORBIDDEN, code, detail));
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) else {
            return refused("host_refused", "the request must have one `Host` header".into());
        };
        let named = uri.authority().map_or(host, axum::http::uri::Authority::as_str);
        if !self.has(host, port) || !self.has(named, port) {
            let host = crate::invalid::printable(host, 100);
            let detail = format!("the daemon is not called `{host}` (`serve --host NAME` adds a name)");
            return refused("host_refused", detail);
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        if let Some(origin) = origins.next() {
            let own =
                origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(|(scheme, origin)| {
                    ["http", "https"].contains(&scheme) && origin.eq_ignore_ascii_case(host)
                });
            if !own || origins.next().is_some() {
                return refused("origin_refused", "the request comes from another site's page".into());
            }
        }
        let cross =
            headers.get_all(&SEC_FETCH_SITE).iter().any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"));
        // A link on another site may lead to the page, which shows nothing by itself.
        let arrives = *method == Method::GET
            && uri.path() == "/"
            && headers.get(&SEC_FETCH_MODE).is_some_and(|mode| mode == "navigate");
        if cross && !arrives {
            return refused("origin_refused", "the request comes from another site's page".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uri: &str, headers: &[(&'static str, &str)]) -> Option<String> {
        let hosts = Hosts::default();
        hosts.set(vec!["sandclock.example.org".into()]);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        hosts.check(&Method::GET, &uri.parse().unwrap(), &map, 7878).err().map(|problem| problem.code)
    }

    #[test]
    fn only_the_names_of_this_daemon_are_answered() {
        for host in
            ["127.0.0.1:7878", "LOCALHOST:7878", "[::1]:7878", "sandclock.example.org", "Sandclock.example.org:443"]
        {
            assert_eq!(check("/v1/jobs", &[("host", host)]), None, "{host}");
        }
        let others = [
            "evil.com",
            "localhost",
            "127.0.0.1",
            "127.0.0.1:80",
            "localhost.evil.com:7878",
            "127.0.0.1.nip.io:7878",
            "localhost:7878.evil.com",
            "evil.com:7878",
            "",
            "[::1]",
            "0.0.0.0:7878",
            "localhost:7878@evil.com",
            "sandclock.example.org.evil.com",
            "sandclock.example.org:x",
        ];
        for host in others {
            assert_eq!(check("/v1/jobs", &[("host", host)]).as_deref(), Some("host_refused"), "{host}");
        }
        assert!(check("/v1/jobs", &[]).is_some());
        assert!(check("/v1/jobs", &[("host", "localhost:7878"), ("host", "evil.com")]).is_some());
        assert!(check("http://evil.com/v1/jobs", &[("host", "localhost:7878")]).is_some());
        assert_eq!(check("http://localhost:7878/v1/jobs", &[("host", "localhost:7878")]), None);
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let with = |name, value: &str| check("/v1/jobs", &[("host", "localhost:7878"), (name, value)]);
        for origin in
            ["http://evil.com", "null", "http://localhost", "http://localhost:7879", "ftp://localhost:7878", ""]
        {
            assert_eq!(with("origin", origin).as_deref(), Some("origin_refused"), "{origin}");
        }
        assert_eq!(with("origin", "http://localhost:7878"), None);
        assert_eq!(with("x-forwarded-host", "evil.com"), None);
        for (site, right) in
            [("same-origin", true), ("none", true), ("cross-site", false), ("same-site", false), ("x", false)]
        {
            assert_eq!(with("sec-fetch-site", site).is_none(), right, "{site}");
        }
        let from_a_link =
            [("host", "localhost:7878"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert_eq!(check("/", &from_a_link), None);
        assert!(check("/v1/jobs", &from_a_link).is_some());
    }
}

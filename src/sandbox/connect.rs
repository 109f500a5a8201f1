//! Connections for guests: a host's addresses are resolved, each is judged, and the connection goes to
//! one that was judged, not to the name.

use crate::grant::HttpGrant;
use async_trait::async_trait;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 8;

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectError {
    /// The host is at an address that guests do not reach; in words.
    Denied(String),
    /// The name has no address.
    Unresolved,
    Refused,
}

/// Makes connections. In the process that runs guests, or by asking another one.
#[async_trait]
pub trait Connect: Send + Sync {
    /// A connection to the host of a grant. Not bounded in time: the caller drops it.
    async fn connect(&self, grant: &HttpGrant) -> Result<TcpStream, ConnectError>;
}

/// Finds the addresses of names.
#[async_trait]
pub trait Resolve: Send + Sync {
    async fn resolve(&self, host: &str) -> std::io::Result<Vec<IpAddr>>;
}

/// Lookups of a process at one time; more wait.
const LOOKUPS_MAX: usize = 32;

/// The resolver of the machine. It blocks a thread until it has an answer, whether anybody still waits
/// for that or not; so a name server that does not answer costs so many threads as there are lookups and no more.
pub struct SystemResolver {
    lookups: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        SystemResolver { lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        let place = self.lookups.clone().acquire_owned().await.map_err(std::io::Error::other)?;
        let host = host.to_owned();
        let lookup = move || {
            let _place = place;
            (host.as_str(), 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect())
        };
        tokio::task::spawn_blocking(lookup).await.map_err(std::io::Error::other)?
    }
}

/// Connects from this process.
pub struct Direct {
    resolver: Arc<dyn Resolve>,
}

impl Direct {
    pub fn new(resolver: Arc<dyn Resolve>) -> Self {
        Direct { resolver }
    }
}

impl Default for Direct {
    fn default() -> Self {
        Direct::new(Arc::new(SystemResolver::default()))
    }
}

/// The addresses that a request of a grant may go to. One that it may not refuses all of them: a
/// name with inner addresses beside public ones is no mistake.
pub fn judge(grant: &HttpGrant, addresses: Vec<IpAddr>) -> Result<Vec<SocketAddr>, ConnectError> {
    if let Some((address, what)) = addresses.iter().find_map(|at| Some((at, grant.refuses(*at)?))) {
        let target = format!("{}:{}", grant.host(), grant.port());
        let error = format!("{target} is at {address}, {what} (`--allow-http {target}@{address}` would allow that)");
        return Err(ConnectError::Denied(error));
    }
    let addresses: Vec<SocketAddr> =
        addresses.into_iter().take(ADDRESSES_MAX).map(|address| (address, grant.port()).into()).collect();
    if addresses.is_empty() { Err(ConnectError::Unresolved) } else { Ok(addresses) }
}

#[async_trait]
impl Connect for Direct {
    async fn connect(&self, grant: &HttpGrant) -> Result<TcpStream, ConnectError> {
        let addresses = match grant.host().parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.resolver.resolve(grant.host()).await.map_err(|_| ConnectError::Unresolved)?,
        };
        for address in judge(grant, addresses)? {
            if let Ok(stream) = TcpStream::connect(address).await {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
        }
        Err(ConnectError::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_inner_address_among_public_ones_refuses_all() {
        let grant: HttpGrant = "example.org".parse().unwrap();
        let mixed = vec!["93.184.216.34".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let Err(ConnectError::Denied(error)) = judge(&grant, mixed) else { panic!("it was allowed") };
        assert!(error.contains("a loopback address") && error.contains("--allow-http example.org:443@127.0.0.1"));
        assert_eq!(judge(&grant, vec![]), Err(ConnectError::Unresolved));
        assert_eq!(judge(&grant, vec!["93.184.216.34".parse().unwrap()]).unwrap().len(), 1);
    }
}

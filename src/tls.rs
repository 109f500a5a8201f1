//! TLS as a client: what the machine trusts is trusted (`SSL_CERT_FILE` names other roots).

use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

pub fn client() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|error| unreachable!("the provider has the default versions: {error}"))
        .with_root_certificates(roots)
        .with_no_client_auth()
}

//! TLS for `wss://`: rustls with the ring provider and the system's root certificates.

use std::io;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// Read anew for every connection, so that a certificate that was added counts with the next one.
///
/// The provider is named: with two of them in one program rustls would not know which to take, and panic.
pub(crate) fn config() -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reasons: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(io::Error::other(format!(
            "no root certificates on this system ({})",
            reasons.join("; ")
        )));
    }
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
    Ok(Arc::new(config))
}

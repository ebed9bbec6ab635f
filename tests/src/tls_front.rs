//! A proxy that speaks TLS in front of the broker, and an authority of the test's own that makes its certificate and those of clients. Owns nothing of
//! what goes through.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::Broker;

/// Whose certificates nobody trusts who was not given its own.
pub struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Authority").field(&self.dir).finish()
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// One that there was not before.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // No two have one name: else they would be taken for one that has another key.
        let name = dir.path().display().to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { dir, issuer }
    }

    /// The file with its own certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for this name, and its key, which nobody else may read.
    pub fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |end: &str| self.dir.path().join(format!("{name}{end}"));
        let (certificate_file, key_file) = (file(".pem"), file("-key.pem"));
        std::fs::write(&certificate_file, certificate.pem()).unwrap();
        write_private(&key_file, key.serialize_pem().as_bytes());
        (certificate_file, key_file)
    }
}

fn write_private(file: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)
        .unwrap();
    file.write_all(bytes).unwrap();
}

/// The proxy. Its certificate is `localhost`'s. Ends when it is dropped.
#[derive(Debug)]
pub struct TlsFront {
    addr: SocketAddr,
    runtime: Option<Runtime>,
}

impl TlsFront {
    /// Starts it. `clients`: it asks for certificates of this authority, and takes nobody who has none.
    pub fn start(broker: &Broker, authority: &Authority, clients: Option<&Authority>) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(config(authority, clients)));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (addr, behind) = (listener.local_addr().unwrap(), broker.addr());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut front = match acceptor.accept(stream).into_fallible().await {
                        Ok(front) => front,
                        // Who does not trust it, or is not trusted, goes away. What was said is read first, so that the reason arrives.
                        Err((_, mut stream)) => {
                            stream.shutdown().await.ok();
                            tokio::io::copy(&mut stream, &mut tokio::io::sink())
                                .await
                                .ok();
                            return;
                        }
                    };
                    if let Ok(mut behind) = TcpStream::connect(behind).await {
                        copy_bidirectional(&mut front, &mut behind).await.ok();
                    }
                    front.shutdown().await.ok();
                });
            }
        });
        let runtime = Some(runtime);
        Self { addr, runtime }
    }

    /// The URL of `path`, such as `wss://localhost:1234/ws`.
    pub fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://localhost:{}{path}", self.addr.port())
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn config(authority: &Authority, clients: Option<&Authority>) -> ServerConfig {
    let (certificate, key) = authority.issue("localhost");
    let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&ring))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_file(clients.file()).unwrap())
                .unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), ring);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    builder.with_single_cert(chain, key).unwrap()
}

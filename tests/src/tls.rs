//! Certificates that tests make, and clients that believe them. Owns the files that a broker is given; what is spoken over TLS is the clients'.

use std::fmt;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

/// Who signs certificates.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// What a client's certificate says.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Its common name.
    pub common_name: Option<&'static str>,
    /// URIs among its alternative names.
    pub uris: &'static [&'static str],
    /// DNS names among them.
    pub hosts: &'static [&'static str],
    /// It ran out years ago.
    pub has_run_out: bool,
}

/// A folder with a CA, and a certificate for this machine that it has signed.
#[derive(Debug)]
pub struct Tls {
    dir: TempDir,
    /// Who signed it.
    pub ca: Ca,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ca")
    }
}

impl Ca {
    /// A new one.
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "the tests' own CA");
        let certificate = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// Its certificate, in PEM.
    pub fn pem(&self) -> &str {
        &self.certificate
    }

    /// A certificate for this machine.
    pub fn server(&self) -> Pair {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        self.sign(CertificateParams::new(names).unwrap())
    }

    /// A client's certificate.
    pub fn client(&self, names: Names) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        if let Some(name) = names.common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        let uris = names.uris.iter();
        let uris = uris.map(|uri| SanType::URI((*uri).try_into().unwrap()));
        let hosts = names.hosts.iter();
        let hosts = hosts.map(|host| SanType::DnsName((*host).try_into().unwrap()));
        params.subject_alt_names = uris.chain(hosts).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if names.has_run_out {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        Pair {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Default for Ca {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self::new()
    }
}

impl Tls {
    /// A new one.
    pub fn new() -> Self {
        let tls = Self {
            dir: tempfile::tempdir().unwrap(),
            ca: Ca::new(),
        };
        tls.write("ca.pem", tls.ca.pem());
        let pair = tls.ca.server();
        tls.write("server.pem", &pair.certificate);
        tls.write("server.key", &pair.key);
        tls
    }

    /// What stands behind `--listen ADDRESS:PORT`.
    pub fn settings(&self) -> String {
        format!(
            ",certificate={},key={}",
            self.path("server.pem").display(),
            self.path("server.key").display()
        )
    }

    /// A file of the folder: `ca.pem`, `server.pem`, `server.key`, or what a test has written.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file of the folder, in one step.
    pub fn write(&self, name: &str, text: &str) {
        let beside = self.path("beside");
        write_private(&beside, text);
        std::fs::rename(beside, self.path(name)).unwrap();
    }

    /// Writes both files of a pair, as NAME.pem and NAME.key.
    pub fn write_pair(&self, name: &str, pair: &Pair) {
        self.write(&format!("{name}.pem"), &pair.certificate);
        self.write(&format!("{name}.key"), &pair.key);
    }

    /// What a client believes.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.ca.pem().as_bytes()).unwrap();
        roots.add(root).unwrap();
        roots
    }

    /// What a client needs that shows no certificate.
    pub fn client(&self) -> ClientConfig {
        self.builder().with_no_client_auth()
    }

    fn builder(&self) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
    }

    /// What a client needs that shows this one.
    pub fn client_with(&self, pair: &Pair) -> ClientConfig {
        let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        self.builder().with_client_auth_cert(chain, key).unwrap()
    }
}

fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// Whom the certificates are for.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

thread_local! {
    static OVER_TLS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs a test in which every broker serves TLS, and every client of the harness speaks it.
pub fn over_tls(test: fn()) {
    /// Also where the test fails: the thread may run another.
    struct Until;

    impl Drop for Until {
        fn drop(&mut self) {
            OVER_TLS.set(false);
        }
    }

    let _until = Until;
    OVER_TLS.set(true);
    test();
}

/// Whether brokers that this thread starts serve TLS.
pub(crate) fn is_over_tls() -> bool {
    OVER_TLS.get()
}

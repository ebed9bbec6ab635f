//! TLS of one listener: the certificate, its key, and who signs the certificates of clients. Owns reading these files, all or none of them, and
//! reading them again when they change; handshakes are `edge`'s.
//!
//! What is served is exchanged whole, the keys of tickets with it: a client that was let in by what is no longer there shows its certificate
//! again. Connections that there are go on with what they began with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustls::crypto::ring as backend;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use crate::certificate::Certificate;
use crate::identity::{read_bytes, read_private};
use crate::listen::TlsFiles;

/// The one protocol that is spoken within (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// TLS of one listener.
#[derive(Debug)]
pub(crate) struct Tls {
    /// Its address, for people.
    listener: String,
    files: TlsFiles,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    served: Served,
    /// Why the files as they are now are not what is served.
    trouble: Option<String>,
    /// The same, when it was found for the first time: files are exchanged one after the other, and do not fit meanwhile.
    doubt: Option<String>,
    /// What the certificate's age was last told to be.
    told: Option<String>,
}

/// What one reading of the files came to.
#[derive(Debug)]
pub(crate) struct Served {
    config: Arc<ServerConfig>,
    /// Of all that was read.
    digest: Vec<u8>,
    /// When the certificate runs out, where that can be read.
    not_after: Option<SystemTime>,
}

impl Tls {
    /// Reads the files. The error is one sentence that names the listener and the setting.
    pub(crate) fn load(listener: String, files: &TlsFiles) -> Result<Self, String> {
        let served = read(files).map_err(|error| named(&listener, &error))?;
        Ok(Self {
            listener,
            files: files.clone(),
            state: Mutex::new(State {
                served,
                trouble: None,
                doubt: None,
                told: None,
            }),
        })
    }

    /// What new connections are served with.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.state().served.config.clone()
    }

    pub(crate) fn takes_client_certificates(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// Reads the files again; `None`: they are what is served.
    pub(crate) fn read_again(&self) -> Result<Option<Served>, String> {
        let digest = self.state().served.digest.clone();
        let read = read(&self.files).map_err(|error| named(&self.listener, &error))?;
        Ok((read.digest != digest).then_some(read))
    }

    /// From now on this is served, to those who connect.
    pub(crate) fn serve(&self, served: Served) {
        let mut state = self.state();
        state.served = served;
        (state.trouble, state.doubt) = (None, None);
        tracing::info!(
            listener = self.listener,
            "the files of its TLS have changed: whoever connects from here on is served with them"
        );
    }

    /// Looks whether the files have changed. What does not fit is told when it has not been put right by the next look.
    pub(crate) fn look(&self) {
        match self.read_again() {
            Ok(Some(served)) => self.serve(served),
            Ok(None) => {
                let mut state = self.state();
                (state.trouble, state.doubt) = (None, None);
            }
            Err(error) => self.doubt(error),
        }
        self.tell_age(SystemTime::now());
    }

    fn doubt(&self, error: String) {
        let mut state = self.state();
        if state.doubt.as_ref() != Some(&error) {
            state.doubt = Some(error);
        } else if state.trouble.as_ref() != Some(&error) {
            tracing::warn!(
                error,
                "a changed certificate cannot be served: the one before still is"
            );
            state.trouble = Some(error);
        }
    }

    /// Says once that the certificate has run out.
    pub(crate) fn tell_age(&self, now: SystemTime) {
        let age = self.age(now);
        let mut state = self.state();
        if state.told != age {
            if let Some(age) = &age {
                tracing::warn!("{age}");
            }
            state.told = age;
        }
    }

    /// What is wrong, in sentences for people.
    pub(crate) fn warnings(&self, now: SystemTime) -> Vec<String> {
        let age = self.age(now);
        let trouble = self.state().trouble.clone();
        trouble.into_iter().chain(age).collect()
    }

    fn age(&self, now: SystemTime) -> Option<String> {
        let not_after = self.state().served.not_after?;
        (not_after <= now).then(|| {
            let date = httpdate::fmt_http_date(not_after);
            let error = format!(
                "certificate: {} ran out on {date}; clients refuse it",
                self.files.certificate.display()
            );
            named(&self.listener, &error)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn named(listener: &str, error: &str) -> String {
    format!("--listen {listener}: {error}")
}

fn read(files: &TlsFiles) -> Result<Served, String> {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    let mut count = |bytes: &[u8]| {
        digest.update(&bytes.len().to_le_bytes());
        digest.update(bytes);
    };
    let chain = read_bytes(&files.certificate).map_err(|error| format!("certificate: {error}"))?;
    let key = read_private(&files.key).map_err(|error| format!("key: {error}"))?;
    count(&chain);
    count(&key);
    let verifier = match &files.client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(ca) => {
            let failed = |error: String| format!("client-ca: {error}");
            let roots = read_bytes(&ca.file).map_err(failed)?;
            count(&roots);
            let what = ca.file.display().to_string();
            verifier(certificates(&roots, &what).map_err(failed)?, ca.required).map_err(failed)?
        }
    };
    let what = files.certificate.display().to_string();
    let chain = certificates(&chain, &what).map_err(|error| format!("certificate: {error}"))?;
    let not_after = chain
        .first()
        .and_then(|leaf| Some(Certificate::read(leaf).ok()?.not_after));
    // Never what the file holds.
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| {
        format!(
            "key: {} holds no private key in PEM that is not encrypted",
            files.key.display()
        )
    })?;
    Ok(Served {
        config: Arc::new(config(chain, key, verifier, files)?),
        digest: digest.finish().as_ref().to_vec(),
        not_after,
    })
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    verifier: Arc<dyn ClientCertVerifier>,
    files: &TlsFiles,
) -> Result<ServerConfig, String> {
    let wrong = |error: rustls::Error| match error {
        rustls::Error::InconsistentKeys(_) => format!(
            "key: {} does not belong to the certificate in {}",
            files.key.display(),
            files.certificate.display()
        ),
        error => format!(
            "certificate: {} with the key in {} cannot be served: {error}",
            files.certificate.display(),
            files.key.display()
        ),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(backend::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(wrong)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // What a client needs to come back quickly it keeps itself: nothing is kept for those who do not.
    config.ticketer = backend::Ticketer::new().map_err(wrong)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn verifier(
    roots: Vec<CertificateDer<'static>>,
    required: bool,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(backend::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider);
    let builder = match required {
        true => builder,
        false => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| error.to_string())
}

/// The certificates of a file in PEM: at least one.
fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|_| format!("{what} is not PEM"))?;
    match read.is_empty() {
        true => Err(format!("{what} holds no certificate in PEM")),
        false => Ok(read),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::listen::ClientCa;

    /// A folder with a certificate and its key.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            let (certificate, key) = pair(2120);
            folder.write("a.pem", &certificate);
            folder.write("a.key", &key);
            folder
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            set_mode(&path, 0o600);
        }

        fn files(&self) -> TlsFiles {
            TlsFiles {
                certificate: self.0.path().join("a.pem"),
                key: self.0.path().join("a.key"),
                client_ca: None,
            }
        }

        fn load(&self) -> Result<Tls, String> {
            Tls::load("127.0.0.1:443".to_owned(), &self.files())
        }
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn pair(until: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn files_that_cannot_be_served_are_named_with_their_setting() {
        let (other, other_key) = pair(2120);
        for (name, text, said) in [
            ("a.pem", "", "certificate: "),
            ("a.pem", "nonsense", "holds no certificate"),
            ("a.pem", other_key.as_str(), "holds no certificate"),
            ("a.pem", other.as_str(), "does not belong"),
            ("a.key", "", "key: "),
            ("a.key", other.as_str(), "holds no private key"),
            ("a.key", other_key.as_str(), "does not belong"),
        ] {
            let folder = Folder::new();
            folder.write(name, text);
            let refused = folder.load().unwrap_err();
            assert!(refused.contains(said), "{said}: {refused}");
            assert!(refused.starts_with("--listen 127.0.0.1:443: "), "{refused}");
        }
        let folder = Folder::new();
        set_mode(&folder.files().key, 0o644);
        assert!(folder.load().unwrap_err().contains("chmod 600"));
        std::fs::remove_file(folder.files().key).unwrap();
        assert!(folder.load().unwrap_err().contains("key: cannot read"));
        let mut files = folder.files();
        files.key = Folder::new().files().key;
        files.client_ca = Some(ClientCa {
            file: "/nowhere/ca.pem".into(),
            required: true,
        });
        let folder = Folder::new();
        files.key = folder.files().key;
        files.certificate = folder.files().certificate;
        let refused = Tls::load("1".to_owned(), &files).unwrap_err();
        assert!(refused.contains("client-ca: cannot read"), "{refused}");
    }

    #[test]
    fn both_files_are_exchanged_or_none() {
        let folder = Folder::new();
        let tls = folder.load().unwrap();
        let first = tls.config();
        tls.look();
        assert!(Arc::ptr_eq(&first, &tls.config()), "nothing has changed");

        let (certificate, key) = pair(2120);
        folder.write("a.pem", &certificate);
        tls.look();
        assert!(
            Arc::ptr_eq(&first, &tls.config()),
            "the key is not there yet"
        );
        let now = SystemTime::now();
        assert!(tls.warnings(now).is_empty(), "it may be on its way");
        tls.look();
        let warnings = tls.warnings(now);
        assert!(warnings[0].contains("does not belong"), "{warnings:?}");
        folder.write("a.key", &key);
        tls.look();
        assert!(!Arc::ptr_eq(&first, &tls.config()));
        assert!(tls.warnings(now).is_empty());
    }

    #[test]
    fn a_certificate_that_has_run_out_is_served_with_a_warning() {
        let folder = Folder::new();
        let (certificate, key) = pair(2021);
        folder.write("a.pem", &certificate);
        folder.write("a.key", &key);
        let tls = folder.load().unwrap();
        let warnings = tls.warnings(SystemTime::now());
        assert!(
            warnings[0].contains("ran out on Fri, 01 Jan 2021"),
            "{warnings:?}"
        );
    }

    /// Kubernetes: a link to a folder that is exchanged whole.
    #[test]
    fn what_a_link_leads_to_is_looked_at() {
        let parent = tempfile::tempdir().unwrap();
        let [one, other] = [Folder::new(), Folder::new()];
        let link = parent.path().join("data");
        std::os::unix::fs::symlink(one.0.path(), &link).unwrap();
        let files = TlsFiles {
            certificate: link.join("a.pem"),
            key: link.join("a.key"),
            client_ca: None,
        };
        let tls = Tls::load("1".to_owned(), &files).unwrap();
        let first = tls.config();
        let next = parent.path().join("next");
        std::os::unix::fs::symlink(other.0.path(), &next).unwrap();
        std::fs::rename(next, link).unwrap();
        tls.look();
        assert!(!Arc::ptr_eq(&first, &tls.config()));
    }
}

//! TLS for `wss://`: rustls with the ring provider. Owns whose certificates are trusted (the system's roots, and those of a file) and
//! which certificate the client shows; and says what a failure of TLS means.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, ClientConfig, Error, RootCertStore};

/// The files in PEM form that an application gives. They are read anew for every connection, as the system's roots are: a certificate that was
/// added or renewed counts with the next one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates that are trusted beside the system's roots.
    pub authorities: Option<PathBuf>,
    /// The client's own certificate, with what leads to its root, and the key that belongs to it.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// What is in the files, and on the system. A certificate and its key fit each other.
#[derive(Debug)]
pub struct Certificates {
    /// Whose signature is trusted.
    pub roots: Vec<CertificateDer<'static>>,
    /// The client's own, with its key.
    pub client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    pub(crate) config: ClientConfig,
}

impl TlsFiles {
    /// Reads them. An error is a sentence that names the file.
    pub fn read(&self) -> Result<Certificates, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = found.certs;
        if let Some(file) = &self.authorities {
            roots.extend(certificates(file)?);
        }
        if roots.is_empty() {
            let reasons: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            return Err(format!(
                "this system has no root certificates ({}); install them (ca-certificates), or name a file of them in SSL_CERT_FILE",
                reasons.join("; ")
            ));
        }
        let client = match &self.client {
            Some((chain, key)) => Some((certificates(chain)?, private_key(key)?)),
            None => None,
        };
        let config = self.config(&roots, client.as_ref())?;
        Ok(Certificates {
            roots,
            client,
            config,
        })
    }

    fn config(
        &self,
        roots: &[CertificateDer<'static>],
        client: Option<&(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Result<ClientConfig, String> {
        let mut store = RootCertStore::empty();
        // A system has some that nobody can read; that is no reason to trust none.
        store.add_parsable_certificates(roots.iter().cloned());
        // It is named: with two providers in one program rustls would not know which to take, and panic.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(store);
        let Some((chain, key)) = client else {
            return Ok(builder.with_no_client_auth());
        };
        let with_client = builder.with_client_auth_cert(chain.clone(), key.clone_key());
        with_client.map_err(|error| {
            let names = self.client.iter().flat_map(|(chain, key)| [chain, key]);
            let names: Vec<_> = names.map(|file| file.display().to_string()).collect();
            format!(
                "{} are no certificate and its key: {error}",
                names.join(" and ")
            )
        })
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let certificates: Vec<_> =
        read.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    match certificates.is_empty() {
        true => Err(format!(
            "{} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
            file.display()
        )),
        false => Ok(certificates),
    }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => format!(
            "{} holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)",
            file.display()
        ),
        error => format!("cannot read {}: {error}", file.display()),
    })
}

/// What to do about an error of TLS, where that is known.
pub(crate) fn advice(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        Error::InvalidCertificate(_) => format!(
            "{error}: ask for the name that it is made out to, or name its issuer's certificate with ClientBuilder::authorities"
        ),
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "a client's certificate is asked for: give it with ClientBuilder::certificate"
                .to_owned()
        }
        Error::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied),
        ) => format!("the client's certificate is not taken ({alert:?})"),
        Error::InvalidMessage(_) => {
            format!("what listens there does not speak TLS ({error}): ask for it with ws://")
        }
        _ => return None,
    })
}

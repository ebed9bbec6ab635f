//! What a certificate says: whose it is, from when until when, and what it is called by. Owns reading that; whether it is to be believed the
//! TLS library has found out before, by its signature.

use std::time::SystemTime;

use x509_cert::Certificate as Parsed;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};
use x509_cert::der::{Decode as _, Tag, Tagged as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The name of a subject in its distinguished name (`id-at-commonName`; RFC 5280, appendix A.1).
const COMMON_NAME: &str = "2.5.4.3";
/// As long as the subject of a token.
const MAX_SUBJECT_BYTES: usize = 255;

/// A certificate that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// Whose it is: the first URI among its alternative names, else the first DNS name, else the first e-mail address, else its common name;
    /// `None` if it has none that could be a subject.
    pub(crate) subject: Option<Box<str>>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// SHA-256 of the whole, in hexadecimal, as `openssl x509 -fingerprint -sha256` shows it but for the colons.
    pub(crate) fingerprint: Box<str>,
}

impl Certificate {
    /// Reads one in DER.
    pub(crate) fn read(der: &[u8]) -> Result<Self, String> {
        let parsed = Parsed::from_der(der).map_err(|error| error.to_string())?;
        let validity = &parsed.tbs_certificate.validity;
        Ok(Self {
            subject: subject(&parsed)?,
            not_before: validity.not_before.to_system_time(),
            not_after: validity.not_after.to_system_time(),
            fingerprint: fingerprint(der),
        })
    }
}

fn fingerprint(der: &[u8]) -> Box<str> {
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    hex.collect::<String>().into()
}

fn subject(parsed: &Parsed) -> Result<Option<Box<str>>, String> {
    let names = parsed.tbs_certificate.get::<SubjectAltName>();
    let names = names.map_err(|error| error.to_string())?;
    let names = names.map_or_else(Vec::new, |(_, names)| names.0);
    let first = |of_kind: fn(&GeneralName) -> Option<&str>| names.iter().find_map(of_kind);
    let uri = first(|name| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str()),
        _ => None,
    });
    let dns = || {
        first(|name| match name {
            GeneralName::DnsName(name) => Some(name.as_str()),
            _ => None,
        })
    };
    let email = || {
        first(|name| match name {
            GeneralName::Rfc822Name(address) => Some(address.as_str()),
            _ => None,
        })
    };
    let subject = uri.or_else(dns).or_else(email).map(str::to_owned);
    let subject = subject.or_else(|| common_name(parsed));
    Ok(subject
        .filter(|name| could_be_subject(name))
        .map(Into::into))
}

fn could_be_subject(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_SUBJECT_BYTES && !name.contains(char::is_control)
}

/// The most specific one, which stands last.
fn common_name(parsed: &Parsed) -> Option<String> {
    let names = parsed.tbs_certificate.subject.0.iter().rev();
    let mut attributes = names.flat_map(|names| names.0.iter());
    let name = attributes.find(|attribute| attribute.oid.to_string() == COMMON_NAME)?;
    let value = &name.value;
    match value.tag() {
        Tag::Utf8String => Some(
            value
                .decode_as::<Utf8StringRef<'_>>()
                .ok()?
                .as_str()
                .to_owned(),
        ),
        Tag::PrintableString => {
            let text = value.decode_as::<PrintableStringRef<'_>>().ok()?;
            Some(text.as_str().to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn read(common_name: &str, names: Vec<SanType>) -> Certificate {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        if !common_name.is_empty() {
            params
                .distinguished_name
                .push(DnType::CommonName, common_name);
        }
        params.subject_alt_names = names;
        params.not_before = rcgen::date_time_ymd(2020, 1, 2);
        params.not_after = rcgen::date_time_ymd(2120, 1, 2);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Certificate::read(certificate.der()).unwrap()
    }

    #[test]
    fn a_certificate_is_its_uris_else_its_hosts_else_its_addresses_else_its_common_names() {
        let uri = SanType::URI("spiffe://mesh/orders".try_into().unwrap());
        let dns = SanType::DnsName("orders.example".try_into().unwrap());
        let other = SanType::DnsName("other.example".try_into().unwrap());
        let email = SanType::Rfc822Name("orders@example.org".try_into().unwrap());
        let ip = SanType::IpAddress([127, 0, 0, 1].into());
        for (names, subject) in [
            (
                vec![email.clone(), dns.clone(), uri],
                Some("spiffe://mesh/orders"),
            ),
            (
                vec![ip.clone(), email.clone(), dns, other],
                Some("orders.example"),
            ),
            (vec![email], Some("orders@example.org")),
            (vec![ip], Some("orders")),
            (vec![], Some("orders")),
        ] {
            assert_eq!(read("orders", names).subject.as_deref(), subject);
        }
        assert_eq!(read("", vec![]).subject, None);
        assert_eq!(read(&"x".repeat(256), vec![]).subject, None);
        assert_eq!(read("a\nb", vec![]).subject, None);
    }

    #[test]
    fn times_and_fingerprint_are_read() {
        let one = read("a", vec![]);
        let seconds = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH);
            since.unwrap().as_secs()
        };
        assert_eq!(seconds(one.not_before), 1_577_923_200);
        assert_eq!(seconds(one.not_after), 4_733_596_800);
        assert_eq!(one.fingerprint.len(), 64);
        assert_ne!(
            one.fingerprint,
            read("a", vec![]).fingerprint,
            "another key, another certificate"
        );
        assert!(Certificate::read(b"nonsense").is_err());
    }
}

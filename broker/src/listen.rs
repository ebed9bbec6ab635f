//! One value of `--listen`: an address, and what is served there. Owns how it is written, and which routes a listener has; opening it is
//! `listeners`', its files are `tls`'.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The settings that may stand behind an address.
const SETTINGS: [&str; 5] = [
    "certificate",
    "key",
    "client-ca",
    "client-certificate",
    "routes",
];
/// A known name that is at least so like an unknown one (by Jaro and Winkler, 0 to 1) may have been meant.
const ALIKE: f64 = 0.7;

/// Routes for those who run the broker, and all beneath them. A route that is not named here is for clients.
const OF_OPERATORS: [&str; 5] = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/v1/sessions",
    "/v1/revocations",
];

/// Where to serve, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub place: Place,
    /// How clients are spoken to; `None`: in plain text.
    pub tls: Option<TlsFiles>,
    /// What they can ask for.
    pub routes: Routes,
}

/// Where to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On this address.
    Address(SocketAddr),
    /// On this port of the loopback addresses of both families (RFC 6761, section 6.3).
    Localhost(u16),
}

/// The files that TLS needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and the root, in PEM.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
    /// Who signs the certificates of clients; `None`: clients show none.
    pub client_ca: Option<ClientCa>,
}

/// Who signs the certificates of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCa {
    /// Its certificates, in PEM.
    pub file: PathBuf,
    /// Whether a client that shows none is turned away.
    pub required: bool,
}

/// Which routes a listener has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Routes {
    /// Every one.
    #[default]
    All,
    /// All but those for operators.
    Clients,
    /// Those for operators alone.
    Operators,
}

impl Routes {
    /// Whether this path is one of them. What is unknown is for clients, who are told that there is no such route.
    pub fn serve(self, path: &str) -> bool {
        let is_for_operators = OF_OPERATORS.iter().any(|route| {
            let rest = path.strip_prefix(route);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        match self {
            Self::All => true,
            Self::Clients => !is_for_operators,
            Self::Operators => is_for_operators,
        }
    }
}

impl Listen {
    /// Whether only this machine can connect.
    pub fn is_loopback(&self) -> bool {
        let addresses = self.place.addresses();
        addresses.iter().all(|address| address.ip().is_loopback())
    }
}

impl Place {
    /// The addresses. A port of 0 is the same for all, once the first has one.
    pub fn addresses(self) -> Vec<SocketAddr> {
        match self {
            Self::Address(address) => vec![address],
            Self::Localhost(port) => vec![
                (Ipv4Addr::LOCALHOST, port).into(),
                (Ipv6Addr::LOCALHOST, port).into(),
            ],
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    /// Reads `ADDRESS:PORT`, and behind it `,NAME=VALUE` any number of times.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',').map(str::trim);
        let place = parts.next().unwrap_or_default().parse()?;
        let mut given: Vec<(&str, &str)> = Vec::new();
        for part in parts {
            let (name, value) = setting(part)?;
            if given.iter().any(|(known, _)| *known == name) {
                return Err(format!("{name} is given twice"));
            }
            given.push((name, value));
        }
        let find = |name: &str| {
            let found = given.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| *value)
        };
        Ok(Self {
            place,
            tls: tls_files(find)?,
            routes: match find("routes") {
                None | Some("all") => Routes::All,
                Some("clients") => Routes::Clients,
                Some("operators") => Routes::Operators,
                Some(other) => {
                    return Err(format!("routes={other} is none of all, clients, operators"));
                }
            },
        })
    }
}

/// Reads `NAME=VALUE`.
fn setting(part: &str) -> Result<(&'static str, &str), String> {
    let (name, value) = part.split_once('=').unwrap_or((part, ""));
    let (name, value) = (name.trim(), value.trim());
    let Some(known) = SETTINGS.iter().find(|known| **known == name) else {
        let alike = |known: &&&str| strsim::jaro_winkler(name, known);
        let nearest = SETTINGS
            .iter()
            .max_by(|a, b| alike(a).total_cmp(&alike(b)))
            .filter(|nearest| alike(nearest) >= ALIKE)
            .map(|nearest| format!("; did you mean {nearest}?"))
            .unwrap_or_default();
        return Err(format!(
            "{name:?} is not one of the settings of a listener, which are {}{nearest}",
            SETTINGS.join(", ")
        ));
    };
    match value.is_empty() {
        true => Err(format!("{known} has no value; write {known}=VALUE")),
        false => Ok((known, value)),
    }
}

fn tls_files<'a>(find: impl Fn(&str) -> Option<&'a str>) -> Result<Option<TlsFiles>, String> {
    let needs = |name: &str, other: &str| Err(format!("{name} needs {other} beside it"));
    let client_ca = match (find("client-ca"), find("client-certificate")) {
        (None, Some(_)) => return needs("client-certificate", "client-ca=FILE"),
        (None, None) => None,
        (Some(file), required) => Some(ClientCa {
            file: file.into(),
            required: match required {
                None | Some("required") => true,
                Some("optional") => false,
                Some(other) => {
                    return Err(format!(
                        "client-certificate={other} is neither required nor optional"
                    ));
                }
            },
        }),
    };
    match (find("certificate"), find("key")) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles {
            certificate: certificate.into(),
            key: key.into(),
            client_ca,
        })),
        (Some(_), None) => needs("certificate", "key=FILE"),
        (None, Some(_)) => needs("key", "certificate=FILE"),
        (None, None) if client_ca.is_some() => needs("client-ca", "certificate=FILE and key=FILE"),
        (None, None) => Ok(None),
    }
}

impl FromStr for Place {
    type Err = String;

    /// Reads `127.0.0.1:4275`, `[::1]:4275`, `4275`, `:4275` or `localhost:4275`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        match port.parse() {
            Ok(port) if host.is_empty() && is_port => {
                Ok(Self::Address((Ipv4Addr::LOCALHOST, port).into()))
            }
            Ok(port) if host.eq_ignore_ascii_case("localhost") && is_port => {
                Ok(Self::Localhost(port))
            }
            _ => Err(
                "write an address and a port, such as 127.0.0.1:4275, [::1]:4275 or 0.0.0.0:4275, or localhost:4275, or a port alone"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Address(address) => address.fmt(f),
            Place::Localhost(port) => write!(f, "localhost:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Listen {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_to_serve_has_short_forms() {
        let addresses = |text: &str| {
            let listen = read(text);
            assert!(listen.is_loopback(), "{text}");
            let all = listen.place.addresses();
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(addresses("4299"), ["127.0.0.1:4299"]);
        assert_eq!(addresses(":4299"), ["127.0.0.1:4299"]);
        assert_eq!(addresses("127.0.0.1:4299"), ["127.0.0.1:4299"]);
        assert_eq!(addresses("[::1]:0"), ["[::1]:0"]);
        assert_eq!(
            addresses("localhost:4299"),
            ["127.0.0.1:4299", "[::1]:4299"]
        );
        assert_eq!(addresses("LocalHost:0"), ["127.0.0.1:0", "[::1]:0"]);
        for open in ["0.0.0.0:4275", "[::]:4275", "192.0.2.7:4275"] {
            assert!(!read(open).is_loopback(), "{open}");
        }
        for bad in [
            "",
            ":",
            "0.0.0.0",
            "::1",
            "localhost",
            "localhost:",
            "localhost:+1",
            "+4299",
            "70000",
            ":70000",
            "-1",
            "example.org:4275",
            "http://127.0.0.1:4275",
        ] {
            let refused = bad.parse::<Listen>().expect_err(bad);
            assert!(refused.contains("127.0.0.1:4275"), "{bad}: {refused}");
        }
    }

    #[test]
    fn what_is_served_stands_behind_the_address() {
        let plain = read("0.0.0.0:80");
        assert_eq!((plain.tls, plain.routes), (None, Routes::All));
        let all = read("0.0.0.0:443,certificate=a.pem, key = b.pem,client-ca=c.pem,routes=clients");
        assert_eq!(all.to_string(), "0.0.0.0:443");
        assert_eq!(all.routes, Routes::Clients);
        let tls = all.tls.unwrap();
        assert_eq!((tls.certificate, tls.key), ("a.pem".into(), "b.pem".into()));
        let client_ca = tls.client_ca.unwrap();
        assert_eq!((client_ca.file, client_ca.required), ("c.pem".into(), true));
        let optional = "443,certificate=a,key=b,client-ca=c,client-certificate=optional";
        assert!(!read(optional).tls.unwrap().client_ca.unwrap().required);
    }

    #[test]
    fn what_is_wrong_behind_the_address_is_named() {
        for (text, said) in [
            ("443,certificat=a,key=b", "did you mean certificate?"),
            ("443,zzz=1", "certificate, key, client-ca"),
            ("443,certificate=a", "key=FILE"),
            ("443,key=a", "certificate=FILE"),
            ("443,key=", "key has no value"),
            ("443,key", "key has no value"),
            ("443,certificate=a,key=b,key=c", "twice"),
            ("443,client-ca=a", "certificate=FILE and key=FILE"),
            (
                "443,certificate=a,key=b,client-certificate=required",
                "client-ca=FILE",
            ),
            (
                "443,certificate=a,key=b,client-ca=c,client-certificate=maybe",
                "neither required nor optional",
            ),
            ("443,routes=some", "all, clients, operators"),
        ] {
            let refused = text.parse::<Listen>().expect_err(text);
            assert!(refused.contains(said), "{text}: {refused}");
        }
    }

    #[test]
    fn a_route_that_nobody_named_is_for_clients() {
        for (path, of_operators) in [
            ("/healthz", true),
            ("/readyz", true),
            ("/metrics", true),
            ("/v1/sessions", true),
            ("/v1/sessions/abc", true),
            ("/v1/revocations", true),
            ("/v1/sessionsabc", false),
            ("/v1/topics", false),
            ("/ws", false),
            ("/", false),
            ("/nowhere", false),
        ] {
            assert_eq!(Routes::Operators.serve(path), of_operators, "{path}");
            assert_eq!(Routes::Clients.serve(path), !of_operators, "{path}");
            assert!(Routes::All.serve(path));
        }
    }
}

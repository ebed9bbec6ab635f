//! Who a client of the command line is, and whom it trusts: its token, the certificate it shows, and the certificates it takes. Owns that no secret
//! stands in an argument, which everybody on the machine can read, nor in a file that others can read.

use std::fmt;
use std::path::PathBuf;

use hark_client::ClientBuilder;
use hark_client::inner::TlsFiles;

use super::CliError;
use crate::identity::read_private;

/// The variable that holds a token itself.
const TOKEN: &str = "HARK_TOKEN";

/// What a client shows, and what it trusts.
#[derive(Debug, clap::Args)]
pub(super) struct CredentialArgs {
    /// Say who you are with the token in this file, which others must not be able to read. It is read anew for every connection. Without it,
    /// HARK_TOKEN may hold the token.
    #[arg(long, global = true, value_name = "FILE", env = "HARK_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    /// Refused, with a sentence.
    #[arg(long, global = true, hide = true)]
    token: Option<String>,

    /// Trust the certificates in this file (PEM) too, beside those that the system trusts. It is read anew for every connection.
    #[arg(long, global = true, value_name = "FILE", env = "HARK_CA_FILE")]
    ca: Option<PathBuf>,

    /// Show the certificate in this file (PEM), with what leads to its root behind it, to a broker that asks for one.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "HARK_CLIENT_CERTIFICATE_FILE"
    )]
    client_certificate: Option<PathBuf>,

    /// The key that belongs to the certificate of --client-certificate, in a file (PEM) that others must not be able to read.
    #[arg(long, global = true, value_name = "FILE", env = "HARK_CLIENT_KEY_FILE")]
    client_key: Option<PathBuf>,
}

/// The same, checked.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    token: Token,
    pub(super) tls: TlsFiles,
}

/// Where the token is.
#[derive(Clone)]
enum Token {
    None,
    Given(String),
    In(PathBuf),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no token",
            Self::Given(_) => "a token",
            Self::In(_) => "a token in a file",
        })
    }
}

impl CredentialArgs {
    /// Checks all that can be checked before somebody is asked.
    pub(super) fn settle(&self) -> Result<Credentials, CliError> {
        if self.token.is_some() {
            return Err(CliError::usage(
                "--token would show the token to everybody who can list this machine's processes; write it to a file of mode 0600 and give --token-file FILE, or set HARK_TOKEN",
            ));
        }
        let client = match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => {
                read_private(key).map_err(CliError::failed)?;
                Some((certificate.clone(), key.clone()))
            }
            (None, None) => None,
            _ => {
                return Err(CliError::usage(
                    "--client-certificate and --client-key belong together: give both",
                ));
            }
        };
        let token = match &self.token_file {
            Some(file) => Token::In(file.clone()),
            None => Token::of_environment()?,
        };
        token.read().map_err(CliError::failed)?;
        let authorities = self.ca.clone();
        Ok(Credentials {
            token,
            tls: TlsFiles {
                authorities,
                client,
            },
        })
    }
}

impl Credentials {
    /// The token as it is now.
    pub(super) fn token(&self) -> Result<Option<String>, CliError> {
        self.token.read().map_err(CliError::failed)
    }

    /// Gives them to a client.
    pub(super) fn give(&self, mut builder: ClientBuilder) -> ClientBuilder {
        if let Some(authorities) = &self.tls.authorities {
            builder = builder.authorities(authorities);
        }
        if let Some((certificate, key)) = &self.tls.client {
            builder = builder.certificate(certificate, key);
        }
        match &self.token {
            Token::None => builder,
            Token::Given(token) => builder.token(token),
            Token::In(_) => {
                let token = self.token.clone();
                builder.token_with(move || {
                    let token = token.clone();
                    let read = tokio::task::spawn_blocking(move || token.read());
                    async move { Ok(read.await??.unwrap_or_default()) }
                })
            }
        }
    }
}

impl Token {
    fn of_environment() -> Result<Self, CliError> {
        // An empty variable is one that is not set.
        match std::env::var_os(TOKEN).filter(|token| !token.is_empty()) {
            None => Ok(Self::None),
            Some(token) => match token.into_string() {
                Ok(token) => Ok(Self::Given(token)),
                Err(_) => Err(CliError::usage("HARK_TOKEN holds no text")),
            },
        }
    }

    /// An error is a sentence, which does not show what is in the file.
    fn read(&self) -> Result<Option<String>, String> {
        let file = match self {
            Self::None => return Ok(None),
            Self::Given(token) => return Ok(Some(token.clone())),
            Self::In(file) => file,
        };
        // Before it is opened: a pipe would be waited for.
        let metadata = std::fs::metadata(file)
            .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        if !metadata.is_file() {
            return Err(format!(
                "{} is no regular file: the token is read anew for every connection, and a pipe gives it once; write it to a file of mode 0600, or set HARK_TOKEN",
                file.display()
            ));
        }
        let text = String::from_utf8(read_private(file)?).unwrap_or_default();
        // A header holds it.
        match text.trim() {
            token if !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Some(token.to_owned()))
            }
            _ => Err(format!("{} holds no token on one line", file.display())),
        }
    }
}

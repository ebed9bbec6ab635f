//! The word of a proxy that has found out itself whom it lets in. Owns what its header may be called, and what a subject of it is; from which
//! peers it is believed the transport knows.

use std::sync::Arc;

use super::authority::MAX_ISSUER_BYTES;
use super::jwt::MAX_SUBJECT_BYTES;
use super::{Refusal, Who};

/// Headers that say something else: whoever named one of these would give his clients' own words for the proxy's.
const SAYS_SOMETHING_ELSE: [&str; 8] = [
    "authorization",
    "cookie",
    "forwarded",
    "host",
    "origin",
    "sec-fetch-site",
    "x-forwarded-for",
    "x-forwarded-proto",
];

/// How a declared proxy says whom it has let in.
#[derive(Debug)]
pub(super) struct ProxyIdentity {
    header: Arc<str>,
    issuer: Box<str>,
}

impl ProxyIdentity {
    /// `is_taken`: whether an issuer has this name already.
    pub(super) fn new(
        header: &str,
        issuer: String,
        is_taken: impl Fn(&str) -> bool,
    ) -> Result<Self, String> {
        let header = header.to_ascii_lowercase();
        // RFC 9110, section 5.1.
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if header.is_empty() || !header.bytes().all(is_token) {
            return Err(
                "[proxy_identity] header: needs the name of a header, such as X-Forwarded-User"
                    .to_owned(),
            );
        }
        if SAYS_SOMETHING_ELSE.contains(&&*header) || header.starts_with("hark-") {
            return Err(format!(
                "[proxy_identity] header: {header} says something else; choose another, such as X-Forwarded-User"
            ));
        }
        if issuer.is_empty() || issuer.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(
                "[proxy_identity] issuer: needs a name by which rules can call it, without spaces"
                    .to_owned(),
            );
        }
        if issuer.len() > MAX_ISSUER_BYTES {
            return Err(format!(
                "[proxy_identity] issuer: has at most {MAX_ISSUER_BYTES} bytes"
            ));
        }
        if is_taken(&issuer) {
            return Err(format!(
                "[proxy_identity] issuer: {issuer:?} is an issuer of tokens or keys already"
            ));
        }
        Ok(Self {
            header: header.into(),
            issuer: issuer.into(),
        })
    }

    pub(super) fn header(&self) -> Arc<str> {
        self.header.clone()
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Who it says that this is.
    pub(super) fn identify(&self, subject: &str) -> Result<Who, Refusal> {
        let is_good =
            (1..=MAX_SUBJECT_BYTES).contains(&subject.len()) && !subject.contains(char::is_control);
        match is_good {
            true => Ok(Who::new(&self.issuer, subject)),
            false => Err(Refusal::unauthenticated(format!(
                "{} names nobody: it needs 1 to {MAX_SUBJECT_BYTES} bytes of text",
                self.header
            ))),
        }
    }
}

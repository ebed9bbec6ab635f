//! The HTTP routes, as an ordinary client uses them. Requests that no ordinary client sends go through `raw_http`.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use crate::{DEADLINE, Tls};

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// By name, in lower case. Of a name that stands several times, the last.
    pub headers: HashMap<String, String>,
    /// The body as text.
    pub body: String,
}

impl Response {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in the body of {self:#?}"))
    }

    /// The body as one JSON value a line.
    pub fn json_lines(&self) -> Vec<Value> {
        let read = |line| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line:?} of {self:#?}"))
        };
        self.body.lines().map(read).collect()
    }

    /// Checks the status, and that the body is an error of that code with a sentence for people.
    #[track_caller]
    pub fn expect_error(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:#?}");
        let error = self.json();
        assert_eq!(error["code"], code, "{error}");
        assert!(
            error["message"].as_str().is_some_and(|m| !m.is_empty()),
            "no sentence for people: {error}"
        );
    }

    /// Checks that it went well.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{self:#?}");
        self
    }
}

/// A client for one broker, which keeps its connections.
#[derive(Debug)]
pub struct Http {
    agent: ureq::Agent,
    base: String,
}

impl Http {
    /// For paths below this URL, in plain text.
    pub fn at(base: &str) -> Self {
        Self::new(base.to_owned(), None)
    }

    /// For paths below `base`.
    pub(crate) fn new(base: String, tls: Option<&Tls>) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .tls_config(tls_config(tls))
            .timeout_global(Some(DEADLINE))
            .build();
        Self {
            agent: config.into(),
            base,
        }
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    /// `GET path` of a broker that may be down: how it went wrong, if there is no answer.
    pub fn try_get(&self, path: &str) -> Result<Response, String> {
        self.try_request("GET", path, &[], b"")
    }

    /// `POST path` with these headers; none is added, not even a content type.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Response {
        self.request("POST", path, headers, body.as_ref())
    }

    /// Publishes `body` as JSON.
    pub fn publish(&self, topic: &str, body: &Value) -> Response {
        let path = format!("/v1/topics/{topic}/messages");
        self.post(
            &path,
            &[("content-type", "application/json")],
            body.to_string(),
        )
    }

    /// Reads a topic's history: `query` is what stands behind the question mark.
    pub fn history(&self, topic: &str, query: &str) -> Response {
        self.get(&format!("/v1/topics/{topic}/messages?{query}"))
    }

    /// Any request.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        self.try_request(method, path, headers, body)
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, String> {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        for &(name, value) in headers {
            request = request.header(name, value);
        }
        let response = match body {
            [] if method == "GET" => self.agent.run(request.body(()).unwrap()),
            body => self.agent.run(request.body(body).unwrap()),
        };
        let mut response = response.map_err(|e| e.to_string())?;
        let text = |value: &ureq::http::HeaderValue| {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        };
        Ok(Response {
            status: response.status().as_u16(),
            headers: response
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
            body: response
                .body_mut()
                .with_config()
                .limit(256 << 20)
                .read_to_string()
                .map_err(|e| e.to_string())?,
        })
    }
}

/// Believes the certificate of this broker.
pub(crate) fn tls_config(tls: Option<&Tls>) -> TlsConfig {
    let builder = TlsConfig::builder().provider(TlsProvider::Rustls);
    let Some(tls) = tls else {
        return builder.build();
    };
    let root = Certificate::from_pem(tls.ca.pem().as_bytes()).unwrap();
    builder
        .root_certs(RootCerts::new_with_certs(&[root]))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build()
}

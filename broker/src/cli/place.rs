//! Where Hark is, as a person writes it: reads `--url` in all its forms, and names the addresses that it may stand for. Owns the forms; leaves
//! trying them to `connection` and `http`.

use hark_client::inner::TlsFiles;
use ureq::http::Uri;

use super::CliError;

/// A broker's address. What stands behind its path may be its WebSocket itself, or the place beneath which its routes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    is_secure: bool,
    /// Host and port, as they were given.
    authority: String,
    /// Without a slash at its end; empty for the root.
    path: String,
    /// With its question mark; for the WebSocket alone.
    query: String,
    /// Whether it was written as a WebSocket's URL.
    names_websocket: bool,
    /// What is trusted and shown there.
    files: TlsFiles,
}

impl Place {
    /// Reads `ws://…`, `wss://…`, `http://…`, `https://…` or `HOST:PORT`, with or without the `/ws` of the WebSocket.
    pub(super) fn parse(url: &str) -> Result<Self, CliError> {
        let wrong = |why: &str| {
            CliError::usage(format!(
                "{url:?} is not a Hark URL: {why}; write ws://HOST:PORT/ws, http://HOST:PORT or HOST:PORT"
            ))
        };
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
            None => (String::new(), url),
        };
        let (is_secure, names_websocket) = match &*scheme {
            "ws" => (false, true),
            "wss" => (true, true),
            // As curl takes it.
            "http" | "" => (false, false),
            "https" => (true, false),
            _ => return Err(wrong("the scheme is none of ws, wss, http, https")),
        };
        let (rest, _) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = match rest.find('?') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.contains('@') {
            // Not shown again: there may be a password in it.
            return Err(CliError::usage(
                "the URL holds a user's name; say who you are by --token-file, and write ws://HOST:PORT/ws, http://HOST:PORT or HOST:PORT",
            ));
        }
        if authority.is_empty() || authority.starts_with(':') {
            return Err(wrong("there is no host"));
        }
        // As its readers will.
        let uri: Uri = format!("http://{authority}{path}{query}")
            .parse()
            .map_err(|_| wrong("it is no URL"))?;
        let port = authority
            .rsplit_once(':')
            .map(|(_, port)| port)
            .filter(|port| !port.ends_with(']'));
        match uri.host() {
            None => return Err(wrong("there is no host")),
            Some(_) if port.is_some() && uri.port_u16().is_none_or(|port| port == 0) => {
                return Err(wrong("the port is no number from 1 to 65535"));
            }
            Some(_) if scheme.is_empty() && port.is_none() => {
                return Err(wrong("there is neither a scheme nor a port"));
            }
            Some(_) => {}
        }
        Ok(Self {
            is_secure,
            authority: authority.to_owned(),
            path: path.trim_end_matches('/').to_owned(),
            query: query.to_owned(),
            names_websocket,
            files: TlsFiles::default(),
        })
    }

    /// The same place, where these are trusted and shown.
    pub(super) fn with_files(self, files: TlsFiles) -> Self {
        Self { files, ..self }
    }

    /// Where the WebSocket may be: to be tried in this order.
    pub(super) fn websockets(&self) -> Vec<String> {
        let beneath = format!("{}/ws", self.path);
        let paths = match self.path.ends_with("/ws") {
            true => vec![&*self.path],
            false if self.names_websocket && !self.path.is_empty() => vec![&*self.path, &*beneath],
            false => vec![&*beneath, &*self.path],
        };
        let scheme = if self.is_secure { "wss" } else { "ws" };
        let url = |path: &str| format!("{scheme}://{}{path}{}", self.authority, self.query);
        paths.into_iter().map(url).collect()
    }

    /// The URL beneath which the routes of HTTP are.
    pub(super) fn http(&self) -> String {
        let path = self.path.strip_suffix("/ws").unwrap_or(&self.path);
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.authority)
    }

    /// The same place with TLS, or without.
    pub(super) fn with_tls(&self, is_secure: bool) -> Self {
        Self {
            is_secure,
            ..self.clone()
        }
    }

    /// Whether it is reached with TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// What is trusted and shown there.
    pub(super) fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// Host and port.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_names_the_same_broker() {
        let cases = [
            (
                "ws://127.0.0.1:4275/ws",
                "http://127.0.0.1:4275",
                &["ws://127.0.0.1:4275/ws"][..],
            ),
            (
                "http://127.0.0.1:4275",
                "http://127.0.0.1:4275",
                &["ws://127.0.0.1:4275/ws", "ws://127.0.0.1:4275"],
            ),
            (
                "[::1]:4275/",
                "http://[::1]:4275",
                &["ws://[::1]:4275/ws", "ws://[::1]:4275"],
            ),
            (
                "WS://localhost:4275",
                "http://localhost:4275",
                &["ws://localhost:4275/ws", "ws://localhost:4275"],
            ),
            (
                "wss://example.org/hark/ws?x=1#y",
                "https://example.org/hark",
                &["wss://example.org/hark/ws?x=1"],
            ),
            (
                "https://example.org/hark/",
                "https://example.org/hark",
                &["wss://example.org/hark/ws", "wss://example.org/hark"],
            ),
            (
                "ws://example.org/realtime",
                "http://example.org/realtime",
                &["ws://example.org/realtime", "ws://example.org/realtime/ws"],
            ),
        ];
        for (url, http, websockets) in cases {
            let place = Place::parse(url).unwrap();
            assert_eq!(place.http(), http, "{url}");
            assert_eq!(place.websockets(), websockets, "{url}");
        }
    }

    #[test]
    fn what_is_no_url_says_how_one_looks() {
        for (bad, said) in [
            ("nonsense", "neither a scheme nor a port"),
            ("ftp://127.0.0.1:4275", "scheme"),
            ("http://", "no host"),
            ("http://:4275", "no host"),
            ("", "no host"),
            ("127.0.0.1:port", "port"),
            ("127.0.0.1:70000", "port"),
            ("ana:secret@127.0.0.1:4275", "--token-file"),
            ("http://exa mple:1", "URL"),
        ] {
            let error = Place::parse(bad).unwrap_err().to_string();
            assert!(
                error.contains(said) && error.contains("http://HOST:PORT"),
                "{bad}: {error}"
            );
        }
    }
}

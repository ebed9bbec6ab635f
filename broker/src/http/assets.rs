//! What Hark serves as it is: the JavaScript client, and a page to try it. Both come with the binary, so that nothing else has to be
//! installed or fetched.

use actix_web::http::header::{self, ETag, EntityTag, IfNoneMatch};
use actix_web::{HttpResponse, web};

use super::rules::OF_HTML;

const HTML: &str = "text/html; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! js_folder {
    ($path:literal) => {
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../client-sdk/js/",
            $path
        ))
    };
}

/// A file that is served.
#[derive(Debug)]
pub(super) struct Asset {
    pub(super) path: &'static str,
    content_type: &'static str,
    body: &'static str,
}

/// All that are served, by path.
pub(super) const ASSETS: [Asset; 7] = [
    asset("/hark.js", JAVASCRIPT, js_folder!("dist/hark.js")),
    asset("/demo", HTML, js_folder!("demo/index.html")),
    asset("/demo/demo.css", CSS, js_folder!("demo/demo.css")),
    asset("/demo/demo.js", JAVASCRIPT, js_folder!("demo/demo.js")),
    asset("/demo/chart.js", JAVASCRIPT, js_folder!("demo/chart.js")),
    asset("/demo/icon.svg", SVG, js_folder!("demo/icon.svg")),
    // What browsers ask for of their own accord.
    asset("/favicon.ico", SVG, js_folder!("demo/icon.svg")),
];

const fn asset(path: &'static str, content_type: &'static str, body: &'static str) -> Asset {
    Asset {
        path,
        content_type,
        body,
    }
}

impl Asset {
    /// The file, unless the client has it already.
    pub(super) fn serve(&self, known: Option<web::Header<IfNoneMatch>>) -> HttpResponse {
        // Whoever has a page has what was said with it, too (RFC 9111, section 4.3.4).
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(self.body.as_bytes());
        for (_, value) in OF_HTML {
            hasher.update(value.as_bytes());
        }
        let tag = EntityTag::new_strong(format!("{:08x}", hasher.finalize()));
        let is_known = match known.map(web::Header::into_inner) {
            Some(IfNoneMatch::Any) => true,
            Some(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(&tag)),
            None => false,
        };
        let mut response = match is_known {
            true => HttpResponse::NotModified(),
            false => HttpResponse::Ok(),
        };
        response
            .insert_header(ETag(tag))
            // Asked for each time, and sent when it is another: the client belongs to this broker.
            .insert_header((header::CACHE_CONTROL, "no-cache"));
        match is_known {
            true => response.finish(),
            false => response.content_type(self.content_type).body(self.body),
        }
    }
}

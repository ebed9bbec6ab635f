//! HTTP: every route on one screen. Owns requests and responses; what they ask for is done by rooms and the log, the same way as
//! for a session: there is no second path.

mod admin;
mod admitted;
mod ambient;
mod answers;
mod assets;
mod body;
mod client_address;
mod error;
mod event_writer;
mod events;
mod follow;
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod messages;
mod origin;
mod page;
mod publish;
mod publish_many;
mod publishing;
mod query;
mod reading;
mod rules;
mod topics;
mod upgrade;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_http::ConnectionType;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::guard::{Any, Get, Head};
use actix_web::http::{StatusCode, header};
use actix_web::middleware::Next;
use actix_web::{HttpRequest, HttpResponse, Resource, Route, web};
use hark_protocol::ErrorCode;
use ipnet::IpNet;
use serde_json::json;

use crate::connections::Connection;
use crate::identity::{Authority, Identity};
use crate::limits::{Limits, Meter};
use crate::listeners::Listeners;
use crate::message_log::Health;
use crate::reload::Reloads;
use crate::session::{About, Sessions, Transport};
use crate::settings::SessionSettings;
use crate::topic::Registry;

pub use answers::Answers;
pub use error::ApiError;
pub use guard::{Admission, Hosts, cors};
pub use origin::{AllowedOrigin, PublicUrl};
pub use rules::keep_rules;

/// What every request is given.
#[derive(Debug)]
pub struct Gate {
    /// The rooms.
    pub registry: Arc<Registry>,
    /// Who judges what clients show.
    pub(crate) authority: Arc<Authority>,
    /// Reads again what is configured in files.
    pub(crate) reloads: Arc<Reloads>,
    /// Where clients come in: what is wrong there is said by `/readyz`.
    pub(crate) listeners: Arc<Listeners>,
    /// Whether a token is taken that anybody on its way could read.
    pub takes_plaintext: bool,
    /// Who is connected.
    pub sessions: Arc<Sessions>,
    /// What each session is given.
    pub session_settings: SessionSettings,
    /// Who may come in at all.
    pub admission: Admission,
    /// Proxies that are believed who the client is.
    pub trusted_proxies: Arc<[IpNet]>,
    /// How much each may.
    pub limits: Arc<Limits>,
    /// Answers that wait to be read.
    pub answers: Answers,
    /// Hark is about to end: nobody new is let in.
    pub stopping: AtomicBool,
}

impl Gate {
    /// Refuses what begins when Hark is about to end.
    fn check_open(&self) -> Result<(), ApiError> {
        match self.stopping.load(Ordering::Relaxed) {
            true => Err(stopping()),
            false => Ok(()),
        }
    }

    /// Whether a request is known to have come by https.
    fn is_by_https(&self, request: &HttpRequest) -> bool {
        client_address::is_https(request, &self.trusted_proxies)
    }

    /// What is known of a client that stays.
    fn about(&self, request: &HttpRequest, transport: Transport, identity: &Identity) -> About {
        let user_agent = request.headers().get(header::USER_AGENT);
        About::new(
            transport,
            self.client_address(request),
            user_agent.and_then(|name| name.to_str().ok()),
            identity.clone(),
            Connection::of(request),
        )
    }

    /// What the client of a request may, as long as nobody knows who it is.
    fn meter(&self, request: &HttpRequest) -> Meter {
        let (address, is_behind_proxy) = client_address::counted_by(request, &self.trusted_proxies);
        if !is_behind_proxy
            && let Some(header) = client_address::proxys_header(request.headers())
            && let Some(peer) = request.peer_addr()
        {
            self.limits.tell_of_proxy(peer.ip(), header);
        }
        self.limits.of_client(address, is_behind_proxy)
    }

    /// Who the client is, for logs.
    fn client_address(&self, request: &HttpRequest) -> String {
        client_address::client_address(request, &self.trusted_proxies)
    }
}

fn stopping() -> ApiError {
    ApiError::new(
        ErrorCode::Busy,
        "hark is about to end; try again in a moment",
    )
}

/// The middleware by which a connection ends with its answer when Hark is about to end.
pub async fn close_at_the_end(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let gate = request.app_data::<web::Data<Gate>>().cloned();
    let mut response = next.call(request).await?;
    let stopping = gate.is_some_and(|gate| gate.stopping.load(Ordering::Relaxed));
    if stopping && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let head = response.response_mut().head_mut();
        head.set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// Every route.
pub fn routes(app: &mut web::ServiceConfig) {
    let messages = web::resource("/v1/topics/{topic}/messages")
        .route(web::post().to(publish::publish))
        .route(read().to(messages::of_topic))
        .default_service(web::to(|request| {
            error::wrong_method(request, "GET, HEAD, POST")
        }));
    let messages_of_topics = web::resource("/v1/messages")
        .route(web::post().to(publish_many::publish))
        .route(read().to(messages::of_topics))
        .default_service(web::to(|request| {
            error::wrong_method(request, "GET, HEAD, POST")
        }));
    let topic = web::resource("/v1/topics/{topic}")
        .route(read().to(topics::describe))
        .route(web::delete().to(topics::delete))
        .default_service(web::to(|request| {
            error::wrong_method(request, "GET, HEAD, DELETE")
        }));
    let sessions = web::resource("/v1/sessions")
        .route(read().to(admin::list_sessions))
        .route(web::delete().to(admin::end_sessions))
        .default_service(web::to(|request| {
            error::wrong_method(request, "GET, HEAD, DELETE")
        }));
    let session = web::resource("/v1/sessions/{id}")
        .route(web::delete().to(admin::end_session))
        .default_service(web::to(|request| error::wrong_method(request, "DELETE")));
    let revocations = web::resource("/v1/revocations")
        .route(read().to(admin::list_revocations))
        .route(web::post().to(admin::revoke))
        .default_service(web::to(|request| {
            error::wrong_method(request, "GET, HEAD, POST")
        }));
    let revocation = web::resource("/v1/revocations/{id}")
        .route(web::delete().to(admin::lift))
        .default_service(web::to(|request| error::wrong_method(request, "DELETE")));
    app.service(messages)
        .service(messages_of_topics)
        .service(topic)
        .service(stream(
            "/v1/topics/{topic}/events",
            web::get().to(events::of_topic),
        ))
        .service(stream("/v1/events", web::get().to(events::of_topics)))
        .service(stream("/ws", web::get().to(upgrade::upgrade)))
        .service(page("/", read().to(front_page)))
        .service(page("/v1/topics", read().to(topics::list)))
        .service(sessions)
        .service(session)
        .service(revocations)
        .service(revocation)
        .service(page("/healthz", read().to(alive)))
        .service(page("/readyz", read().to(ready)))
        .default_service(web::to(error::no_such_route));
    // What the page names is beside it, whatever stands before.
    app.service(web::redirect("/demo/", "../demo"));
    for asset in &assets::ASSETS {
        let serve = read().to(|known| async { asset.serve(known) });
        app.service(page(asset.path, serve));
    }
}

/// `GET`, and `HEAD`: the same without the body, as health checks ask (RFC 9110, section 9.3.2).
fn read() -> Route {
    web::route().guard(Any(Get()).or(Head()))
}

fn page(path: &str, route: Route) -> Resource {
    web::resource(path)
        .route(route)
        .default_service(web::to(|request| error::wrong_method(request, "GET, HEAD")))
}

/// What goes on and on: nobody wants its head alone.
fn stream(path: &str, route: Route) -> Resource {
    web::resource(path)
        .route(route)
        .default_service(web::to(|request| error::wrong_method(request, "GET")))
}

/// A page of Hark's own origin, so that a browser's console has somewhere to stand.
async fn front_page() -> HttpResponse {
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(concat!(
        "<!doctype html><meta charset=utf-8><title>Hark</title><h1>Hark ",
        env!("CARGO_PKG_VERSION"),
        "</h1><p>A pub/sub message broker that remembers. <a href=demo>Try it.</a> It serves WebSockets at <code>/ws</code>; \
         in this page's console:<pre>ws = new WebSocket(`${location.origin.replace('http', 'ws')}/ws`)\n\
         ws.onmessage = e => console.log(e.data)\n\
         ws.onopen = () => ws.send('{\"type\":\"subscribe\",\"id\":1,\"topic\":\"hello\",\"from\":\"earliest\"}')</pre>"
    ))
}

async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}

/// Whether Hark should be sent work. Warnings do not make it less ready: they say what was found wrong and gone on with.
async fn ready(gate: web::Data<Gate>) -> HttpResponse {
    let Health {
        refuses_writes,
        mut warnings,
    } = gate.registry.health();
    warnings.extend(gate.reloads.warning());
    warnings.extend(gate.listeners.warnings());
    let stopping = gate.stopping.load(Ordering::Relaxed);
    let (mut response, mut body) = match refuses_writes {
        _ if stopping => (
            HttpResponse::ServiceUnavailable(),
            json!({ "status": "stopping" }),
        ),
        Some(reason) => (
            HttpResponse::ServiceUnavailable(),
            json!({ "status": "closed_for_writing", "reason": reason }),
        ),
        None => (HttpResponse::Ok(), json!({ "status": "ready" })),
    };
    if !warnings.is_empty() {
        body["warnings"] = warnings.into();
    }
    response.json(body)
}

//! The door of every route that has to do with topics: a request that has come in. Owns that its name and its page were checked (`guard`), and who it is
//! of, settled here once for each request or connection; what that allows is asked by `topic::Access`, the only way to topics.

use std::future::{Ready, ready};
use std::time::SystemTime;

use actix_web::dev::Payload;
use actix_web::http::{Method, header};
use actix_web::{FromRequest, HttpRequest, web};
use hark_protocol::ErrorCode;

use super::{ApiError, Gate};
use crate::identity::Credential;
use crate::topic::Access;

/// A request that may come in.
#[derive(Debug)]
pub(super) struct Admitted {
    /// What it may do with topics.
    pub(super) access: Access,
}

impl FromRequest for Admitted {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(admit(request))
    }
}

fn admit(request: &HttpRequest) -> Result<Admitted, ApiError> {
    let gate = request.app_data::<web::Data<Gate>>();
    let no_gate = || ApiError::new(ErrorCode::Internal, "there is no broker behind this route");
    let gate = gate.ok_or_else(no_gate)?;
    match is_plain_read(request) {
        true => gate.admission.check_host(request)?,
        false => gate.admission.check(request)?,
    }
    let identity = gate.authority.judge(Credential::None, SystemTime::now())?;
    Ok(Admitted {
        access: gate.registry.access(identity),
    })
}

/// Whether it changes nothing, and its answer is kept from foreign pages by their browser (CORS), which it does not do for WebSockets.
fn is_plain_read(request: &HttpRequest) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
        && !request.headers().contains_key(header::UPGRADE)
}

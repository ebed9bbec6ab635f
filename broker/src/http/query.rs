//! What requests ask for behind the `?`: reading it, and refusing what is not known.

use std::ops::RangeInclusive;

use actix_web::{HttpRequest, web};
use hark_protocol::ErrorCode;
use serde::de::DeserializeOwned;

use super::ApiError;

/// Reads the query; `known` names its keys, for people who gave another.
pub(super) fn read<T: DeserializeOwned>(request: &HttpRequest, known: &str) -> Result<T, ApiError> {
    let query = web::Query::<T>::from_query(request.query_string());
    query
        .map(web::Query::into_inner)
        .map_err(|error| ApiError::new(ErrorCode::BadFrame, format!("{error}; there are {known}")))
}

/// Reads a whole number, if one was given.
pub(super) fn number(
    name: &str,
    given: Option<&str>,
    default: usize,
    allowed: RangeInclusive<usize>,
) -> Result<usize, ApiError> {
    let Some(given) = given else {
        return Ok(default);
    };
    given
        .parse()
        .ok()
        .filter(|number| allowed.contains(number))
        .ok_or_else(|| {
            let (least, most) = allowed.into_inner();
            ApiError::new(
                ErrorCode::BadFrame,
                format!("{name} is a whole number from {least} to {most}"),
            )
        })
}

//! What the API says when it can't do what was asked.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::{ConfigErrors, ErrorKind as ConfigErrorKind};

/// Why not, and what to do. On the wire it stands under the key `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct ApiError {
    /// What sort of failure.
    pub kind: ErrorKind,
    /// What was tried, on what, and what was found.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Sorts of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The input is not allowed.
    Invalid,
    /// There is no such service, backend or path.
    NotFound,
    /// The path doesn't take this method.
    MethodNotAllowed,
    /// It contradicts what is there.
    Conflict,
    /// Neither a token nor a certificate says who asks.
    Unauthorized,
    /// Whoever asks may not do that.
    Forbidden,
    /// The body is too long.
    TooLarge,
    /// The kernel or the host refused.
    Failed,
    /// The agent starts, stops or is too busy to answer.
    Unavailable,
}

impl ErrorKind {
    fn status(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// How an error lies on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// What went wrong.
    pub error: ApiError,
}

impl ApiError {
    /// A failure without a hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// With what to do.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// No service has that name.
    pub fn no_service(name: &str) -> Self {
        Self::new(ErrorKind::NotFound, format!("there is no service {name:?}"))
            .hint("`xlb service list` shows the services that are there")
    }

    /// The service has no such backend.
    pub fn no_backend(service: &str, address: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, format!("service {service:?} has no backend {address}"))
            .hint(format!("`xlb backend list {service}` shows the backends that are there"))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.kind.status(), Json(Envelope { error: self })).into_response()
    }
}

impl From<ConfigErrors> for ApiError {
    /// Says every mistake, a line each; several have their hints beside them.
    fn from(ConfigErrors(mut errors): ConfigErrors) -> Self {
        let conflict = errors.iter().all(|error| error.kind == ConfigErrorKind::Duplicate);
        let kind = if conflict { ErrorKind::Conflict } else { ErrorKind::Invalid };
        let hint = match errors.as_mut_slice() {
            [only] => only.help.take(),
            _ => None,
        };
        let lines = errors.iter().map(|error| {
            let key = if error.key.is_empty() { "" } else { ": " };
            let help = error.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
            format!("{}{key}{}{help}", error.key, error.message)
        });
        Self { kind, message: lines.collect::<Vec<_>>().join("\n"), hint }
    }
}

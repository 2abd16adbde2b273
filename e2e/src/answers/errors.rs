//! Errors in the providers' shapes.

use crate::question::Api;
use serde_json::{Value, json};

/// An error as a provider tells it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// HTTP status.
    pub status: u16,
    /// The provider's class of the error.
    pub kind: &'static str,
    /// OpenAI's code.
    pub code: Option<&'static str>,
    /// For people.
    pub message: String,
    /// Headers besides the usual ones.
    pub headers: Vec<(&'static str, &'static str)>,
}

impl Failure {
    /// What `api` answers with `status`.
    pub fn of(api: Option<Api>, status: u16, model: &str) -> Self {
        let anthropic = api.is_some_and(Api::is_anthropic);
        let (kind, code, message) = match (status, anthropic) {
            (400, _) => ("invalid_request_error", None, "The request is malformed.".to_owned()),
            (401, false) => {
                ("invalid_request_error", Some("invalid_api_key"), "Incorrect API key provided.".to_owned())
            }
            (401, true) => ("authentication_error", None, "invalid x-api-key".to_owned()),
            (403, true) => ("permission_error", None, "Not allowed.".to_owned()),
            (403, false) => (
                "invalid_request_error",
                Some("unsupported_country_region_territory"),
                "Not allowed.".to_owned(),
            ),
            (404, false) => (
                "invalid_request_error",
                Some("model_not_found"),
                format!("The model `{model}` does not exist or you do not have access to it."),
            ),
            (404, true) => ("not_found_error", None, format!("model: {model}")),
            (413, true) => ("request_too_large", None, "Request exceeds the maximum size".to_owned()),
            (429, false) => ("requests", Some("rate_limit_exceeded"), "Rate limit reached.".to_owned()),
            (429, true) => {
                ("rate_limit_error", None, "Number of requests has exceeded your rate limit.".to_owned())
            }
            (529, _) => ("overloaded_error", None, "Overloaded".to_owned()),
            (_, true) => ("api_error", None, "Internal server error".to_owned()),
            (_, false) => {
                ("server_error", None, "The server had an error while processing your request.".to_owned())
            }
        };
        // Milliseconds are read by the SDKs only, and keep tests short.
        let mut headers = Vec::new();
        if status >= 429 {
            headers.push(("retry-after-ms", "5"));
        }
        if matches!(status, 429 | 503 | 529) {
            headers.push(("retry-after", "1"));
        }
        Self { status, kind, code, message, headers }
    }

    /// The body of the response, or the data of an error event.
    pub fn body(&self, api: Option<Api>) -> Value {
        if api.is_some_and(Api::is_google) {
            json!({"error": {"code": self.status, "message": self.message, "status": self.google_status()}})
        } else if api.is_some_and(Api::is_anthropic) {
            json!({
                "type": "error",
                "error": {"type": self.kind, "message": self.message},
                "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy",
            })
        } else {
            json!({"error": {"message": self.message, "type": self.kind, "param": null, "code": self.code}})
        }
    }

    /// The class of the error, in the API's words.
    pub fn kind(&self, api: Option<Api>) -> &'static str {
        if api.is_some_and(Api::is_google) { self.google_status() } else { self.kind }
    }

    /// Google's name of the status (google.rpc.Code).
    fn google_status(&self) -> &'static str {
        match self.status {
            400 => "INVALID_ARGUMENT",
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            429 => "RESOURCE_EXHAUSTED",
            503 | 529 => "UNAVAILABLE",
            _ => "INTERNAL",
        }
    }
}

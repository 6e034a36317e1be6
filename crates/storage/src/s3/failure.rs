//! From what the store or the network said to a class, and to words for an operator.
//!
//! Codes are those of the S3 API reference, "Error responses".

use std::error::Error;
use std::io;
use std::ops::Range;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStreamError;
use tidemark_types::ErrorClass;

use crate::{Operation, StorageError};

/// What is being done on what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) operation: Operation,
    pub(super) name: &'a str,
    pub(super) url: &'a str,
    pub(super) bucket: &'a str,
}

/// What the store answered, as far as it decides anything.
#[derive(Debug, Default)]
struct Answer {
    /// HTTP status; zero when there was no answer.
    status: u16,
    code: String,
    message: String,
}

impl Subject<'_> {
    pub(super) fn not_found(&self) -> StorageError {
        StorageError::NotFound {
            subject: self.name.to_owned(),
            url: self.url.to_owned(),
        }
    }

    pub(super) fn already_exists(&self) -> StorageError {
        StorageError::AlreadyExists {
            subject: self.name.to_owned(),
            url: self.url.to_owned(),
        }
    }

    pub(super) fn changed(&self) -> StorageError {
        StorageError::Changed {
            subject: self.name.to_owned(),
            url: self.url.to_owned(),
        }
    }

    pub(super) fn invalid_range(&self, range: &Range<u64>) -> StorageError {
        StorageError::InvalidRange {
            subject: self.name.to_owned(),
            url: self.url.to_owned(),
            begin: range.start,
            end: range.end,
        }
    }

    pub(super) fn failed(&self, class: ErrorClass, problem: impl Into<String>) -> StorageError {
        StorageError::Failed {
            operation: self.operation,
            subject: self.name.to_owned(),
            url: self.url.to_owned(),
            class,
            source: problem.into().into(),
        }
    }

    fn config(&self, problem: impl Into<String>) -> StorageError {
        StorageError::Config {
            operation: self.operation,
            subject: format!("{} in {}", self.name, self.url)
                .trim_start_matches(" in ")
                .to_owned(),
            problem: problem.into(),
        }
    }

    /// A read that failed: absent objects and ranges past the end have errors of their own.
    pub(super) fn read_error<E>(
        &self,
        error: &SdkError<E, HttpResponse>,
        range: Option<&Range<u64>>,
    ) -> StorageError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        match (status(error), code(error), range) {
            // HEAD answers have no body and so no code.
            (404, None | Some("NoSuchKey" | "NotFound"), _) => self.not_found(),
            (416, _, Some(range)) => self.invalid_range(range),
            _ => self.error(error),
        }
    }

    /// A failure of any request.
    pub(super) fn error<E>(&self, error: &SdkError<E, HttpResponse>) -> StorageError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        match error {
            SdkError::ServiceError(service) => self.refusal(&Answer {
                status: status(error),
                code: service.err().code().unwrap_or_default().to_owned(),
                message: service.err().message().unwrap_or_default().to_owned(),
            }),
            SdkError::ResponseError(_) => {
                let class = match status(error) {
                    400..=499 => ErrorClass::Permanent,
                    _ => ErrorClass::Transient,
                };
                self.failed(class, causes(error))
            }
            other => self.unanswered(other),
        }
    }

    /// A request that never got an answer.
    fn unanswered(&self, error: &(dyn Error + 'static)) -> StorageError {
        for cause in chain(error) {
            match cause.downcast_ref::<CredentialsError>() {
                Some(CredentialsError::CredentialsNotLoaded(_)) => {
                    return self.config(
                        "no credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or give \
                         the host a role",
                    );
                }
                Some(CredentialsError::InvalidConfiguration(_)) => {
                    return self.config(format!(
                        "the credentials' configuration is wrong: {}",
                        causes(error)
                    ));
                }
                _ => {}
            }
            if is_tls_refusal(cause) {
                return self.config(format!(
                    "the store's certificate is not accepted: {} (add its authority to the host's trusted ones)",
                    causes(error)
                ));
            }
        }
        self.failed(ErrorClass::Transient, causes(error))
    }

    /// A download that broke off.
    pub(super) fn broken_body(&self, error: &ByteStreamError) -> StorageError {
        self.failed(ErrorClass::Transient, causes(error))
    }

    /// One object that a batched delete could not delete.
    pub(super) fn refused_delete(&self, code: &str, message: &str) -> StorageError {
        self.refusal(&Answer {
            status: 0,
            code: code.to_owned(),
            message: message.to_owned(),
        })
    }

    fn refusal(&self, answer: &Answer) -> StorageError {
        match self.advice(answer) {
            Some(advice) => self.config(advice),
            None => self.failed(class(answer), said(answer)),
        }
    }

    /// What the operator has to mend, where the settings are at fault.
    fn advice(&self, answer: &Answer) -> Option<String> {
        let said = said(answer);
        Some(match (answer.code.as_str(), answer.status) {
            ("NoSuchBucket", _) => {
                let bucket = self.bucket;
                format!(
                    "there is no bucket \"{bucket}\": create it, or correct the repository's address or endpoint"
                )
            }
            ("InvalidAccessKeyId" | "InvalidClientTokenId", _) => {
                format!(
                    "the store does not know this access key ({said}): check AWS_ACCESS_KEY_ID or the profile"
                )
            }
            ("SignatureDoesNotMatch", _) => format!(
                "the store does not accept the signature ({said}): check the secret access key and the region; a proxy \
                 that changes requests has the same effect"
            ),
            ("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired", _) => {
                format!("the session token is not valid any more ({said}): get new temporary credentials")
            }
            ("RequestTimeTooSkewed", _) => {
                format!(
                    "this host's clock and the store's differ too much ({said}): set the clock, and run NTP"
                )
            }
            (
                "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException",
                _,
            )
            | (_, 301 | 307) => {
                format!(
                    "the bucket is in another region or at another endpoint ({said}): set region or endpoint"
                )
            }
            ("AccessDenied" | "AllAccessDisabled" | "AccountProblem", _) | (_, 401 | 403) => format!(
                "access denied ({said}): check the access key and its secret; the key needs s3:ListBucket on the bucket \
                 and s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload below the prefix"
            ),
            _ => return None,
        })
    }
}

/// Whether a retry can help against what the store said.
fn class(answer: &Answer) -> ErrorClass {
    match (answer.code.as_str(), answer.status) {
        (
            "SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "BandwidthLimitExceeded"
            | "RequestTimeout" | "InternalError" | "ServiceUnavailable" | "OperationAborted"
            | "ConditionalRequestConflict"
            // The bytes were changed on their way.
            | "BadDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody",
            _,
        ) => ErrorClass::Transient,
        ("NotImplemented", _) | (_, 501 | 505) => ErrorClass::Permanent,
        (_, 408 | 425 | 429 | 500..) => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    }
}

fn said(answer: &Answer) -> String {
    let Answer {
        status,
        code,
        message,
    } = answer;
    match (code.as_str(), message.as_str(), status) {
        ("", "", status) => format!("HTTP status {status}"),
        ("", message, status) => format!("HTTP status {status}: {message}"),
        (code, "", _) => code.to_owned(),
        (code, message, _) => format!("{code}: {message}"),
    }
}

/// The HTTP status of the answer; zero when there was none.
pub(super) fn status<E>(error: &SdkError<E, HttpResponse>) -> u16 {
    error
        .raw_response()
        .map_or(0, |response| response.status().as_u16())
}

pub(super) fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}

fn is_tls_refusal(error: &(dyn Error + 'static)) -> bool {
    let inner = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => inner.downcast_ref::<rustls::Error>(),
        None => error.downcast_ref::<rustls::Error>(),
    };
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// All causes in one line. The layers of the SDK and of hyper repeat each other: each text is said once.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in chain(error) {
        let text = cause.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

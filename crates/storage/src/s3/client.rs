//! Making a client: region, endpoint, credentials, TLS, limits.

use std::env;
use std::time::Duration;

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, ConfigLoader, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Credentials, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls;

use crate::s3::{S3Credentials, S3Settings};
use crate::{Operation, StorageError};

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A download that moves nothing for this long has stalled.
const STALL_MAX: Duration = Duration::from_secs(20);
/// What S3-compatible stores sign for when nobody cares about regions.
const REGION_OF_ENDPOINTS: &str = "us-east-1";
/// Set, these make the SDK use another endpoint without our asking.
const ENDPOINT_VARIABLES: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];

pub(super) async fn connect(settings: &S3Settings) -> Result<Client, StorageError> {
    if let Some(endpoint) = &settings.endpoint {
        check_endpoint(settings, endpoint)?;
    }
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https();
    let loader = aws_config::defaults(behavior())
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_MAX).build())
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled()
                // A store that takes its time to make an upload durable has not stalled.
                .upload_enabled(false)
                .grace_period(STALL_MAX)
                .build(),
        );
    let mut loader = with_region(loader, settings);
    if let Some(credentials) = &settings.credentials {
        loader = loader.credentials_provider(fixed(credentials));
    }
    let shared = loader.load().await;
    if shared.region().is_none() {
        let problem =
            "no region is set: give one in the repository settings, in AWS_REGION or in the profile";
        return Err(config_error(settings, problem));
    }
    let elsewhere = has_endpoint(settings) || shared.endpoint_url().is_some();
    let mut config =
        aws_sdk_s3::config::Builder::from(&shared).force_path_style(settings.path_style.unwrap_or(elsewhere));
    if let Some(endpoint) = &settings.endpoint {
        config = config.endpoint_url(endpoint);
    }
    if elsewhere {
        // Many stores refuse or ignore the checksums that AWS adds by default; our objects carry their own.
        config = config
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    }
    Ok(Client::from_conf(config.build()))
}

/// Pinned, so that an update of the SDK changes no defaults behind our back.
fn behavior() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

/// With an endpoint and no region given, the host's metadata service is not asked: off the cloud that takes seconds,
/// and on it the region of the host says nothing about the store.
fn with_region(loader: ConfigLoader, settings: &S3Settings) -> ConfigLoader {
    match &settings.region {
        Some(region) => loader.region(Region::new(region.clone())),
        None if has_endpoint(settings) => loader.region(
            RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::new())
                .or_else(Region::from_static(REGION_OF_ENDPOINTS)),
        ),
        None => loader,
    }
}

fn has_endpoint(settings: &S3Settings) -> bool {
    settings.endpoint.is_some() || ENDPOINT_VARIABLES.iter().any(|name| env::var_os(name).is_some())
}

fn fixed(credentials: &S3Credentials) -> Credentials {
    Credentials::new(
        credentials.access_key_id.clone(),
        credentials.secret_access_key.expose(),
        credentials
            .session_token
            .as_ref()
            .map(|token| token.expose().to_owned()),
        None,
        "repository settings",
    )
}

fn check_endpoint(settings: &S3Settings, endpoint: &str) -> Result<(), StorageError> {
    let host = endpoint
        .strip_prefix("https://")
        .or_else(|| endpoint.strip_prefix("http://"));
    match host {
        Some(host) if host.contains('@') => Err(config_error(
            settings,
            "credentials do not go into the endpoint: set AWS_ACCESS_KEY_ID",
        )),
        Some(host) if !host.is_empty() && !host.contains(['?', '#', ' ']) => Ok(()),
        _ => {
            let problem =
                format!("the endpoint \"{endpoint}\" is no URL: write https://host or http://host:port");
            Err(config_error(settings, problem))
        }
    }
}

fn config_error(settings: &S3Settings, problem: impl Into<String>) -> StorageError {
    StorageError::Config {
        operation: Operation::Open,
        subject: format!("s3://{}", settings.bucket),
        problem: problem.into(),
    }
}

//! Stores on real S3 servers, opened the way the binaries open them.

use std::sync::Arc;
use std::time::Duration;

use tidemark_storage::{RetryPolicy, S3Credentials, Storage, StorageOptions, StorageUrl, open};
use tidemark_testkit::S3Endpoint;
use tidemark_types::Secret;

/// Settings for a test server. Its failures are over within seconds, so retries need no minutes.
pub fn options(endpoint: &S3Endpoint) -> StorageOptions {
    StorageOptions {
        endpoint: Some(endpoint.url()),
        region: Some(endpoint.region.clone()),
        credentials: Some(S3Credentials {
            access_key_id: endpoint.access_key.clone(),
            secret_access_key: Secret::new(endpoint.secret_key.clone()),
            session_token: None,
        }),
        retry: RetryPolicy {
            elapsed_max: Duration::from_secs(30),
            ..RetryPolicy::default()
        },
        ..StorageOptions::default()
    }
}

/// A store below a prefix that nobody used before.
pub async fn fresh(endpoint: &S3Endpoint) -> Arc<dyn Storage> {
    let prefix = format!("fresh-{:016x}/repository", rand::random::<u64>());
    store(endpoint, &prefix, &options(endpoint)).await
}

/// A store below a prefix of the server's bucket.
pub async fn store(endpoint: &S3Endpoint, prefix: &str, options: &StorageOptions) -> Arc<dyn Storage> {
    let url: StorageUrl = format!("s3://{}/{prefix}", endpoint.bucket).parse().unwrap();
    open(&url, options).await.unwrap()
}

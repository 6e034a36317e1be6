//! From an address and settings to a store that retries and counts.

use std::sync::Arc;

use crate::s3::{S3Settings, S3Storage};
use crate::{
    FileStorage, Metered, RetryPolicy, Retrying, S3Credentials, Storage, StorageError, StorageMetrics,
    StorageUrl,
};

/// Settings beside the address. The default suits a local directory and AWS.
#[derive(Debug, Clone, Default)]
pub struct StorageOptions {
    /// Base URL of an S3-compatible store, such as `https://minio.example.com:9000`; AWS when absent
    /// (`AWS_ENDPOINT_URL` also works).
    pub endpoint: Option<String>,
    /// Region; absent: from `AWS_REGION`, the profile or the host's metadata, and `us-east-1` with an endpoint.
    pub region: Option<String>,
    /// Bucket in the path instead of the host name; absent: with an endpoint yes, on AWS no.
    pub path_style: Option<bool>,
    /// Credentials; absent: the standard chain (environment, profile files, web identity, container, host metadata).
    pub credentials: Option<S3Credentials>,
    /// How often and how long to try again.
    pub retry: RetryPolicy,
    /// Only reads will follow: nothing is created, and a directory must be there.
    pub read_only: bool,
    /// Where to count; share it to export it.
    pub metrics: Arc<StorageMetrics>,
}

/// Opens a store. For `s3://` nothing is sent yet: [`Storage::probe`], or the first operation, meets the store.
///
/// # Errors
/// [`StorageError::Config`] when the address and the settings cannot work, [`StorageError::Failed`] otherwise.
pub async fn open(url: &StorageUrl, options: &StorageOptions) -> Result<Arc<dyn Storage>, StorageError> {
    match url {
        StorageUrl::File { path } if options.read_only => {
            Ok(decorated(FileStorage::open_read_only(path).await?, options))
        }
        StorageUrl::File { path } => Ok(decorated(FileStorage::open(path).await?, options)),
        StorageUrl::S3 { bucket, prefix } => {
            let settings = S3Settings {
                bucket: bucket.clone(),
                prefix: prefix.clone(),
                endpoint: options.endpoint.clone(),
                region: options.region.clone(),
                path_style: options.path_style,
                credentials: options.credentials.clone(),
                retry: options.retry,
                metrics: Arc::clone(&options.metrics),
            };
            Ok(decorated(S3Storage::open(settings).await?, options))
        }
    }
}

fn decorated(storage: impl Storage + 'static, options: &StorageOptions) -> Arc<dyn Storage> {
    let metered = Metered::new(storage, Arc::clone(&options.metrics));
    Arc::new(Retrying::new(
        metered,
        options.retry,
        Arc::clone(&options.metrics),
    ))
}

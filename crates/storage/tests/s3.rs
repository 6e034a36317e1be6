//! What S3 stores and the network to them do wrong, and what a user then reads.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidemark_storage::{
    ObjectKey, Operation, PutMode, RetryPolicy, Storage, StorageError, StorageMetrics, StorageOptions,
    StorageUrl, open,
};
use tidemark_testkit::{Garage, ProxyMode, TcpProxy};
use tidemark_types::{ErrorClass, Secret};

use crate::servers;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

/// An error as a user reads it: with all its causes.
fn rendered(error: &StorageError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

async fn failure(url: &str, options: &StorageOptions) -> StorageError {
    let url: StorageUrl = url.parse().unwrap();
    let storage = match open(&url, options).await {
        Ok(storage) => storage,
        Err(error) => return error,
    };
    storage.probe(&key("lease")).await.unwrap_err()
}

fn retries(metrics: &StorageMetrics, operation: Operation) -> u64 {
    let seen = metrics.snapshot();
    let found = seen.operations.iter().find(|seen| seen.operation == operation);
    found.unwrap().retries
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_named_and_not_tried_again() {
    let garage = Garage::start_new();
    let endpoint = garage.endpoint();
    let good = servers::options(&endpoint);
    let bucket = format!("s3://{}/x", endpoint.bucket);

    let missing = failure("s3://no-such-bucket/x", &good).await;
    let mut wrong_secret = good.clone();
    wrong_secret.credentials.as_mut().unwrap().secret_access_key = Secret::new("not-the-secret");
    let wrong_secret = failure(&bucket, &wrong_secret).await;
    let mut unknown_key = good.clone();
    unknown_key.credentials.as_mut().unwrap().access_key_id = "GK999999999999999999999999".to_owned();
    let unknown_key = failure(&bucket, &unknown_key).await;
    let wrong_region = StorageOptions {
        region: Some("elsewhere".to_owned()),
        ..good.clone()
    };
    let wrong_region = failure(&bucket, &wrong_region).await;
    let no_url = StorageOptions {
        endpoint: Some("garage:3900".to_owned()),
        ..good.clone()
    };
    let no_url = failure(&bucket, &no_url).await;

    for (error, part) in [
        (
            &missing,
            "there is no bucket \"no-such-bucket\": create it, or correct the repository's address",
        ),
        (&wrong_secret, "check the access key and its secret"),
        (&unknown_key, "GK999999999999999999999999"),
        (&wrong_region, "set region or endpoint"),
        (
            &no_url,
            "the endpoint \"garage:3900\" is no URL: write https://host or http://host:port",
        ),
    ] {
        let text = rendered(error);
        assert!(text.contains(part), "{text}");
        assert_eq!(error.class(), ErrorClass::Config, "{text}");
        for secret in [endpoint.secret_key.as_str(), "not-the-secret"] {
            assert!(
                !text.contains(secret) && !format!("{error:?}").contains(secret),
                "{text}"
            );
        }
    }
    assert_eq!(retries(&good.metrics, Operation::Open), 0);
    assert!(!format!("{good:?}").contains(&endpoint.secret_key));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_is_transient_and_says_where() {
    let garage = Garage::start_new();
    let endpoint = garage.endpoint();
    garage.stop();
    let options = StorageOptions {
        retry: RetryPolicy::once(),
        ..servers::options(&endpoint)
    };
    let error = failure(&format!("s3://{}/x", endpoint.bucket), &options).await;
    let text = rendered(&error);
    assert_eq!(error.class(), ErrorClass::Transient, "{text}");
    assert!(text.starts_with("put lease/probe-"), "{text}");
    assert!(text.contains("in s3://testbucket/x: "), "{text}");
    assert!(text.contains("Connection refused"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_after_the_store_was_away() {
    let garage = Garage::start_new();
    let endpoint = garage.endpoint();
    let proxy = TcpProxy::start(endpoint.address);
    let endpoint = endpoint.by_way_of(proxy.address());
    let options = servers::options(&endpoint);
    let storage = servers::store(&endpoint, "away", &options).await;
    storage.probe(&key("lease")).await.unwrap();

    proxy.set(ProxyMode::Refuse);
    let put = tokio::spawn({
        let storage = Arc::clone(&storage);
        async move {
            storage
                .put(&key("a"), Bytes::from_static(b"one"), PutMode::Create)
                .await
        }
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    proxy.set(ProxyMode::Pass);
    put.await.unwrap().unwrap();
    assert!(retries(&options.metrics, Operation::Put) > 0);

    // The parts of an upload are tried again too.
    let before = retries(&options.metrics, Operation::Put);
    let mut upload = storage.upload(&key("long")).await.unwrap();
    let body = Bytes::from(vec![7; 16 << 20]);
    upload.write(body.clone()).await.unwrap();
    proxy.set(ProxyMode::Refuse);
    let rest = tokio::spawn(async move {
        upload.write(body.clone()).await?;
        upload.write(body).await?;
        upload.complete().await
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    proxy.set(ProxyMode::Pass);
    rest.await.unwrap().unwrap();
    assert!(retries(&options.metrics, Operation::Put) > before);
    assert_eq!(storage.head(&key("long")).await.unwrap().size, 48 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_is_given_up() {
    let garage = Garage::start_new();
    let endpoint = garage.endpoint();
    let proxy = TcpProxy::start(endpoint.address);
    let endpoint = endpoint.by_way_of(proxy.address());
    let mut options = servers::options(&endpoint);
    options.retry = RetryPolicy {
        attempts_max: 3,
        attempt_max: Duration::from_secs(1),
        delay_max: Duration::from_millis(100),
        ..RetryPolicy::default()
    };
    let storage = servers::store(&endpoint, "silent", &options).await;
    storage
        .put(&key("a"), Bytes::from_static(b"one"), PutMode::Create)
        .await
        .unwrap();
    proxy.set(ProxyMode::Hang);
    let begin = Instant::now();
    let error = storage.get(&key("a"), None).await.unwrap_err();
    assert_eq!(
        rendered(&error),
        "get a in s3://testbucket/silent: no answer within 1 s"
    );
    assert!(begin.elapsed() < Duration::from_secs(10));
    proxy.set(ProxyMode::Pass);
    assert_eq!(storage.get(&key("a"), None).await.unwrap().bytes, "one");
}

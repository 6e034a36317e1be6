//! The address of a repository, as users write it.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use tidemark_types::ErrorClass;

use crate::ObjectKey;

/// Where a repository lies: `file:///absolute/path` or `s3://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StorageUrl {
    /// A directory.
    File {
        /// Absolute, without `.` and `..`.
        path: PathBuf,
    },
    /// A prefix in a bucket of an S3-compatible store.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// The prefix, without a slash at either end; `None` for the whole bucket.
        prefix: Option<ObjectKey>,
    },
}

/// Text that is no address of a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("repository \"{url}\": {problem}")]
pub struct InvalidUrl {
    /// What was given.
    pub url: String,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

impl InvalidUrl {
    /// A mistake in the configuration.
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Config
    }
}

impl FromStr for StorageUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<StorageUrl, InvalidUrl> {
        parse(text).map_err(|problem| InvalidUrl {
            url: without_credentials(text),
            problem,
        })
    }
}

fn parse(text: &str) -> Result<StorageUrl, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("write file:///absolute/path or s3://bucket/prefix".to_owned());
    };
    if rest.contains(['?', '#']) {
        return Err(
            "settings do not go into the address: endpoint, region and path_style have options of their own"
                .to_owned(),
        );
    }
    match scheme {
        "file" => parse_file(rest),
        "s3" => parse_s3(rest),
        "gs" | "gcs" | "az" | "azure" => Err(format!(
            "{scheme}:// is not supported yet: use file:// or s3:// (Google Cloud Storage also speaks S3, at the \
             endpoint https://storage.googleapis.com)"
        )),
        other => Err(format!(
            "unknown scheme {other}://: write file:///absolute/path or s3://bucket/prefix"
        )),
    }
}

/// The address as it may be shown: without what stands before an `@`.
fn without_credentials(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}"),
        (None, Some((_, host))) => format!("***@{host}"),
        _ => text.to_owned(),
    }
}

fn parse_file(rest: &str) -> Result<StorageUrl, String> {
    if !rest.starts_with('/') {
        return Err(
            "a file address has three slashes and an absolute path, as in file:///var/lib/tidemark"
                .to_owned(),
        );
    }
    let path = Path::new(rest);
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("the path must not contain \"..\"".to_owned());
    }
    let path: PathBuf = path.components().collect();
    if path == Path::new("/") {
        return Err("the root of the file system cannot be a repository: name a folder".to_owned());
    }
    Ok(StorageUrl::File { path })
}

fn parse_s3(rest: &str) -> Result<StorageUrl, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains('@') {
        return Err(
            "credentials do not go into the address: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                .to_owned(),
        );
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) {
        return Err(format!(
            "\"{bucket}\" cannot name a bucket: 3 to 63 letters, digits, dots and hyphens"
        ));
    }
    let prefix = match prefix.trim_end_matches('/') {
        "" => None,
        text => Some(ObjectKey::new(text).map_err(|_| {
            format!("the prefix \"{text}\" may hold letters, digits and . _ - + = only, in parts joined by single slashes")
        })?),
    };
    Ok(StorageUrl::S3 {
        bucket: bucket.to_owned(),
        prefix,
    })
}

impl fmt::Display for StorageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageUrl::File { path } => write!(f, "file://{}", path.display()),
            StorageUrl::S3 { bucket, prefix: None } => write!(f, "s3://{bucket}"),
            StorageUrl::S3 {
                bucket,
                prefix: Some(prefix),
            } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_without_needless_slashes() {
        for (text, shown) in [
            ("file:///var/lib/tidemark", "file:///var/lib/tidemark"),
            ("file:///var//lib/./tidemark/", "file:///var/lib/tidemark"),
            ("s3://backups", "s3://backups"),
            ("s3://backups/", "s3://backups"),
            ("s3://backups/prod/pg/", "s3://backups/prod/pg"),
        ] {
            let url: StorageUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(shown.parse::<StorageUrl>().unwrap(), url);
        }
    }

    #[test]
    fn a_wrong_address_says_what_to_write() {
        for (text, part) in [
            (
                "/var/lib/tidemark",
                "write file:///absolute/path or s3://bucket/prefix",
            ),
            ("file://var/lib", "three slashes"),
            ("file://host/var", "three slashes"),
            ("file:///a/../b", "must not contain \"..\""),
            ("file:///", "name a folder"),
            ("s3://", "cannot name a bucket"),
            ("s3://ab", "cannot name a bucket"),
            (
                "s3://key:secret@bucket/x",
                "credentials do not go into the address",
            ),
            ("s3://bucket/a//b", "single slashes"),
            ("s3://bucket/a?region=x", "settings do not go into the address"),
            ("gs://bucket", "not supported yet"),
            ("az://container", "not supported yet"),
            ("ftp://host", "unknown scheme ftp://"),
        ] {
            let error = text.parse::<StorageUrl>().unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert!(error.to_string().starts_with("repository \""), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}

//! A repository of one test: a directory or a prefix in a bucket.

use std::path::Path;

use crate::s3::S3Endpoint;
use crate::scratch::Scratch;

/// Where a test's repository is, as agent and restore are told.
#[derive(Debug)]
pub struct TestRepository {
    url: String,
    settings: String,
    environment: Vec<(String, String)>,
    directory: Option<Scratch>,
}

impl TestRepository {
    /// A `file://` repository in a directory of its own, gone on drop.
    pub fn file() -> TestRepository {
        let directory = Scratch::new("repository");
        TestRepository {
            url: format!("file://{}", directory.path().display()),
            settings: String::new(),
            environment: Vec::new(),
            directory: Some(directory),
        }
    }

    /// An `s3://` repository under `prefix` of the endpoint's bucket. Credentials, region and endpoint are in the
    /// environment, and endpoint and region in the agent's configuration too.
    pub fn s3(endpoint: &S3Endpoint, prefix: &str) -> TestRepository {
        TestRepository {
            url: format!("s3://{}/{prefix}", endpoint.bucket),
            settings: format!(
                "endpoint = \"{}\"\nregion = \"{}\"\npath_style = true\n",
                endpoint.url(),
                endpoint.region
            ),
            environment: endpoint.environment(),
            directory: None,
        }
    }

    /// Its URL, for `--repository`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The variables that a process needs to reach it.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// The directory of a `file://` repository. Panics for another.
    #[track_caller]
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("a file repository").path()
    }

    /// The `[repository]` section of the agent's configuration.
    pub(super) fn section(&self) -> String {
        format!("[repository]\nurl = \"{}\"\n{}", self.url, self.settings)
    }
}

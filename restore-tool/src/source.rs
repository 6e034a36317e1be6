//! Where the repository is, and opening it for reading.

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};
use tidemark_repository::{Archive, Repository};
use tidemark_storage::{StorageOptions, StorageUrl};
use tidemark_types::{ErrorClass, Generation, ServerName};

use crate::exit::Failure;

/// Which repository. Credentials for S3 come from the environment or the host, never from here.
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct RepositoryArgs {
    /// The repository: file:///absolute/path or s3://bucket/prefix.
    #[arg(long, value_name = "URL", env = "TIDEMARK_REPOSITORY")]
    pub repository: String,

    /// Base URL of an S3-compatible store; AWS when absent.
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,

    /// Region of the bucket.
    #[arg(long)]
    pub region: Option<String>,

    /// Put the bucket into the path instead of the host name; by default so with an endpoint, and not on AWS.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub path_style: Option<bool>,
}

impl RepositoryArgs {
    /// Opens the repository; nothing is ever written to it.
    ///
    /// # Errors
    /// When the address makes no sense, the store cannot be reached, or there is no repository.
    pub async fn open(&self) -> anyhow::Result<Repository> {
        let url: StorageUrl = self.repository.parse()?;
        let options = StorageOptions {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
            read_only: true,
            ..StorageOptions::default()
        };
        let open = || format!("open the repository {url}");
        let storage = tidemark_storage::open(&url, &options).await.with_context(open)?;
        Repository::open(storage).await.with_context(open)
    }
}

/// Which server of the repository.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// The server; may be left out when the repository holds only one.
    #[arg(long, value_name = "NAME")]
    pub server: Option<ServerName>,

    /// An older identity of the server under its name, as `list` numbers them; the newest by default.
    #[arg(long, value_name = "NUMBER")]
    pub generation: Option<u32>,
}

impl ServerArgs {
    /// Opens the archive that is meant.
    ///
    /// # Errors
    /// When there is no such server, or several and none was named.
    pub async fn open(&self, repository: &Repository) -> anyhow::Result<Archive> {
        let server = match &self.server {
            Some(server) => server.clone(),
            None => only_server(repository).await?,
        };
        Ok(repository
            .archive(&server, self.generation.map(Generation))
            .await?)
    }
}

async fn only_server(repository: &Repository) -> anyhow::Result<ServerName> {
    let servers = repository.servers().await?;
    match servers.as_slice() {
        [server] => Ok(server.clone()),
        [] => Err(Failure::new(ErrorClass::Config, "the repository holds no server yet").into()),
        servers => {
            let names: Vec<&str> = servers.iter().map(ServerName::as_str).collect();
            Err(
                Failure::usage("the repository holds several servers, and none was named")
                    .hint(format!("add --server with one of: {}", names.join(", ")))
                    .into(),
            )
        }
    }
}

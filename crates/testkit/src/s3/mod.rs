//! Real S3 servers: Garage (true signatures, multipart, no conditional writes) and moto (conditional writes).

mod garage;
mod moto;

pub use garage::Garage;
pub use moto::Moto;

use std::net::SocketAddr;

/// The bucket that every test server starts with.
const BUCKET: &str = "testbucket";

/// How to reach a bucket. The bucket is fresh: each server starts with an empty one.
#[derive(Debug, Clone)]
pub struct S3Endpoint {
    /// Where the server listens.
    pub address: SocketAddr,
    /// The region that requests must be signed for.
    pub region: String,
    /// The access key's id.
    pub access_key: String,
    /// The access key's secret.
    pub secret_key: String,
    /// The bucket's name.
    pub bucket: String,
}

impl S3Endpoint {
    /// The endpoint's URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same bucket reached at another address, such as a proxy's.
    pub fn by_way_of(&self, address: SocketAddr) -> S3Endpoint {
        S3Endpoint {
            address,
            ..self.clone()
        }
    }

    /// The variables of the standard credential chain, for a client's environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_ACCESS_KEY_ID", self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key.clone()),
            ("AWS_REGION", self.region.clone()),
            ("AWS_ENDPOINT_URL", self.url()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

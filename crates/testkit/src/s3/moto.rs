//! moto, an S3 simulator that honours conditional writes. It keeps its objects in memory and checks no signatures.

use std::process::Command;
use std::time::Duration;

use crate::daemon::Daemon;
use crate::http::http_request;
use crate::install;
use crate::port::Port;
use crate::s3::{BUCKET, S3Endpoint};
use crate::scratch::Scratch;
use crate::wait::wait_for;

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A moto server with an empty bucket, gone on drop.
#[derive(Debug)]
pub struct Moto {
    port: Port,
    _process: Daemon,
    _scratch: Scratch,
}

impl Moto {
    /// Starts one. Panics, with its log, when it does not answer.
    #[track_caller]
    pub fn start_new() -> Moto {
        let port = Port::reserve();
        let scratch = Scratch::new("moto");
        // As ourselves: it owns no files, and its Python may lie where the servers' user cannot go.
        let mut command = Command::new(install::moto());
        command.args(["-H", "127.0.0.1", "-p", &port.number().to_string()]);
        let process = Daemon::spawn("moto", &mut command, &scratch.path().join("log"));
        wait_for("moto to make a bucket", START_TIMEOUT, || {
            assert!(
                process.is_running(),
                "moto ended; its log ends:\n{}",
                process.log_tail()
            );
            http_request(port.address(), "PUT", &format!("/{BUCKET}"))
                .is_ok_and(|answer| answer.status == 200)
        });
        Moto {
            port,
            _process: process,
            _scratch: scratch,
        }
    }

    /// How to reach its bucket.
    pub fn endpoint(&self) -> S3Endpoint {
        S3Endpoint {
            address: self.port.address(),
            region: "us-east-1".to_owned(),
            access_key: "test".to_owned(),
            secret_key: "test".to_owned(),
            bucket: BUCKET.to_owned(),
        }
    }
}

//! Garage, a small S3 server, as one node with one bucket.

use std::process::Command;
use std::time::Duration;

use crate::command::run;
use crate::daemon::{Daemon, Signal};
use crate::http::http_get;
use crate::install;
use crate::port::Port;
use crate::s3::{BUCKET, S3Endpoint};
use crate::scratch::Scratch;
use crate::slot::DaemonSlot;
use crate::user::ServerUser;
use crate::wait::wait_for;

const ACCESS_KEY: &str = "GK0123456789abcdef01234567";
const SECRET_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const RPC_SECRET: &str = "1799bccfd7411eddcf9ebd316bc1f5287ad12a68094e1c6ac6abde7e6feae1ec";
const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A Garage server with an empty bucket. It keeps its objects while stopped, and is removed on drop.
#[derive(Debug)]
pub struct Garage {
    s3: Port,
    _rpc: Port,
    admin: Port,
    /// Before the scratch: the server is ended before its files go.
    process: DaemonSlot,
    scratch: Scratch,
}

impl Garage {
    /// Starts one. Panics, with its log, when it does not answer.
    #[track_caller]
    pub fn start_new() -> Garage {
        let (s3, rpc, admin) = (Port::reserve(), Port::reserve(), Port::reserve());
        let scratch = Scratch::new("garage");
        scratch.file("garage.toml", configuration(&scratch, &s3, &rpc, &admin));
        let garage = Garage {
            s3,
            _rpc: rpc,
            admin,
            process: DaemonSlot::default(),
            scratch,
        };
        garage.start();
        // Healthy is said before commands are listened to.
        wait_for("Garage to take commands", START_TIMEOUT, || {
            let mut command = garage.command();
            command.args(["key", "allow", "--create-bucket", ACCESS_KEY]);
            run(&mut command).code() == Some(0)
        });
        garage
    }

    /// How to reach its bucket.
    pub fn endpoint(&self) -> S3Endpoint {
        S3Endpoint {
            address: self.s3.address(),
            region: "garage".to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            bucket: BUCKET.to_owned(),
        }
    }

    /// Starts it again after [`Garage::stop`], on the same port.
    #[track_caller]
    pub fn start(&self) {
        let mut command = self.command();
        command.args(["server", "--single-node", "--default-bucket"]);
        let log = self.scratch.path().join("log");
        self.process.launch("garage", &mut command, &log);
        let is_healthy =
            || http_get(self.admin.address(), "/health").is_ok_and(|answer| answer.status == 200);
        self.process
            .wait_until_ready(START_TIMEOUT, is_healthy, Daemon::kill9, Daemon::log_tail)
            .unwrap_or_else(|error| panic!("Garage: {error:#}"));
    }

    /// Stops it: an outage. Connections are refused until it is started again.
    #[track_caller]
    pub fn stop(&self) {
        if let Some(daemon) = self.process.take() {
            daemon.signal(Signal::TERM);
            daemon.wait(STOP_TIMEOUT);
        }
    }

    fn command(&self) -> Command {
        let mut command = ServerUser::current().command(install::garage());
        command
            .arg("-c")
            .arg(self.scratch.path().join("garage.toml"))
            .env("RUST_LOG", "garage=info")
            .env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY)
            .env("GARAGE_DEFAULT_SECRET_KEY", SECRET_KEY)
            .env("GARAGE_DEFAULT_BUCKET", BUCKET);
        command
    }
}

fn configuration(scratch: &Scratch, s3: &Port, rpc: &Port, admin: &Port) -> String {
    let (meta, data) = (scratch.subdir("meta"), scratch.subdir("data"));
    format!(
        "metadata_dir = '{meta}'
data_dir = '{data}'
db_engine = 'lmdb'
lmdb_map_size = '1G'
metadata_fsync = false
data_fsync = false
disable_scrub = true
replication_factor = 1
rpc_bind_addr = '{rpc}'
rpc_public_addr = '{rpc}'
rpc_secret = '{RPC_SECRET}'
[s3_api]
s3_region = 'garage'
api_bind_addr = '{s3}'
root_domain = '.s3.garage.localhost'
[admin]
api_bind_addr = '{admin}'
",
        meta = meta.display(),
        data = data.display(),
        rpc = rpc.address(),
        s3 = s3.address(),
        admin = admin.address(),
    )
}

//! Certificates of test servers.

use std::path::PathBuf;
use std::process::Command;

use crate::command::run;
use crate::scratch::Scratch;
use crate::user::ServerUser;

/// A self-signed certificate for localhost, marked as a CA as `openssl req -x509` does it.
#[derive(Debug)]
pub struct Certificate {
    /// The certificate, in PEM form.
    pub certificate: PathBuf,
    /// Its key, readable by the servers' user only.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one. Panics when there is no `openssl`.
    #[track_caller]
    pub fn for_localhost(scratch: &Scratch) -> Certificate {
        let (certificate, key) = (
            scratch.path().join("server.crt"),
            scratch.path().join("server.key"),
        );
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
        openssl.args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        run(&mut openssl).expect_success();
        ServerUser::current().own(&key);
        Certificate { certificate, key }
    }
}

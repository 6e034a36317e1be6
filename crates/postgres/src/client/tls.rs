//! libpq's meaning of `sslmode`, as a handshake wants it.

use tidemark_net::{Roots, TlsFile, TlsFileError};

use crate::conninfo::{RootCertificates, SslMode, TlsSettings};
use crate::error::PostgresError;

/// libpq checks the chain whenever there is a root file, whatever the mode says; `verify-*` insist on one.
pub(super) fn handshake_settings(settings: &TlsSettings) -> Result<tidemark_net::TlsSettings, PostgresError> {
    let insists = matches!(settings.mode, SslMode::VerifyCa | SslMode::VerifyFull);
    let roots = match &settings.roots {
        RootCertificates::System => Roots::System,
        RootCertificates::File(path) | RootCertificates::Default(Some(path)) if insists || path.exists() => {
            Roots::File(path.clone())
        }
        RootCertificates::Default(None) if insists => {
            let problem = format!(
                "sslmode={} needs it: name a file, or sslrootcert=system with verify-full, or use another sslmode",
                settings.mode.word()
            );
            return Err(file_error(TlsFileError {
                file: TlsFile::Roots,
                path: "(not set)".to_owned(),
                problem,
            }));
        }
        _ => Roots::Anybody,
    };
    Ok(tidemark_net::TlsSettings {
        roots,
        check_name: settings.mode == SslMode::VerifyFull,
        client: settings.client.clone(),
        sni: settings.sni,
    })
}

/// The error under the name of libpq's setting.
pub(super) fn file_error(error: TlsFileError) -> PostgresError {
    PostgresError::TlsFile {
        setting: match error.file {
            TlsFile::Roots => "sslrootcert",
            TlsFile::Certificate => "sslcert",
            TlsFile::Key => "sslkey",
        },
        path: error.path,
        problem: error.problem,
    }
}

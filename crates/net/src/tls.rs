//! TLS by rustls and ring: whom to trust, whose name to check, who we are.
//!
//! Names are looked for among the certificate's subject alternative names only; a common name alone, which the vendors' own
//! clients still take, does not do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, ring::default_provider, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::transport::Transport;

/// What a handshake goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Whose certificates are believed.
    pub roots: Roots,
    /// Whether the certificate must name the host. Means nothing where anybody is believed.
    pub check_name: bool,
    /// Who we are, for servers that ask.
    pub client: Option<ClientCertificate>,
    /// Whether the host's name goes into the handshake.
    pub sni: bool,
}

/// Whose certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Everybody's: the channel is encrypted, and that is all.
    Anybody,
    /// Those of the operating system's roots.
    System,
    /// Those of the roots in a PEM file.
    File(PathBuf),
}

/// A client certificate and its key, in PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, and those that lead to its root.
    pub certificate: PathBuf,
    /// The key. Nobody else may read it.
    pub key: PathBuf,
}

/// Which of the files a [`TlsFileError`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFile {
    /// Of [`Roots`].
    Roots,
    /// Our certificate.
    Certificate,
    /// Its key.
    Key,
}

/// A file that cannot be used. Each engine has its own word for the setting that names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} {path}: {problem}")]
pub struct TlsFileError {
    /// Which file.
    pub file: TlsFile,
    /// Its path; a word where there is none.
    pub path: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl fmt::Display for TlsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsFile::Roots => "root certificates",
            TlsFile::Certificate => "client certificate",
            TlsFile::Key => "client key",
        })
    }
}

/// Why TLS could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum TlsStartError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] TlsFileError),
    /// The handshake failed; a refused certificate is in here.
    #[error(transparent)]
    Handshake(#[from] io::Error),
}

/// Shakes hands with the server at the other end of `stream`, which goes by the name or address `host`. Files are read anew
/// for each connection, so that renewed certificates are seen.
///
/// # Errors
/// Either variant of [`TlsStartError`].
pub async fn start_tls(
    stream: TcpStream,
    host: &str,
    settings: &TlsSettings,
) -> Result<Transport, TlsStartError> {
    let settings = settings.clone();
    // Root stores are files to read and certificates to parse.
    let config = tokio::task::spawn_blocking(move || client_config(&settings))
        .await
        .map_err(io::Error::other)??;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(Transport::Tls(Box::new(stream)))
}

fn client_config(settings: &TlsSettings) -> Result<ClientConfig, TlsFileError> {
    let provider = Arc::new(default_provider());
    let verifier = Verifier {
        trust: trust(settings)?,
        provider: Arc::clone(&provider),
    };
    let mut config = match &settings.client {
        None => builder(provider, verifier)?.with_no_client_auth(),
        Some(client) => {
            let (chain, key) = read_client(client)?;
            builder(provider, verifier)?
                .with_client_auth_cert(chain, key)
                .map_err(|error| file_error(TlsFile::Certificate, &client.certificate, error.to_string()))?
        }
    };
    config.enable_sni = settings.sni;
    Ok(config)
}

fn builder(
    provider: Arc<CryptoProvider>,
    verifier: Verifier,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, TlsFileError> {
    // Ring serves both versions: this cannot fail.
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| file_error(TlsFile::Roots, Path::new("(provider)"), error.to_string()))?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

fn file_error(file: TlsFile, path: &Path, problem: String) -> TlsFileError {
    TlsFileError {
        file,
        path: path.display().to_string(),
        problem,
    }
}

fn read_client(
    client: &ClientCertificate,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsFileError> {
    let chain = read_certificates(TlsFile::Certificate, &client.certificate)?;
    check_key_permissions(&client.key)?;
    let key = PrivateKeyDer::from_pem_file(&client.key)
        .map_err(|error| file_error(TlsFile::Key, &client.key, error.to_string()))?;
    Ok((chain, key))
}

/// libpq's rule: 0600, or 0640 where root owns the file.
fn check_key_permissions(path: &Path) -> Result<(), TlsFileError> {
    use std::os::unix::fs::MetadataExt;
    let metadata =
        std::fs::metadata(path).map_err(|error| file_error(TlsFile::Key, path, error.to_string()))?;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        let problem = format!("the key can be read by others; run chmod 0600 {}", path.display());
        return Err(file_error(TlsFile::Key, path, problem));
    }
    Ok(())
}

fn read_certificates(file: TlsFile, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    match read() {
        Ok(certificates) if certificates.is_empty() => Err(file_error(
            file,
            path,
            "holds no certificate in PEM form".to_owned(),
        )),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(file_error(file, path, error.to_string())),
    }
}

#[derive(Debug)]
enum Trust {
    Anybody,
    Roots {
        store: RootCertStore,
        /// The roots themselves: a self-signed server certificate that is marked as a CA is its own root in OpenSSL.
        own: Vec<CertificateDer<'static>>,
        check_name: bool,
    },
}

fn trust(settings: &TlsSettings) -> Result<Trust, TlsFileError> {
    let (own, path) = match &settings.roots {
        Roots::Anybody => return Ok(Trust::Anybody),
        Roots::System => (system_roots()?, Path::new("system")),
        Roots::File(path) if !path.exists() => {
            let problem = "the file does not exist".to_owned();
            return Err(file_error(TlsFile::Roots, path, problem));
        }
        Roots::File(path) => (read_certificates(TlsFile::Roots, path)?, path.as_path()),
    };
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(own.iter().cloned());
    if added == 0 {
        let problem = "no certificate in it can be used as a root".to_owned();
        return Err(file_error(TlsFile::Roots, path, problem));
    }
    Ok(Trust::Roots {
        store,
        own,
        check_name: settings.check_name,
    })
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let problem = "the operating system has no root certificates; install ca-certificates".to_owned();
        return Err(file_error(TlsFile::Roots, Path::new("system"), problem));
    }
    Ok(found.certs)
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Trust::Roots {
            store,
            own,
            check_name,
        } = &self.trust
        else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(&certificate, store, intermediates, now, algorithms) {
            // Reported only after the dates were found good.
            Err(error) if is_ca_as_server(&error) && own.iter().any(|root| root == end_entity) => {}
            result => result?,
        }
        if *check_name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn is_ca_as_server(error: &rustls::Error) -> bool {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
        }
        _ => false,
    }
}

//! TLS with libpq's meaning of `sslmode`: whom to trust, whose name to check, and the data that binds SCRAM to it.
//!
//! Names are looked for among the certificate's subject alternative names only; a common name alone, which libpq
//! still takes, does not do.

use std::io;
use std::path::Path;
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

use crate::conninfo::{ClientCertificate, RootCertificates, SslMode, TlsSettings};
use crate::error::PostgresError;

/// Reads the files that `settings` name and makes a configuration. Blocking; files are read anew for each
/// connection, so that renewed certificates are seen.
pub(super) fn client_config(settings: &TlsSettings) -> Result<ClientConfig, PostgresError> {
    let provider = Arc::new(default_provider());
    let verifier = Verifier {
        trust: trust(settings)?,
        provider: Arc::clone(&provider),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| file_error("sslmode", Path::new(settings.mode.word()), error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &settings.client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let (chain, key) = client_certificate(client)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| file_error("sslcert", &client.certificate, error.to_string()))?
        }
    };
    config.enable_sni = settings.sni;
    Ok(config)
}

fn file_error(setting: &'static str, path: &Path, problem: String) -> PostgresError {
    PostgresError::TlsFile {
        setting,
        path: path.display().to_string(),
        problem,
    }
}

fn client_certificate(
    client: &ClientCertificate,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PostgresError> {
    let chain = read_certificates("sslcert", &client.certificate)?;
    check_key_permissions(&client.key)?;
    let key = PrivateKeyDer::from_pem_file(&client.key)
        .map_err(|error| file_error("sslkey", &client.key, error.to_string()))?;
    Ok((chain, key))
}

/// libpq's rule: 0600, or 0640 where root owns the file.
fn check_key_permissions(path: &Path) -> Result<(), PostgresError> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).map_err(|error| file_error("sslkey", path, error.to_string()))?;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        let problem = format!("the key can be read by others; run chmod 0600 {}", path.display());
        return Err(file_error("sslkey", path, problem));
    }
    Ok(())
}

fn read_certificates(
    setting: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, PostgresError> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    match read() {
        Ok(certificates) if certificates.is_empty() => Err(file_error(
            setting,
            path,
            "holds no certificate in PEM form".to_owned(),
        )),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(file_error(setting, path, error.to_string())),
    }
}

/// Whose certificates are believed.
#[derive(Debug)]
enum Trust {
    /// Everybody's: the channel is encrypted, and that is all.
    Anybody,
    /// Those that come from these roots.
    Roots {
        store: RootCertStore,
        /// The roots themselves: a self-signed server certificate that is marked as a CA is its own root in OpenSSL.
        own: Vec<CertificateDer<'static>>,
        check_name: bool,
    },
}

/// libpq checks the chain whenever there is a root file, whatever the mode says; `verify-*` insist on one.
fn trust(settings: &TlsSettings) -> Result<Trust, PostgresError> {
    let insists = matches!(settings.mode, SslMode::VerifyCa | SslMode::VerifyFull);
    let check_name = settings.mode == SslMode::VerifyFull;
    let own = match &settings.roots {
        RootCertificates::System => system_roots()?,
        RootCertificates::File(path) | RootCertificates::Default(Some(path)) if path.exists() => {
            read_certificates("sslrootcert", path)?
        }
        _ if !insists => return Ok(Trust::Anybody),
        RootCertificates::File(path) | RootCertificates::Default(Some(path)) => {
            return Err(file_error(
                "sslrootcert",
                path,
                "the file does not exist".to_owned(),
            ));
        }
        RootCertificates::Default(None) => {
            let problem = format!(
                "sslmode={} needs it: name a file, or sslrootcert=system with verify-full, or use another sslmode",
                settings.mode.word()
            );
            return Err(file_error("sslrootcert", Path::new("(not set)"), problem));
        }
    };
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(own.iter().cloned());
    if added == 0 {
        let problem = "no certificate in it can be used as a root".to_owned();
        return Err(file_error("sslrootcert", Path::new("(all)"), problem));
    }
    Ok(Trust::Roots {
        store,
        own,
        check_name,
    })
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, PostgresError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let problem = "the operating system has no root certificates; install ca-certificates".to_owned();
        return Err(file_error("sslrootcert", Path::new("system"), problem));
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

/// The name to check, and to put into the handshake.
pub(super) fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// `tls-server-end-point` (RFC 5929, section 4.1): the server's certificate, hashed with the hash of its signature,
/// SHA-256 where that is MD5 or SHA-1. `None` where that hash is undefined (Ed25519) or unknown to us.
pub(super) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let algorithm = signature_hash(certificate)?;
    Some(ring::digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// Object identifiers in DER, without tag and length.
const RSA_PREFIX: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
const ECDSA_SHA2_PREFIX: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
const SHA2_PREFIX: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

fn signature_hash(certificate: &[u8]) -> Option<&'static ring::digest::Algorithm> {
    use ring::digest::{SHA256, SHA384, SHA512};
    let (_, certificate, _) = der(certificate)?;
    let (_, _, after_body) = der(certificate)?;
    let (_, algorithm, _) = der(after_body)?;
    let (_, oid, parameters) = der(algorithm)?;
    if oid == ECDSA_SHA1 {
        return Some(&SHA256);
    }
    match (oid.strip_prefix(RSA_PREFIX), oid.strip_prefix(ECDSA_SHA2_PREFIX)) {
        // md5, sha1, sha256, sha384, sha512WithRSAEncryption; 10 is RSASSA-PSS, whose hash is a parameter.
        (Some([4 | 5 | 11]), _) | (_, Some([2])) => Some(&SHA256),
        (Some([12]), _) | (_, Some([3])) => Some(&SHA384),
        (Some([13]), _) | (_, Some([4])) => Some(&SHA512),
        (Some([10]), _) => pss_hash(parameters),
        _ => None,
    }
}

/// RFC 4055, section 3.1: the hash is the first, optional field, SHA-1 by default.
fn pss_hash(parameters: &[u8]) -> Option<&'static ring::digest::Algorithm> {
    use ring::digest::{SHA256, SHA384, SHA512};
    let (_, fields, _) = der(parameters)?;
    let Some((0xa0, hash, _)) = der(fields) else {
        return Some(&SHA256);
    };
    let (_, identifier, _) = der(hash)?;
    let (_, oid, _) = der(identifier)?;
    match oid.strip_prefix(SHA2_PREFIX) {
        Some([2]) => Some(&SHA384),
        Some([3]) => Some(&SHA512),
        Some([1]) | None => Some(&SHA256),
        Some(_) => None,
    }
}

/// Splits one DER element off: its tag, its content, and what follows it.
fn der(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits
                .iter()
                .fold(0_u64, |sum, digit| sum << 8 | u64::from(*digit));
            (usize::try_from(length).ok()?, rest)
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((*tag, content, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag, 0x82];
        bytes.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        bytes.extend(content);
        bytes
    }

    /// The outline of a certificate with this signature algorithm.
    fn certificate(oid: &[u8], parameters: &[u8]) -> Vec<u8> {
        let algorithm = element(0x30, &[element(6, oid), parameters.to_vec()].concat());
        element(
            0x30,
            &[element(0x30, b"body"), algorithm, element(3, b"signature")].concat(),
        )
    }

    #[test]
    fn the_binding_hash_follows_the_signature() {
        use ring::digest::{SHA256, SHA384, SHA512};
        let hash = |oid: &[u8], parameters: &[u8]| signature_hash(&certificate(oid, parameters));
        assert_eq!(hash(&[RSA_PREFIX, &[5]].concat(), &[]), Some(&SHA256));
        assert_eq!(hash(&[RSA_PREFIX, &[13]].concat(), &[]), Some(&SHA512));
        assert_eq!(hash(&[ECDSA_SHA2_PREFIX, &[3]].concat(), &[]), Some(&SHA384));
        assert_eq!(hash(&[0x2b, 0x65, 0x70], &[]), None, "Ed25519");
        let sha384 = element(0x30, &element(6, &[SHA2_PREFIX, &[2]].concat()));
        let pss = [RSA_PREFIX, &[10]].concat();
        assert_eq!(hash(&pss, &element(0x30, &element(0xa0, &sha384))), Some(&SHA384));
        assert_eq!(hash(&pss, &element(0x30, &[])), Some(&SHA256));
    }

    proptest! {
        #[test]
        fn arbitrary_certificates_never_panic(bytes: Vec<u8>) {
            let _ = signature_hash(&bytes);
        }
    }
}

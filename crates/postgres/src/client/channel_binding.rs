//! The data that binds SCRAM to a TLS channel.

use rustls::pki_types::CertificateDer;

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

//! Encrypting a password with a server's public key (RFC 8017, RSAES-OAEP with SHA-1), for connections in clear over TCP.
//!
//! The key is not proven to be the server's: it keeps the password from who listens, not from who sits in between. TLS does.

use num_bigint::BigUint;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use tidemark_types::ByteReader;

const HASH_BYTES: usize = 20;

/// Encrypts `secret` for the owner of a public key in PEM form (`BEGIN PUBLIC KEY`). An error says what is wrong with the key.
pub(super) fn encrypt(pem: &[u8], secret: &[u8]) -> Result<Vec<u8>, &'static str> {
    let key = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| "is not in PEM form")?;
    let (modulus, exponent) = read_key(&key).ok_or("is no RSA key")?;
    let length = usize::try_from(modulus.bits().div_ceil(8)).map_err(|_| "is too long")?;
    // 512 to 16384 bits: shorter ones do not hold the padding, longer ones are none that a server makes.
    if !(64..=2048).contains(&length) {
        return Err("is too short or too long");
    }
    let mut seed = [0; HASH_BYTES];
    SystemRandom::new()
        .fill(&mut seed)
        .map_err(|_| "cannot be used without random numbers")?;
    let padded = pad(secret, length, &seed).ok_or("is too short for the password")?;
    let sealed = BigUint::from_bytes_be(&padded)
        .modpow(&exponent, &modulus)
        .to_bytes_be();
    let zeros = vec![0; length.saturating_sub(sealed.len())];
    Ok([zeros, sealed].concat())
}

/// EME-OAEP (section 7.1.1, step 2) with an empty label.
fn pad(secret: &[u8], length: usize, seed: &[u8; HASH_BYTES]) -> Option<Vec<u8>> {
    let zeros = length.checked_sub(secret.len() + 2 * HASH_BYTES + 2)?;
    let label_hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, b"");
    let block = [label_hash.as_ref(), &vec![0; zeros], &[1], secret].concat();
    let block = masked(&block, seed);
    let seed = masked(seed, &block);
    Some([&[0], &seed[..], &block].concat())
}

/// `bytes` under the mask that `seed` generates (MGF1, appendix B.2.1).
fn masked(bytes: &[u8], seed: &[u8]) -> Vec<u8> {
    let mask = (0_u32..).flat_map(|counter| {
        let hash = digest(
            &SHA1_FOR_LEGACY_USE_ONLY,
            &[seed, &counter.to_be_bytes()].concat(),
        );
        hash.as_ref().to_vec()
    });
    bytes.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect()
}

/// Modulus and exponent of a SubjectPublicKeyInfo (RFC 5280, section 4.1; RFC 8017, appendix A.1.1).
fn read_key(der: &[u8]) -> Option<(BigUint, BigUint)> {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    const INTEGER: u8 = 0x02;

    let mut info = ByteReader::new(element(&mut ByteReader::new(der), SEQUENCE)?);
    element(&mut info, SEQUENCE)?;
    // The first byte counts unused bits: there are none.
    let key = element(&mut info, BIT_STRING)?.strip_prefix(&[0])?;
    let mut key = ByteReader::new(element(&mut ByteReader::new(key), SEQUENCE)?);
    let modulus = BigUint::from_bytes_be(element(&mut key, INTEGER)?);
    let exponent = BigUint::from_bytes_be(element(&mut key, INTEGER)?);
    Some((modulus, exponent))
}

/// The content of the next element, which must have this tag.
fn element<'a>(reader: &mut ByteReader<'a>, tag: u8) -> Option<&'a [u8]> {
    if reader.u8()? != tag {
        return None;
    }
    let length = match reader.u8()? {
        short @ 0..=0x7F => usize::from(short),
        0x81 => usize::from(reader.u8()?),
        0x82 => usize::from(u16::from_be_bytes(reader.array()?)),
        _ => return None,
    };
    reader.take(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the owner does (section 7.1.2), but for the private key.
    fn unpad(padded: &[u8]) -> Vec<u8> {
        let (seed, block) = padded[1..].split_at(HASH_BYTES);
        let seed = masked(seed, block);
        let block = masked(block, &seed);
        let rest = &block[HASH_BYTES..];
        let end = rest.iter().position(|byte| *byte == 1).unwrap();
        rest[end + 1..].to_vec()
    }

    #[test]
    fn padding_is_undone_by_its_owner() {
        let padded = pad(b"sesame\0", 128, &[7; HASH_BYTES]).unwrap();
        assert_eq!(padded.len(), 128);
        assert_eq!(unpad(&padded), b"sesame\0");
        assert_eq!(pad(&[0; 87], 128, &[7; HASH_BYTES]), None);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(encrypt(b"sesame", b"x"), Err("is not in PEM form"));
        let pem = b"-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n";
        assert_eq!(encrypt(pem, b"x"), Err("is no RSA key"));
    }

    proptest! {
        #[test]
        fn any_key_never_panics(der: Vec<u8>) {
            let _ = read_key(&der);
        }
    }
}

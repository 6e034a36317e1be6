//! The `backup_manifest` that a server sends along with a remote base backup: which files it sent, how long they are,
//! and their checksums. Format: the manual's chapter "Backup Manifest Format"; versions 1 (PostgreSQL 13 to 16) and
//! 2 (17 on).
//!
//! Owns the parser and the checksums; comparing them with what arrived is up to the receiver.

use serde::Deserialize;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use tidemark_types::{ErrorClass, Lsn, TimelineId};

/// A parsed manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerManifest {
    /// From version 2 on.
    pub system_id: Option<u64>,
    /// What was sent. WAL is not among it.
    pub files: Vec<ManifestFile>,
    /// Which WAL a restore needs, by timeline.
    pub wal_ranges: Vec<WalRange>,
}

/// One file of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Path below the data directory; files of tablespaces under `pg_tblspc/<oid>/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Checksum, unless the backup was taken with `MANIFEST_CHECKSUMS 'NONE'`.
    pub checksum: Option<FileChecksum>,
}

/// WAL that a restore needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    /// Of which timeline.
    pub timeline: TimelineId,
    /// From where.
    pub begin: Lsn,
    /// Up to where.
    pub end: Lsn,
}

/// A file's checksum, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChecksum {
    /// How it is made.
    pub algorithm: ChecksumAlgorithm,
    /// Its value.
    pub value: Vec<u8>,
}

/// The algorithms that `MANIFEST_CHECKSUMS` offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumAlgorithm {
    /// CRC-32C, its bytes least significant first.
    Crc32c,
    /// SHA-224
    Sha224,
    /// SHA-256
    Sha256,
    /// SHA-384
    Sha384,
    /// SHA-512
    Sha512,
}

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServerManifestError {
    /// Not the JSON that a server writes.
    #[error("backup_manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// A version that is not known here.
    #[error("backup_manifest has version {0}; known are 1 and 2")]
    Version(u32),
    /// Its own checksum does not fit.
    #[error("backup_manifest is damaged: its checksum does not fit")]
    Checksum,
    /// A value that makes no sense.
    #[error("backup_manifest: {0}")]
    Value(String),
}

impl ServerManifestError {
    /// The class of the error.
    pub fn class(&self) -> ErrorClass {
        match self {
            ServerManifestError::Version(_) => ErrorClass::Config,
            _ => ErrorClass::Corrupt,
        }
    }
}

#[derive(Deserialize)]
struct RawManifest {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    #[serde(rename = "System-Identifier")]
    system_id: Option<u64>,
    #[serde(rename = "Files")]
    files: Vec<RawFile>,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<RawRange>,
    #[serde(rename = "Manifest-Checksum")]
    checksum: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawFile {
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    checksum: Option<String>,
}

#[derive(Deserialize)]
struct RawRange {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    begin: Lsn,
    #[serde(rename = "End-LSN")]
    end: Lsn,
}

impl ServerManifest {
    /// Parses a manifest and checks its own checksum.
    ///
    /// # Errors
    /// When it is not JSON of a known version, damaged, or holds values that make no sense.
    pub fn parse(bytes: &[u8]) -> Result<ServerManifest, ServerManifestError> {
        let raw: RawManifest = serde_json::from_slice(bytes)?;
        if !(1..=2).contains(&raw.version) {
            return Err(ServerManifestError::Version(raw.version));
        }
        check_own_checksum(bytes, &raw.checksum)?;
        let range = |raw: RawRange| WalRange {
            timeline: TimelineId(raw.timeline),
            begin: raw.begin,
            end: raw.end,
        };
        Ok(ServerManifest {
            system_id: raw.system_id,
            files: raw
                .files
                .into_iter()
                .map(ManifestFile::from_raw)
                .collect::<Result<_, _>>()?,
            wal_ranges: raw.wal_ranges.into_iter().map(range).collect(),
        })
    }
}

impl ManifestFile {
    fn from_raw(raw: RawFile) -> Result<ManifestFile, ServerManifestError> {
        let path = match (raw.path, raw.encoded_path) {
            (Some(path), _) => path,
            // Names that are not UTF-8 are sent in hexadecimal.
            (None, Some(encoded)) => String::from_utf8_lossy(&unhex(&encoded)?).into_owned(),
            (None, None) => return Err(ServerManifestError::Value("a file without a path".to_owned())),
        };
        let checksum = match (raw.algorithm, raw.checksum) {
            (Some(name), Some(value)) => Some(FileChecksum {
                algorithm: ChecksumAlgorithm::parse(&name)?,
                value: unhex(&value)?,
            }),
            _ => None,
        };
        Ok(ManifestFile {
            path,
            size: raw.size,
            checksum,
        })
    }
}

impl ChecksumAlgorithm {
    fn parse(name: &str) -> Result<ChecksumAlgorithm, ServerManifestError> {
        match name {
            "CRC32C" => Ok(ChecksumAlgorithm::Crc32c),
            "SHA224" => Ok(ChecksumAlgorithm::Sha224),
            "SHA256" => Ok(ChecksumAlgorithm::Sha256),
            "SHA384" => Ok(ChecksumAlgorithm::Sha384),
            "SHA512" => Ok(ChecksumAlgorithm::Sha512),
            other => Err(ServerManifestError::Value(format!(
                "unknown checksum algorithm \"{other}\""
            ))),
        }
    }

    /// A computation of this checksum, at the start of a file.
    pub fn start(self) -> FileDigest {
        FileDigest(match self {
            ChecksumAlgorithm::Crc32c => {
                DigestState::Crc32c(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
            }
            ChecksumAlgorithm::Sha224 => DigestState::Sha224(Sha224::new()),
            ChecksumAlgorithm::Sha256 => DigestState::Sha256(Sha256::new()),
            ChecksumAlgorithm::Sha384 => DigestState::Sha384(Sha384::new()),
            ChecksumAlgorithm::Sha512 => DigestState::Sha512(Sha512::new()),
        })
    }
}

/// A checksum being computed over a file's bytes.
pub struct FileDigest(DigestState);

enum DigestState {
    Crc32c(crc_fast::Digest),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl FileDigest {
    /// Adds the next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            DigestState::Crc32c(digest) => digest.update(bytes),
            DigestState::Sha224(digest) => digest.update(bytes),
            DigestState::Sha256(digest) => digest.update(bytes),
            DigestState::Sha384(digest) => digest.update(bytes),
            DigestState::Sha512(digest) => digest.update(bytes),
        }
    }

    /// Whether all bytes together have the checksum `expected`.
    pub fn matches(self, expected: &FileChecksum) -> bool {
        let value = match self.0 {
            DigestState::Crc32c(digest) => digest.finalize().to_le_bytes().iter().take(4).copied().collect(),
            DigestState::Sha224(digest) => digest.finalize().to_vec(),
            DigestState::Sha256(digest) => digest.finalize().to_vec(),
            DigestState::Sha384(digest) => digest.finalize().to_vec(),
            DigestState::Sha512(digest) => digest.finalize().to_vec(),
        };
        value == expected.value
    }
}

/// The manifest's last line holds the SHA-256 of all bytes before that line.
fn check_own_checksum(bytes: &[u8], stored: &str) -> Result<(), ServerManifestError> {
    let key = b"\"Manifest-Checksum\"";
    let start = bytes
        .windows(key.len())
        .rposition(|window| window == key)
        .ok_or(ServerManifestError::Checksum)?;
    let content = bytes.get(..start).ok_or(ServerManifestError::Checksum)?;
    if Sha256::digest(content).as_slice() == unhex(stored)?.as_slice() {
        Ok(())
    } else {
        Err(ServerManifestError::Checksum)
    }
}

fn unhex(text: &str) -> Result<Vec<u8>, ServerManifestError> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect::<Option<Vec<u8>>>()
        .filter(|_| rest.is_empty())
        .ok_or_else(|| ServerManifestError::Value(format!("\"{text}\" is not hexadecimal")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealed(body: &str) -> Vec<u8> {
        let sum: String = Sha256::digest(body.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
    }

    const BODY: &str = r#"{ "PostgreSQL-Backup-Manifest-Version": 2,
"System-Identifier": 7710654057782017457,
"Files": [
{ "Path": "backup_label", "Size": 9, "Last-Modified": "2026-11-21 15:55:49 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "839206e3" },
{ "Encoded-Path": "62617365", "Size": 0, "Last-Modified": "2026-11-21 15:55:49 GMT" }
],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }
],
"#;

    #[test]
    fn a_manifest_is_understood() {
        let manifest = ServerManifest::parse(&sealed(BODY)).unwrap();
        assert_eq!(manifest.system_id, Some(7_710_654_057_782_017_457));
        assert_eq!(
            manifest.files[1],
            ManifestFile {
                path: "base".to_owned(),
                size: 0,
                checksum: None
            }
        );
        assert_eq!(
            manifest.wal_ranges,
            [WalRange {
                timeline: TimelineId(1),
                begin: Lsn(0x200_0028),
                end: Lsn(0x200_0100)
            }]
        );
        let checksum = manifest.files[0].checksum.as_ref().unwrap();
        let mut digest = checksum.algorithm.start();
        digest.update(b"1234");
        digest.update(b"56789");
        // The check value of CRC-32C, E3069283, least significant byte first.
        assert!(digest.matches(checksum));
    }

    #[test]
    fn a_changed_manifest_is_noticed() {
        let bytes = String::from_utf8(sealed(BODY)).unwrap();
        let changed = bytes.replace("\"Size\": 9", "\"Size\": 8");
        assert!(matches!(
            ServerManifest::parse(changed.as_bytes()),
            Err(ServerManifestError::Checksum)
        ));
        let newer = sealed(&BODY.replace("Version\": 2", "Version\": 3"));
        assert!(matches!(
            ServerManifest::parse(&newer),
            Err(ServerManifestError::Version(3))
        ));
    }

    #[test]
    fn sha_checksums_are_compared() {
        let value = Sha512::digest(b"tide").to_vec();
        let expected = FileChecksum {
            algorithm: ChecksumAlgorithm::Sha512,
            value,
        };
        for (bytes, same) in [(&b"tide"[..], true), (b"tidf", false)] {
            let mut digest = expected.algorithm.start();
            digest.update(bytes);
            assert_eq!(digest.matches(&expected), same);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(ServerManifest::parse(&bytes).is_err());
        }
    }
}

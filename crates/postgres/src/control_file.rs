//! `pg_control`: what a cluster says about itself outside SQL.
//!
//! Owns the layout for PostgreSQL 13 to 18 and its CRC; [`ControlFile::read`] is the only I/O. Fields nobody here
//! needs are left out.
//!
//! Source of the layout: `src/include/catalog/pg_control.h`, on a 64-bit little-endian machine. Its version is 1300
//! for PostgreSQL 13 to 16, 1700 for 17 and 1800 for 18; up to the data checksum version all three agree.

use std::path::Path;
use std::time::Duration;

use tidemark_types::{ErrorClass, InvalidSegmentSize, Lsn, TimelineId, Timestamp, WalSegmentSize};

use crate::page::PAGE_SIZE;
use crate::wal::WalLevel;

/// Path of the file below the data directory.
pub const CONTROL_FILE_PATH: &str = "global/pg_control";

/// `DBState`: what the server was doing when it last wrote the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// Starting up.
    StartingUp,
    /// Shut down cleanly.
    ShutDown,
    /// Shut down cleanly while in recovery.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// In crash recovery.
    InCrashRecovery,
    /// In archive recovery: a standby, or a restore.
    InArchiveRecovery,
    /// Open for writes, or killed while it was.
    InProduction,
}

/// The settings that WAL replay on a hot standby needs at least as high as the primary had them
/// (`CheckRequiredParameterValues` in the server's `xlogrecovery.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RecoveryRequirements {
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
}

impl RecoveryRequirements {
    /// The greater of both, setting by setting.
    pub fn max(self, other: RecoveryRequirements) -> RecoveryRequirements {
        RecoveryRequirements {
            max_connections: self.max_connections.max(other.max_connections),
            max_worker_processes: self.max_worker_processes.max(other.max_worker_processes),
            max_wal_senders: self.max_wal_senders.max(other.max_wal_senders),
            max_prepared_transactions: self
                .max_prepared_transactions
                .max(other.max_prepared_transactions),
            max_locks_per_transaction: self
                .max_locks_per_transaction
                .max(other.max_locks_per_transaction),
        }
    }

    /// Whether a server that was given `given` satisfies it, setting by setting.
    pub fn is_met_by(self, given: RecoveryRequirements) -> bool {
        self.max(given) == given
    }
}

/// The content of `pg_control`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// The system identifier.
    pub system_id: u64,
    /// Layout of the file: 1300, 1700 or 1800.
    pub control_version: u32,
    /// Layout of the system catalogs; part of the name of tablespace version directories.
    pub catalog_version: u32,
    /// What the server was doing.
    pub state: ClusterState,
    /// When the file was last written.
    pub modified: Timestamp,
    /// Start of the latest checkpoint record.
    pub checkpoint: Lsn,
    /// Where redo from that checkpoint begins.
    pub redo: Lsn,
    /// Timeline of that checkpoint.
    pub timeline: TimelineId,
    /// The timeline before it, if the checkpoint began a new one; else the same.
    pub previous_timeline: TimelineId,
    /// `full_page_writes` at that checkpoint.
    pub full_page_writes: bool,
    /// In archive recovery: replay must reach this position before the data is consistent.
    pub min_recovery_point: Lsn,
    /// Timeline of [`ControlFile::min_recovery_point`].
    pub min_recovery_timeline: TimelineId,
    /// During recovery from a base backup: where the backup began.
    pub backup_start: Lsn,
    /// During recovery from a base backup of a standby: where the backup ended.
    pub backup_end: Lsn,
    /// During recovery from a base backup of a primary: the end-of-backup record must still be met.
    pub backup_end_required: bool,
    /// `wal_level`.
    pub wal_level: WalLevel,
    /// What replay with `hot_standby` demands of the settings.
    pub requirements: RecoveryRequirements,
    /// Bytes in a data page.
    pub page_size: u32,
    /// Pages in a segment file of a relation.
    pub pages_per_segment: u32,
    /// Bytes in a WAL segment.
    pub wal_segment_size: WalSegmentSize,
    /// Zero: no data checksums.
    pub data_checksum_version: u32,
}

/// A `pg_control` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlFileError {
    /// It could not be read.
    #[error("read {path}: {source}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Too few bytes.
    #[error("pg_control has {0} bytes, too few to be one")]
    Short(usize),
    /// A layout of another major version.
    #[error("pg_control has version {0}; known are 1300, 1700 and 1800 (PostgreSQL 13 to 18)")]
    UnknownVersion(u32),
    /// Damaged, or read while it was written.
    #[error("pg_control is damaged: its CRC is {stored:08X}, its content gives {computed:08X}")]
    Crc {
        /// In the file.
        stored: u32,
        /// Of the content.
        computed: u32,
    },
    /// A value outside its range, in spite of a good CRC.
    #[error("pg_control: {field} is {value}")]
    Value {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A segment size that cannot be.
    #[error("pg_control: {0}")]
    SegmentSize(#[from] InvalidSegmentSize),
    /// A server built with another page size.
    #[error("the cluster has pages of {page_size} bytes; only {PAGE_SIZE} are supported")]
    PageSize {
        /// Its page size.
        page_size: u32,
    },
}

impl ControlFileError {
    /// The class of the error.
    pub fn class(&self) -> ErrorClass {
        match self {
            ControlFileError::Read { .. }
            | ControlFileError::UnknownVersion(_)
            | ControlFileError::PageSize { .. } => ErrorClass::Config,
            ControlFileError::Short(_)
            | ControlFileError::Crc { .. }
            | ControlFileError::Value { .. }
            | ControlFileError::SegmentSize(_) => ErrorClass::Corrupt,
        }
    }
}

/// The server rewrites the file in place, so a reader can meet half a write; how often it looks again.
const READ_ATTEMPTS: u32 = 10;
const READ_PAUSE: Duration = Duration::from_millis(10);

impl ControlFile {
    /// Reads the file below `data_directory`, together with its exact bytes. A CRC that does not fit is taken for a
    /// write in progress, and the file is read again a few times. Blocks; up to 100 ms in that case.
    ///
    /// # Errors
    /// [`ControlFileError::Read`], or whatever [`ControlFile::parse`] said last.
    pub fn read(data_directory: &Path) -> Result<(ControlFile, Vec<u8>), ControlFileError> {
        let path = data_directory.join(CONTROL_FILE_PATH);
        let mut attempt = 1;
        loop {
            let bytes = std::fs::read(&path).map_err(|source| ControlFileError::Read {
                path: path.display().to_string(),
                source,
            })?;
            match ControlFile::parse(&bytes) {
                Err(ControlFileError::Crc { .. } | ControlFileError::Short(_)) if attempt < READ_ATTEMPTS => {
                    attempt += 1;
                    std::thread::sleep(READ_PAUSE);
                }
                parsed => return parsed.map(|control| (control, bytes)),
            }
        }
    }

    /// Parses the content of the file.
    ///
    /// # Errors
    /// When it is too short, of an unknown layout, damaged, or holds impossible values.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile, ControlFileError> {
        let fields = Fields(bytes);
        let control_version = fields.u32(8)?;
        let crc_offset = match control_version {
            1300 | 1700 => 288,
            1800 => 292,
            other => return Err(ControlFileError::UnknownVersion(other)),
        };
        fields.check_crc(crc_offset)?;
        Ok(ControlFile {
            system_id: fields.u64(0)?,
            control_version,
            catalog_version: fields.u32(12)?,
            state: fields.state(16)?,
            modified: Timestamp(fields.i64(24)?.saturating_mul(1_000_000)),
            checkpoint: fields.lsn(32)?,
            redo: fields.lsn(40)?,
            timeline: fields.timeline(48)?,
            previous_timeline: fields.timeline(52)?,
            full_page_writes: fields.bool(56)?,
            min_recovery_point: fields.lsn(136)?,
            min_recovery_timeline: fields.timeline(144)?,
            backup_start: fields.lsn(152)?,
            backup_end: fields.lsn(160)?,
            backup_end_required: fields.bool(168)?,
            wal_level: fields.wal_level(172)?,
            requirements: RecoveryRequirements {
                max_connections: fields.u32(180)?,
                max_worker_processes: fields.u32(184)?,
                max_wal_senders: fields.u32(188)?,
                max_prepared_transactions: fields.u32(192)?,
                max_locks_per_transaction: fields.u32(196)?,
            },
            page_size: fields.u32(216)?,
            pages_per_segment: fields.u32(220)?,
            wal_segment_size: u64::from(fields.u32(228)?).try_into()?,
            data_checksum_version: fields.u32(252)?,
        })
    }

    /// Refuses clusters that were built in a way this crate cannot read.
    ///
    /// # Errors
    /// [`ControlFileError::PageSize`] for pages of another size than 8 KiB.
    pub fn check_supported(&self) -> Result<(), ControlFileError> {
        if usize::try_from(self.page_size) == Ok(PAGE_SIZE) {
            Ok(())
        } else {
            Err(ControlFileError::PageSize {
                page_size: self.page_size,
            })
        }
    }

    /// Whether pages carry checksums.
    pub fn has_data_checksums(&self) -> bool {
        self.data_checksum_version != 0
    }
}

/// The bytes of the file, read at fixed offsets.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn at<const N: usize>(&self, offset: usize) -> Result<[u8; N], ControlFileError> {
        self.0
            .get(offset..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .ok_or(ControlFileError::Short(self.0.len()))
    }

    fn u32(&self, offset: usize) -> Result<u32, ControlFileError> {
        self.at(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: usize) -> Result<u64, ControlFileError> {
        self.at(offset).map(u64::from_le_bytes)
    }

    fn i64(&self, offset: usize) -> Result<i64, ControlFileError> {
        self.at(offset).map(i64::from_le_bytes)
    }

    fn bool(&self, offset: usize) -> Result<bool, ControlFileError> {
        self.at::<1>(offset).map(|[byte]| byte != 0)
    }

    fn lsn(&self, offset: usize) -> Result<Lsn, ControlFileError> {
        self.u64(offset).map(Lsn)
    }

    fn timeline(&self, offset: usize) -> Result<TimelineId, ControlFileError> {
        self.u32(offset).map(TimelineId)
    }

    fn state(&self, offset: usize) -> Result<ClusterState, ControlFileError> {
        Ok(match self.u32(offset)? {
            0 => ClusterState::StartingUp,
            1 => ClusterState::ShutDown,
            2 => ClusterState::ShutDownInRecovery,
            3 => ClusterState::ShuttingDown,
            4 => ClusterState::InCrashRecovery,
            5 => ClusterState::InArchiveRecovery,
            6 => ClusterState::InProduction,
            other => {
                return Err(ControlFileError::Value {
                    field: "state",
                    value: other.into(),
                });
            }
        })
    }

    fn wal_level(&self, offset: usize) -> Result<WalLevel, ControlFileError> {
        Ok(match self.u32(offset)? {
            0 => WalLevel::Minimal,
            1 => WalLevel::Replica,
            2 => WalLevel::Logical,
            other => {
                return Err(ControlFileError::Value {
                    field: "wal_level",
                    value: other.into(),
                });
            }
        })
    }

    fn check_crc(&self, offset: usize) -> Result<(), ControlFileError> {
        let content = self
            .0
            .get(..offset)
            .ok_or(ControlFileError::Short(self.0.len()))?;
        let stored = self.u32(offset)?;
        let computed = crc_fast::crc32_iscsi(content);
        if stored == computed {
            Ok(())
        } else {
            Err(ControlFileError::Crc { stored, computed })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file of the 1800 layout with the values a test needs, and a good CRC.
    fn sample() -> Vec<u8> {
        let mut bytes = vec![0u8; 8192];
        bytes[0..8].copy_from_slice(&7_710_654_057_782_017_457u64.to_le_bytes());
        bytes[8..12].copy_from_slice(&1800u32.to_le_bytes());
        bytes[16..20].copy_from_slice(&6u32.to_le_bytes());
        bytes[172..176].copy_from_slice(&1u32.to_le_bytes());
        bytes[216..220].copy_from_slice(&8192u32.to_le_bytes());
        bytes[228..232].copy_from_slice(&(16u32 << 20).to_le_bytes());
        bytes[252..256].copy_from_slice(&1u32.to_le_bytes());
        let crc = crc_fast::crc32_iscsi(&bytes[..292]);
        bytes[292..296].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn a_good_file_is_understood() {
        let control = ControlFile::parse(&sample()).unwrap();
        assert_eq!(control.system_id, 7_710_654_057_782_017_457);
        assert_eq!(control.state, ClusterState::InProduction);
        assert!(control.has_data_checksums());
        assert!(control.check_supported().is_ok());
    }

    #[test]
    fn any_flipped_bit_below_the_crc_is_noticed() {
        for at in 0..296 {
            let mut bytes = sample();
            bytes[at] ^= 1;
            assert!(ControlFile::parse(&bytes).is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(ControlFile::parse(&bytes).is_err());
        }
    }
}

//! What a replica says: statements, commands, acknowledgements. Commands are whole packet payloads, of sequence number 0.

use std::fmt::Write;
use std::time::Duration;

use crate::binlog::{BinlogOffset, Flavor};
use crate::gtid::{GtidSet, MariaDbPosition, ServerUuid};

const COM_BINLOG_DUMP: u8 = 0x12;
const COM_REGISTER_SLAVE: u8 = 0x15;
const COM_BINLOG_DUMP_GTID: u8 = 0x1E;
/// First byte of an acknowledgement (`kPacketMagicNum` in `semisync.h`).
const SEMI_SYNC_MAGIC: u8 = 0xEF;

/// Who asks for a dump, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Unique among the source, its replicas and whoever else dumps: a second one with the same number ends the dump of the
    /// first (error 1236), in both vendors.
    pub server_id: u32,
    /// Unique likewise; MySQL compares this one when it is there.
    pub uuid: ServerUuid,
    /// How long the source may be silent: it sends a heartbeat then. Zero: for ever.
    pub heartbeat: Duration,
    /// Asks the source to mark what is to be acknowledged. It must have semi-synchronous replication switched on.
    pub semi_sync: bool,
}

impl Replica {
    /// The statements to execute on the connection before the dump. The source reads the variables when the dump begins.
    pub fn statements(&self, flavor: Flavor) -> Vec<String> {
        let heartbeat = self.heartbeat.as_nanos();
        let uuid = self.uuid;
        // Each vendor's newer name first, then the one that older versions know.
        let mut statements = vec![
            // Events come as they lie in the file, with checksums if it has any. Unset, a file with checksums is refused.
            "SET @source_binlog_checksum = 'CRC32', @master_binlog_checksum = 'CRC32'".to_owned(),
            format!("SET @source_heartbeat_period = {heartbeat}, @master_heartbeat_period = {heartbeat}"),
            // A replica that does not read, because its repository is down, is not to be cut off after a minute. A day: what a
            // peer that went away leaves behind, TCP ends sooner.
            "SET SESSION net_write_timeout = 86400".to_owned(),
            format!("SET @replica_uuid = '{uuid}', @slave_uuid = '{uuid}'"),
        ];
        if flavor == Flavor::MariaDb {
            // Understands GTID events: with less the source rewrites events (GTIDs become BEGIN), and bytes differ.
            statements.push("SET @mariadb_slave_capability = 4".to_owned());
        }
        if self.semi_sync {
            statements.push("SET @rpl_semi_sync_replica = 1, @rpl_semi_sync_slave = 1".to_owned());
        }
        statements
    }

    /// COM_REGISTER_SLAVE: the replica shows in SHOW REPLICAS. Host, user, password, port, rank and source are left empty.
    pub fn registration(&self) -> Vec<u8> {
        let mut packet = vec![COM_REGISTER_SLAVE];
        packet.extend(self.server_id.to_le_bytes());
        packet.extend([0; 3 + 2 + 4 + 4]);
        packet
    }
}

/// From where on a dump is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpRequest<'a> {
    /// The first file; empty: the oldest that there is.
    pub file: &'a str,
    /// Where in it: where an event begins. For any other place a source may send whatever lies there.
    pub position: BinlogOffset,
    /// The dump ends where the log does, and does not wait for more.
    pub ends_with_log: bool,
}

impl DumpRequest<'_> {
    /// The command that starts the dump: by file and position, so that the bytes are those of the files. (A dump by GTIDs
    /// leaves out of its first file what the replica has.)
    ///
    /// `None` past 4 GiB on MariaDB, whose command has a position of 32 bits: start at the file's beginning there. MySQL's
    /// COM_BINLOG_DUMP_GTID has one of 64 bits and, where a file is named, goes by it (`Binlog_sender::check_start_file`;
    /// seen on 9.7).
    pub fn command(&self, replica: &Replica, flavor: Flavor) -> Option<Vec<u8>> {
        /// `BINLOG_DUMP_NON_BLOCK`, the same in both.
        const NON_BLOCK: u16 = 0x01;
        /// MariaDB: annotate events too (`BINLOG_SEND_ANNOTATE_ROWS_EVENT`), which else are left out.
        const ANNOTATE_ROWS: u16 = 0x02;
        /// MySQL: heartbeats with a position of 64 bits (`USE_HEARTBEAT_EVENT_V2`). Older servers ignore it.
        const HEARTBEAT_V2: u16 = 0x02;

        let of_flavor = match flavor {
            Flavor::MySql => HEARTBEAT_V2,
            Flavor::MariaDb => ANNOTATE_ROWS,
        };
        let flags = of_flavor | if self.ends_with_log { NON_BLOCK } else { 0 };
        if let Ok(position) = u32::try_from(self.position.0) {
            let mut packet = vec![COM_BINLOG_DUMP];
            packet.extend(position.to_le_bytes());
            packet.extend(flags.to_le_bytes());
            packet.extend(replica.server_id.to_le_bytes());
            packet.extend(self.file.bytes());
            return Some(packet);
        }
        match flavor {
            Flavor::MySql => self.long_command(replica, flags),
            Flavor::MariaDb => None,
        }
    }

    /// `None` when the file's name is over 4 GiB.
    pub(crate) fn long_command(&self, replica: &Replica, flags: u16) -> Option<Vec<u8>> {
        let mut packet = vec![COM_BINLOG_DUMP_GTID];
        packet.extend(flags.to_le_bytes());
        packet.extend(replica.server_id.to_le_bytes());
        packet.extend(u32::try_from(self.file.len()).ok()?.to_le_bytes());
        packet.extend(self.file.bytes());
        packet.extend(self.position.0.to_le_bytes());
        // The set of nothing, so that nothing is left out.
        let nothing = GtidSet::new().encode();
        packet.extend(u32::try_from(nothing.len()).ok()?.to_le_bytes());
        packet.extend(nothing);
        Some(packet)
    }

    /// MariaDB: the statements that let a dump begin behind `position` instead of at a file's place; its command then names
    /// no file. The source answers with the file and where in it the next transaction begins, or with an error when its log
    /// does not hold the position.
    pub fn statements_from(position: &MariaDbPosition) -> Vec<String> {
        let mut state = String::from("SET @slave_connect_state = '");
        // Writing to a string cannot fail.
        let _ = write!(state, "{position}'");
        vec![
            state,
            "SET @slave_gtid_strict_mode = 0, @slave_gtid_ignore_duplicates = 0".to_owned(),
        ]
    }
}

/// What tells a source that all up to `position` of `file` is durable. It goes out with sequence number 0.
pub fn semi_sync_acknowledgement(file: &str, position: BinlogOffset) -> Vec<u8> {
    let mut packet = vec![SEMI_SYNC_MAGIC];
    packet.extend(position.0.to_le_bytes());
    packet.extend(file.bytes());
    packet
}

//! What `mysqlbinlog` and `mariadb-binlog` print (`--base64-output=DECODE-ROWS`, UTC), as data.

use super::EventType;

/// A whole output.
#[derive(Debug, Default)]
pub(super) struct Dump {
    /// `# at N`: where each event begins.
    pub(super) begins: Vec<u64>,
    /// The lines that describe events, but for those that are printed only with `--verbose`.
    pub(super) events: Vec<Line>,
    /// For each payload, the types of the events in it.
    pub(super) payloads: Vec<Vec<EventType>>,
    /// What GTID_NEXT is set to; of MariaDB, the GTID events' own.
    pub(super) gtids: Vec<String>,
    /// Previous GTIDs, or the list of GTIDs, on one line.
    pub(super) gtids_before: String,
}

/// `#261121 19:28:26 server id 77  end_log_pos 436 CRC32 0xce6924ed` and, behind a tab, `Previous-GTIDs`.
#[derive(Debug, PartialEq)]
pub(super) struct Line {
    pub(super) timestamp: u32,
    pub(super) server_id: u32,
    pub(super) end_position: u32,
    pub(super) checksum: Option<u32>,
    pub(super) kind: EventType,
    /// `key=value` pairs behind the type.
    pub(super) description: String,
}

impl Line {
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        let mut words = self.description.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

/// Parses a whole output.
pub(super) fn parse(text: &str) -> Dump {
    let mut dump = Dump::default();
    let mut is_inside = false;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("# Start of compressed events") {
            is_inside = true;
            dump.payloads.push(Vec::new());
        } else if line.starts_with("# End of compressed events") {
            is_inside = false;
        } else if let Some(begin) = line.strip_prefix("# at ") {
            dump.begins
                .extend(begin.parse::<u64>().ok().filter(|_| !is_inside));
        } else if let Some(gtid) = line.strip_prefix("SET @@SESSION.GTID_NEXT= '") {
            let gtid = gtid.split('\'').next().unwrap();
            // The last one is no event's.
            dump.gtids.extend((gtid != "AUTOMATIC").then(|| gtid.to_owned()));
        } else if let Some(event) = parse_line(line) {
            if event.kind == EventType::PREVIOUS_GTIDS || event.kind == EventType::GTID_LIST {
                dump.gtids_before = event.description.replace("Gtid list", "");
                while let Some(more) =
                    lines.next_if(|line| line.starts_with("# ") && !line.starts_with("# at "))
                {
                    dump.gtids_before += &more[2..];
                }
                dump.gtids_before
                    .retain(|c| !c.is_whitespace() && c != '[' && c != ']');
                dump.gtids_before = dump.gtids_before.replace("Previous-GTIDs", "");
            }
            if is_inside {
                dump.payloads.last_mut().unwrap().push(event.kind);
                continue;
            }
            if event.kind == EventType::MARIADB_GTID {
                dump.gtids
                    .push(event.description.split(' ').nth(1).unwrap().to_owned());
            }
            dump.events.push(event);
        }
    }
    dump
}

fn parse_line(line: &str) -> Option<Line> {
    let rest = line.strip_prefix('#')?;
    let (time, rest) = rest.split_once(" server id ")?;
    let (server_id, rest) = rest.split_once(" end_log_pos ")?;
    let (end_position, rest) = rest.trim_start().split_once(' ')?;
    let (checksum, description) = match rest.strip_prefix("CRC32 0x") {
        Some(rest) => {
            let (checksum, rest) = rest.split_once(' ')?;
            (u32::from_str_radix(checksum, 16).ok(), rest)
        }
        None => (None, rest),
    };
    let description = description.trim().to_owned();
    Some(Line {
        timestamp: parse_time(time)?,
        server_id: server_id.trim().parse().ok()?,
        end_position: end_position.parse().ok()?,
        checksum,
        kind: kind_of(&description).unwrap_or_else(|| panic!("which event is this: {line}")),
        description,
    })
}

/// `261121 19:28:26`
fn parse_time(text: &str) -> Option<u32> {
    let mut numbers = text.split([' ', ':']).filter(|part| !part.is_empty());
    let date = numbers.next()?;
    let number = |text: &str| text.parse::<i64>().ok();
    let (year, month, day) = (
        number(&date[..2])? + 2000,
        number(&date[2..4])?,
        number(&date[4..])?,
    );
    let (hour, minute, second) = (
        number(numbers.next()?)?,
        number(numbers.next()?)?,
        number(numbers.next()?)?,
    );
    // Days from 1970-01-01 (years begin in March).
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468;
    u32::try_from(((days * 24 + hour) * 60 + minute) * 60 + second).ok()
}

fn kind_of(description: &str) -> Option<EventType> {
    const KINDS: [(&str, EventType); 29] = [
        ("Anonymous_GTID", EventType::ANONYMOUS_GTID),
        ("Annotate_rows", EventType::ANNOTATE_ROWS),
        ("Binlog checkpoint", EventType::BINLOG_CHECKPOINT),
        ("Delete_compressed_rows", EventType::DELETE_ROWS_COMPRESSED_V1),
        ("Delete_rows", EventType::DELETE_ROWS),
        ("Execute_load_query", EventType::EXECUTE_LOAD_QUERY),
        ("GTID\t", EventType::GTID),
        ("GTID ", EventType::MARIADB_GTID),
        ("Gtid list", EventType::GTID_LIST),
        ("Intvar", EventType::INTVAR),
        ("Previous-GTIDs", EventType::PREVIOUS_GTIDS),
        ("Query_compressed", EventType::QUERY_COMPRESSED),
        ("Query", EventType::QUERY),
        ("Rand", EventType::RAND),
        ("Rotate", EventType::ROTATE),
        ("Rows_query", EventType::ROWS_QUERY),
        ("Start: binlog", EventType::FORMAT_DESCRIPTION),
        ("Stop", EventType::STOP),
        ("Table_map", EventType::TABLE_MAP),
        ("Transaction_Payload", EventType::TRANSACTION_PAYLOAD),
        ("Update_compressed_rows", EventType::UPDATE_ROWS_COMPRESSED_V1),
        ("Update_rows_partial", EventType::PARTIAL_UPDATE_ROWS),
        ("Update_rows", EventType::UPDATE_ROWS),
        ("User_var", EventType::USER_VAR),
        ("Write_compressed_rows", EventType::WRITE_ROWS_COMPRESSED_V1),
        ("Write_rows", EventType::WRITE_ROWS),
        ("XA PREPARE", EventType::XA_PREPARE),
        ("XID = X", EventType::XA_PREPARE),
        ("Xid = ", EventType::XID),
    ];
    if description.is_empty() {
        // Its name stands on the next line.
        return Some(EventType::BEGIN_LOAD_QUERY);
    }
    KINDS
        .iter()
        .find(|(text, _)| description.starts_with(text))
        .map(|(_, kind)| *kind)
}

/// The type that the dump prints in this event's place: it tells fewer apart.
pub(super) fn printed_kind(kind: EventType) -> EventType {
    match kind {
        EventType::GTID_TAGGED => EventType::GTID,
        EventType::WRITE_ROWS_V1 => EventType::WRITE_ROWS,
        EventType::UPDATE_ROWS_V1 => EventType::UPDATE_ROWS,
        EventType::DELETE_ROWS_V1 => EventType::DELETE_ROWS,
        other => other,
    }
}

//! Finds out whether a server still holds what is stored of a file, by receiving it again.

use tidemark_mysql::binlog::BinlogOffset;
use tidemark_mysql::client::StreamItem;
use tidemark_repository::Archive;
use tidemark_repository::log::SliceAssembler;

use super::follow::Input;
use super::start::Start;

/// Compares the server's bytes from `start`, a file's begin, to that file's end with what is stored. Whether they are the
/// same.
///
/// # Errors
/// What the server says.
pub async fn holds_file(input: &mut Input, archive: &Archive, start: Start) -> anyhow::Result<bool> {
    let mut assembler = SliceAssembler::new(archive.record().chain_key, start.resume);
    loop {
        let is_same = match input.next().await? {
            StreamItem::File { position, .. } if assembler.position() == start.event => {
                position == BinlogOffset::FIRST_EVENT && receive(&mut assembler, b"\xFEbin")
            }
            StreamItem::File { .. } => {
                assembler.cut(0, true);
                // The end of the file is the begin of the next: it is compared there.
                return Ok(assembler.push(&[]).is_ok());
            }
            StreamItem::Bytes { bytes, .. } => receive(&mut assembler, bytes),
            StreamItem::Format(_) | StreamItem::Heartbeat => true,
            StreamItem::End => false,
        };
        if !is_same {
            return Ok(false);
        }
    }
}

/// Takes bytes in; whether they are those that are stored.
fn receive(assembler: &mut SliceAssembler, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let room = usize::try_from(assembler.room()).unwrap_or(usize::MAX);
        let (now, rest) = bytes.split_at(bytes.len().min(room));
        if assembler.push(now).is_err() {
            return false;
        }
        if assembler.position().grain_start() == assembler.position() {
            assembler.cut(0, false);
        }
        bytes = rest;
    }
    true
}

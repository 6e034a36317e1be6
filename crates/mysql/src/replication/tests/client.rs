//! As little of a client as a dump needs: root without a password, over the unix socket, one packet after the other.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The longest packet; what is longer goes on in the next.
const PACKET_BYTES_MAX: usize = 0xFF_FFFF;

pub(super) struct Client {
    stream: UnixStream,
}

impl Client {
    pub(super) fn connect(socket: &Path) -> Client {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut client = Client { stream };
        client.receive();
        // Long password, protocol 4.1, transactions, secure connection, authentication plugins.
        let capabilities: u32 = 0x1 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;
        let mut answer = capabilities.to_le_bytes().to_vec();
        answer.extend((1u32 << 30).to_le_bytes());
        answer.push(45);
        answer.extend([0; 23]);
        answer.extend(b"root\0\0mysql_native_password\0");
        client.send(&answer, 1);
        let (mut reply, mut number) = client.receive();
        while reply[0] == 0xFE {
            // Another method: no password either.
            client.send(&[], number + 1);
            (reply, number) = client.receive();
        }
        assert_eq!(reply[0], 0, "{}", String::from_utf8_lossy(&reply));
        client
    }

    pub(super) fn send(&mut self, payload: &[u8], number: u8) {
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        self.stream
            .write_all(&[length[0], length[1], length[2], number])
            .unwrap();
        self.stream.write_all(payload).unwrap();
    }

    /// The next payload, and the number of its last packet.
    pub(super) fn receive(&mut self) -> (Vec<u8>, u8) {
        let mut payload = Vec::new();
        loop {
            let mut header = [0; 4];
            self.stream.read_exact(&mut header).unwrap();
            let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
            let begin = payload.len();
            payload.resize(begin + length, 0);
            self.stream.read_exact(&mut payload[begin..]).unwrap();
            if length < PACKET_BYTES_MAX {
                return (payload, header[3]);
            }
        }
    }

    /// Sends a command that is answered by OK.
    pub(super) fn execute(&mut self, command: &[u8]) {
        self.send(command, 0);
        let reply = self.receive().0;
        assert_eq!(reply[0], 0, "{}", String::from_utf8_lossy(&reply));
    }

    pub(super) fn statement(&mut self, sql: &str) {
        self.execute(&[b"\x03", sql.as_bytes()].concat());
    }
}

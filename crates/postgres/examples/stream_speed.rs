//! Measures how fast WAL that already lies on a server is received: `stream_speed URL START_LSN MEBIBYTES`.

use std::time::Instant;

use tidemark_postgres::{ConnInfo, Environment, ReplicationClient, Started, StreamEvent};
use tidemark_types::{Lsn, TimelineId};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |name| arguments.next().ok_or(name);
    let url = argument("URL is missing")?;
    let start: Lsn = argument("START_LSN is missing")?.parse()?;
    let wanted = argument("MEBIBYTES is missing")?.parse::<usize>()? << 20;
    let info = ConnInfo::parse(&url, &Environment::of_process())?;
    let client = ReplicationClient::connect(&info).await?;
    let Started::Streaming(mut stream) = client.start_physical(None, start, TimelineId(1)).await? else {
        return Err("the timeline ended".into());
    };
    let begun = Instant::now();
    let (mut received, mut messages) = (0, 0_u32);
    while received < wanted {
        if let StreamEvent::Data { bytes, .. } = stream.next().await? {
            received += bytes.len();
            messages += 1;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{:.0} MB/s, {messages} messages", received as f64 / 1e6 / seconds);
    stream.finish().await?.close().await;
    Ok(())
}

//! The JSON that HTTP answers with.

use serde::Serialize;
use tidemark_types::Timestamp;

use crate::health::{self, Complaint};
use crate::state::{AgentState, Facts, ServerState};

/// `/healthz`
#[derive(Debug, Serialize)]
pub struct Health {
    /// Whether every server is.
    pub healthy: bool,
    /// Each server.
    pub servers: Vec<ServerHealth>,
}

/// One server in `/healthz`.
#[derive(Debug, Serialize)]
pub struct ServerHealth {
    /// Its name.
    pub server: String,
    /// Its engine.
    pub engine: &'static str,
    /// Whether there is no complaint.
    pub healthy: bool,
    /// What is wrong.
    pub complaints: Vec<Complaint>,
}

/// `/status`
#[derive(Debug, Serialize)]
pub struct Status {
    /// The agent's version.
    pub version: &'static str,
    /// When it started.
    pub started: Timestamp,
    /// When this was written.
    pub now: Timestamp,
    /// Each server.
    pub servers: Vec<ServerStatus>,
}

/// One server in `/status`.
#[derive(Debug, Serialize)]
pub struct ServerStatus {
    /// Its health.
    #[serde(flatten)]
    pub health: ServerHealth,
    /// Log that is not durable.
    pub lag_bytes: u64,
    /// Age of the oldest commit that is not durable.
    pub lag_seconds: f64,
    /// Time of the newest commit that is.
    pub last_durable_commit: Option<Timestamp>,
    /// Everything else that is known.
    #[serde(flatten)]
    pub facts: Facts,
}

impl ServerHealth {
    fn of(server: &ServerState, facts: &Facts, now: Timestamp) -> ServerHealth {
        let complaints = health::complaints(facts, server.thresholds(), now);
        ServerHealth {
            server: server.name().to_string(),
            engine: server.engine().label(),
            healthy: complaints.is_empty(),
            complaints,
        }
    }
}

impl Health {
    /// The health of the whole process at `now`.
    pub fn of(agent: &AgentState, now: Timestamp) -> Health {
        let servers: Vec<ServerHealth> = agent
            .servers
            .iter()
            .map(|server| ServerHealth::of(server, &server.facts(), now))
            .collect();
        Health {
            healthy: servers.iter().all(|server| server.healthy),
            servers,
        }
    }
}

impl Status {
    /// Everything known at `now`.
    pub fn of(agent: &AgentState, now: Timestamp) -> Status {
        let status = |server: &ServerState| {
            let facts = server.facts();
            ServerStatus {
                health: ServerHealth::of(server, &facts, now),
                lag_bytes: facts.lag_bytes(),
                lag_seconds: facts.lag(now).as_secs_f64(),
                last_durable_commit: facts.last_durable_commit(),
                facts,
            }
        };
        Status {
            version: env!("CARGO_PKG_VERSION"),
            started: agent.started,
            now,
            servers: agent.servers.iter().map(|server| status(server)).collect(),
        }
    }
}

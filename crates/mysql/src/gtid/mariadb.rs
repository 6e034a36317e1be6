//! MariaDB's GTIDs: one transaction, the position of a replica, the state of a binlog.
//!
//! Knowledge base: "Global Transaction ID"; `sql/rpl_gtid.cc` (`rpl_binlog_state`, `slave_connection_state`).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::ParseGtidError;

/// One transaction. The server is the one that first executed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MariaDbGtid {
    /// The replication domain: an independent stream of transactions.
    pub domain: u32,
    /// The server.
    pub server: u32,
    /// The sequence number: ascends within a domain, over all of its servers, unless `gtid_strict_mode` is off.
    pub sequence: u64,
}

/// `domain-server-sequence`.
impl fmt::Display for MariaDbGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.sequence)
    }
}

impl FromStr for MariaDbGtid {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<MariaDbGtid, ParseGtidError> {
        let invalid = || ParseGtidError::new(text, "expected DOMAIN-SERVER-SEQUENCE");
        let mut parts = text.trim().split('-');
        let mut number = |max: u64| {
            let part = parts
                .next()
                .filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))?;
            part.parse::<u64>().ok().filter(|&number| number <= max)
        };
        let mut read = || {
            Some((
                number(u32::MAX.into())?,
                number(u32::MAX.into())?,
                number(u64::MAX)?,
            ))
        };
        let (domain, server, sequence) = read().ok_or_else(invalid)?;
        if parts.next().is_some() {
            return Err(invalid());
        }
        Ok(MariaDbGtid {
            domain: u32::try_from(domain).map_err(|_| invalid())?,
            server: u32::try_from(server).map_err(|_| invalid())?,
            sequence,
        })
    }
}

/// Where a server is: the last transaction of each domain (`gtid_binlog_pos`, `gtid_slave_pos`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct MariaDbPosition {
    /// Server and sequence number by domain.
    domains: BTreeMap<u32, (u32, u64)>,
}

impl MariaDbPosition {
    /// The position of a server that has nothing.
    pub fn new() -> MariaDbPosition {
        MariaDbPosition::default()
    }

    /// Whether there is nothing before it.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// The last transaction of each domain, by domain.
    pub fn gtids(&self) -> impl Iterator<Item = MariaDbGtid> + '_ {
        let gtid = |(&domain, &(server, sequence)): (&u32, &(u32, u64))| MariaDbGtid {
            domain,
            server,
            sequence,
        };
        self.domains.iter().map(gtid)
    }

    /// The last transaction of a domain.
    pub fn last(&self, domain: u32) -> Option<MariaDbGtid> {
        let &(server, sequence) = self.domains.get(&domain)?;
        Some(MariaDbGtid {
            domain,
            server,
            sequence,
        })
    }

    /// Goes on to `gtid`, which the log holds next.
    pub fn advance(&mut self, gtid: MariaDbGtid) {
        self.domains.insert(gtid.domain, (gtid.server, gtid.sequence));
    }

    /// Whether the sequence number says that `gtid` lies at or before this position. It says so only where sequence
    /// numbers ascend (`gtid_strict_mode`), and never that the transaction is really there.
    pub fn is_at_or_past(&self, gtid: MariaDbGtid) -> bool {
        self.domains
            .get(&gtid.domain)
            .is_some_and(|&(_, sequence)| sequence >= gtid.sequence)
    }

    /// Whether, by sequence numbers, all of `other` lies at or before this position, domain by domain.
    pub fn is_at_or_past_all(&self, other: &MariaDbPosition) -> bool {
        other.gtids().all(|gtid| self.is_at_or_past(gtid))
    }
}

/// `0-1-100,1-2-5`, as servers print it, by domain.
impl fmt::Display for MariaDbPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, gtid) in self.gtids().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{gtid}")?;
        }
        Ok(())
    }
}

/// One GTID for each domain at most, as for the server.
impl FromStr for MariaDbPosition {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<MariaDbPosition, ParseGtidError> {
        let mut position = MariaDbPosition::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let gtid: MariaDbGtid = item.parse()?;
            if position.last(gtid.domain).is_some() {
                return Err(ParseGtidError::new(
                    item,
                    "a position has one GTID for each domain",
                ));
            }
            position.advance(gtid);
        }
        Ok(position)
    }
}

/// What a binlog knows at its beginning (GTID_LIST event, `gtid_binlog_state`): for each domain the last transaction of
/// each server, and which of them came last. Two states are equal when they say the same, whatever their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MariaDbState {
    domains: BTreeMap<u32, Domain>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Domain {
    last_server: u32,
    /// Sequence number by server.
    servers: BTreeMap<u32, u64>,
}

impl MariaDbState {
    /// The state of an empty log.
    pub fn new() -> MariaDbState {
        MariaDbState::default()
    }

    /// Goes on to `gtid`, which the log holds next. Of a list, the last of a domain is the one that came last.
    pub fn advance(&mut self, gtid: MariaDbGtid) {
        let domain = self.domains.entry(gtid.domain).or_default();
        domain.last_server = gtid.server;
        domain.servers.insert(gtid.server, gtid.sequence);
    }

    /// Where a replica that has all of this is.
    pub fn position(&self) -> MariaDbPosition {
        let mut position = MariaDbPosition::new();
        for (&domain, state) in &self.domains {
            let server = state.last_server;
            let sequence = state.servers.get(&server).copied().unwrap_or(0);
            position.advance(MariaDbGtid {
                domain,
                server,
                sequence,
            });
        }
        position
    }

    /// Its GTIDs, by domain; within a domain by server, but the one that came last at the end.
    pub fn gtids(&self) -> impl Iterator<Item = MariaDbGtid> + '_ {
        self.domains.iter().flat_map(|(&domain, state)| {
            let gtid = move |(&server, &sequence): (&u32, &u64)| MariaDbGtid {
                domain,
                server,
                sequence,
            };
            let is_last = |(server, _): &(&u32, &u64)| **server == state.last_server;
            let others = state.servers.iter().filter(move |entry| !is_last(entry));
            let last = state.servers.get_key_value(&state.last_server);
            others.chain(last).map(gtid)
        })
    }
}

impl FromIterator<MariaDbGtid> for MariaDbState {
    fn from_iter<T: IntoIterator<Item = MariaDbGtid>>(gtids: T) -> MariaDbState {
        let mut state = MariaDbState::new();
        gtids.into_iter().for_each(|gtid| state.advance(gtid));
        state
    }
}

/// As `gtid_binlog_state` prints it, by domain.
impl fmt::Display for MariaDbState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, gtid) in self.gtids().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{gtid}")?;
        }
        Ok(())
    }
}

//! The whole cycle on real servers and stores: write, back up, write on, kill, restore, compare. Both programs are run
//! as they were built, from outside.

mod configuration;
mod crashes;
mod delta;
mod divergence;
mod gap;
mod incremental;
mod limits;
mod matrix;
mod outage;
mod protected;
mod refusals;
mod segments;
mod settings;
mod spool;
mod standby;
mod synchronous;
mod targets;
mod timelines;
mod wal_get;

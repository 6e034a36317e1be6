//! MySQL and MariaDB from end to end, on real servers: what is stored of the binlog, whatever is killed on the way. Both
//! programs are run as they were built, from outside.

mod base;
mod failover;
mod files;
mod forks;
mod outage;
mod plans;
mod protected;
mod restore;
mod semi_sync;

//! Base backups and restores on real servers, without any repository.

mod cycle;
mod facts;
mod listing;
mod support;

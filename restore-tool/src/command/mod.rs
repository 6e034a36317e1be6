//! One file for each command.

pub mod export;
pub mod list;
pub mod plan;

//! The log as the server asks for it: planned segments and history files, put together from slices.

pub mod fetch;
pub mod get;
pub mod prefetch;
pub mod segments;
pub mod state;

//! Restores on real servers: a base, its log, and what the original held.

mod refusals;
mod restored;
mod resume;
mod source;
mod targets;

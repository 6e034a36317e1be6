//! The harness's own tests, on every server that it knows.

mod mysql;
mod postgres;
mod programs;
mod proxy;
mod s3;
mod workload;

//! The conformance suite over every store and decorator, and the S3 backend against real servers. A test that needs a
//! server fails when it cannot be started.

mod conformance;
mod s3;
mod servers;

//! Time as something that can be handed in, so that deciding code stays pure and tests can move it.

use crate::Timestamp;

/// Tells what time it is. A simulated one stands in for it in tests.
pub trait Clock: Send + Sync {
    /// The present.
    fn now(&self) -> Timestamp;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_chrono(chrono::Utc::now())
    }
}

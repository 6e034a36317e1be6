//! What a server must offer before it can be protected, and what to watch while it is.
//!
//! Facts are queried ([`ServerFacts::query`]); judging them ([`findings()`]) is pure. Each finding that is not "ok"
//! carries the statement that mends it, where one does.

mod facts;
mod findings;
mod monitor;
mod standby_names;
mod wanted;

pub use facts::{RoleFacts, ServerFacts, Setting, TablespaceFact};
pub use findings::findings;
pub use monitor::{SlotStatus, SyncState, SyncStatus, WalStatus, WriterFacts};
pub use standby_names::names_standby;
pub use wanted::Wanted;

//! What can go wrong with a store, and of which class it is.

use std::error::Error;

use tidemark_types::ErrorClass;

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Opening the store.
    Open,
    /// Writing an object.
    Put,
    /// Reading an object.
    Get,
    /// Looking at an object.
    Head,
    /// Listing.
    List,
    /// Deleting.
    Delete,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 6] = [
        Operation::Open,
        Operation::Put,
        Operation::Get,
        Operation::Head,
        Operation::List,
        Operation::Delete,
    ];

    /// Its place in [`Operation::ALL`].
    pub(crate) fn index(self) -> usize {
        match self {
            Operation::Open => 0,
            Operation::Put => 1,
            Operation::Get => 2,
            Operation::Head => 3,
            Operation::List => 4,
            Operation::Delete => 5,
        }
    }

    /// As it appears in messages and metric labels.
    pub fn label(self) -> &'static str {
        match self {
            Operation::Open => "open",
            Operation::Put => "put",
            Operation::Get => "get",
            Operation::Head => "head",
            Operation::List => "list",
            Operation::Delete => "delete",
        }
    }
}

/// A failed operation on a store. `subject` is the key, prefix or URL it was about.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// There is no such object.
    #[error("{subject}: no such object in {url}")]
    NotFound {
        /// The key.
        subject: String,
        /// The store.
        url: String,
    },
    /// [`crate::PutMode::Create`] met an object.
    #[error("{subject}: already exists in {url}")]
    AlreadyExists {
        /// The key.
        subject: String,
        /// The store.
        url: String,
    },
    /// [`crate::PutMode::Update`] met another version.
    #[error("{subject}: was changed by somebody else in {url}")]
    Changed {
        /// The key.
        subject: String,
        /// The store.
        url: String,
    },
    /// A range that begins past the end of the object.
    #[error("{subject}: range {begin}..{end} lies past the end of the object in {url}")]
    InvalidRange {
        /// The key.
        subject: String,
        /// The store.
        url: String,
        /// First byte asked for.
        begin: u64,
        /// First byte not asked for.
        end: u64,
    },
    /// The store's address or settings make no sense, or it refuses these credentials.
    #[error("{operation} {subject}: {problem}", operation = .operation.label())]
    Config {
        /// What was being done.
        operation: Operation,
        /// What it was about.
        subject: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Anything else the store or the network said; `class` tells whether a retry can help.
    #[error("{operation} {subject} in {url}", operation = .operation.label())]
    Failed {
        /// What was being done.
        operation: Operation,
        /// What it was about.
        subject: String,
        /// The store.
        url: String,
        /// Transient or permanent.
        class: ErrorClass,
        /// What the layer below said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl StorageError {
    /// What kind of failure this is.
    pub fn class(&self) -> ErrorClass {
        match self {
            StorageError::NotFound { .. } | StorageError::InvalidRange { .. } => ErrorClass::Corrupt,
            StorageError::AlreadyExists { .. } | StorageError::Changed { .. } => ErrorClass::Conflict,
            StorageError::Config { .. } => ErrorClass::Config,
            StorageError::Failed { class, .. } => *class,
        }
    }

    /// Whether the object was simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, StorageError::NotFound { .. })
    }
}

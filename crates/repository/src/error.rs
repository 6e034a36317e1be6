//! What can go wrong with a repository, and of which class it is.

use tidemark_storage::StorageError;
use tidemark_types::ErrorClass;

/// A failed operation on a repository. `object` is always the key of the object it was about.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Bytes of an object are not what they must be.
    #[error("{object} is damaged: {problem}")]
    Damaged {
        /// Its key.
        object: String,
        /// What does not fit.
        problem: String,
    },
    /// An object of a later format than this program knows.
    #[error(
        "{object} has format version {found}, and this version of tidemark reads up to {supported}: use a newer one"
    )]
    TooNew {
        /// Its key.
        object: String,
        /// Its version.
        found: u16,
        /// The newest that can be read here.
        supported: u16,
    },
    /// An object is encrypted, and there is no key for it.
    #[error("{object} is encrypted, and this version of tidemark cannot decrypt: use a newer one")]
    Encrypted {
        /// Its key.
        object: String,
    },
    /// Something else is already stored under this name.
    #[error("{object} already holds something else: {problem}")]
    Conflict {
        /// Its key.
        object: String,
        /// What differs, and what to do.
        problem: String,
    },
    /// A base backup was told something that does not make a whole one.
    #[error("base backup {backup}: {problem}")]
    Backup {
        /// Its name.
        backup: String,
        /// What does not fit.
        problem: String,
    },
    /// There is no such thing in the repository.
    #[error("{0}")]
    Missing(String),
    /// Compressing or decompressing failed for a reason other than the data.
    #[error("compress {object}")]
    Codec {
        /// What was being compressed.
        object: String,
        /// What zstd said.
        #[source]
        source: std::io::Error,
    },
}

impl RepositoryError {
    /// What kind of failure this is.
    pub fn class(&self) -> ErrorClass {
        match self {
            RepositoryError::Storage(error) => error.class(),
            RepositoryError::Damaged { .. } => ErrorClass::Corrupt,
            RepositoryError::TooNew { .. }
            | RepositoryError::Encrypted { .. }
            | RepositoryError::Missing(_) => ErrorClass::Config,
            RepositoryError::Conflict { .. } => ErrorClass::Conflict,
            RepositoryError::Codec { .. } | RepositoryError::Backup { .. } => ErrorClass::Permanent,
        }
    }

    /// Damage found in the object `object`.
    pub(crate) fn damaged(object: &(impl ToString + ?Sized), problem: impl Into<String>) -> RepositoryError {
        RepositoryError::Damaged {
            object: object.to_string(),
            problem: problem.into(),
        }
    }
}

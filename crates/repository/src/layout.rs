//! Every object's key: built here and nowhere else.

use std::fmt;

use tidemark_storage::{InvalidKey, ObjectKey};
use tidemark_types::{Generation, ServerName};

/// One line of log history: a timeline in PostgreSQL, a numbered incarnation in MySQL and MariaDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Branch(pub u32);

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Folder that holds one folder per server.
pub const SERVERS: &str = "servers/";
/// The object that makes a prefix a repository.
pub const DESCRIPTOR: &str = "tidemark.json";

/// Keys of the objects that belong to a server as a whole.
pub fn lease_key(server: &ServerName) -> ObjectKey {
    key(format!("lease/{server}.json"))
}

/// The folder of all generations of a server.
pub fn server_folder(server: &ServerName) -> String {
    format!("{SERVERS}{server}/")
}

/// Builds the keys of one generation of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: String,
}

impl Layout {
    /// The keys of `generation` of `server`.
    pub fn new(server: &ServerName, generation: Generation) -> Layout {
        Layout {
            root: format!("{}{:04}/", server_folder(server), generation.0),
        }
    }

    /// Identity and chain key.
    pub fn server_json(&self) -> ObjectKey {
        key(format!("{}server.json", self.root))
    }

    /// The folder that holds one folder of slices per branch.
    pub fn log_folder(&self) -> String {
        format!("{}log/", self.root)
    }

    /// The slices of one branch.
    pub fn branch_folder(&self, branch: Branch) -> String {
        format!("{}log/{:08X}/", self.root, branch.0)
    }

    /// One slice, by the name that its [`crate::SliceKey`] gives it.
    pub fn slice(&self, branch: Branch, name: &str) -> ObjectKey {
        key(format!("{}{name}", self.branch_folder(branch)))
    }

    /// Files that belong to a branch and are no part of its slices.
    pub fn files_folder(&self, branch: Branch) -> String {
        format!("{}files/{:08X}/", self.root, branch.0)
    }

    /// One such file.
    ///
    /// # Errors
    /// When `name` cannot be part of a key.
    pub fn branch_file(&self, branch: Branch, name: &str) -> Result<ObjectKey, InvalidKey> {
        ObjectKey::new(format!("{}{name}.zst", self.files_folder(branch)))
    }

    /// The changed-blocks objects of one branch.
    pub fn changes_folder(&self, branch: Branch) -> String {
        format!("{}changes/{:08X}/", self.root, branch.0)
    }

    /// The changed blocks of the bytes `[begin, end)` of log file `file`.
    pub fn changes(&self, branch: Branch, file: u64, begin: u64, end: u64) -> ObjectKey {
        key(format!(
            "{}{file:016X}-{begin:010X}-{end:010X}.zst",
            self.changes_folder(branch)
        ))
    }

    /// Recorded gaps.
    pub fn gaps_folder(&self) -> String {
        format!("{}gaps/", self.root)
    }

    /// One recorded gap, which begins at `offset` of log file `file` of `branch`.
    pub fn gap(&self, branch: Branch, file: u64, offset: u64) -> ObjectKey {
        key(format!(
            "{}{:08X}-{file:016X}-{offset:010X}.json",
            self.gaps_folder(),
            branch.0
        ))
    }

    /// The folder that holds one folder per base backup.
    pub fn base_folder(&self) -> String {
        format!("{}base/", self.root)
    }

    /// The object `name` of the base backup `backup`.
    ///
    /// # Errors
    /// When either cannot be part of a key.
    pub fn base(&self, backup: &str, name: &str) -> Result<ObjectKey, InvalidKey> {
        ObjectKey::new(format!("{}base/{backup}/{name}", self.root))
    }
}

/// Reads the name of a branch's folder.
pub fn parse_branch(name: &str) -> Option<Branch> {
    (name.len() == 8)
        .then(|| u32::from_str_radix(name, 16).ok())?
        .map(Branch)
}

/// Reads the name of a generation's folder.
pub fn parse_generation(name: &str) -> Option<Generation> {
    name.parse().ok().filter(|number| *number > 0).map(Generation)
}

/// A key made of parts that are valid by construction.
fn key(name: String) -> ObjectKey {
    match ObjectKey::new(name) {
        Ok(key) => key,
        Err(error) => unreachable!("keys are built from validated parts: {error}"),
    }
}

//! What a look at a server found: the words of every engine's preflight.

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// It works, at a risk.
    Warning,
    /// It does not work.
    Error,
}

/// One fact, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, such as a setting's name.
    pub subject: &'static str,
    /// What was found and what follows from it.
    pub message: String,
    /// The statement that mends it.
    pub remedy: Option<String>,
}

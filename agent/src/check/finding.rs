//! What `check` found, and how it is shown.

use std::fmt::Write;

use serde::Serialize;
use tidemark_types::Severity;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// Works, with a risk that somebody should know of.
    Warning,
    /// Will not work, or not protect.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The server's name, or `repository`.
    pub subject: String,
    /// What was looked at, in a word or two.
    pub check: String,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// The statement or step that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn good(subject: &str, check: &str, text: impl Into<String>) -> Finding {
        Finding {
            subject: subject.to_owned(),
            check: check.to_owned(),
            level: Level::Good,
            text: text.into(),
            mend: None,
        }
    }

    /// What a preflight found of a server.
    pub fn of_server(subject: &str, finding: tidemark_types::Finding) -> Finding {
        let level = match finding.severity {
            Severity::Ok => Level::Good,
            Severity::Note => Level::Note,
            Severity::Warning => Level::Warning,
            Severity::Error => Level::Error,
        };
        Finding {
            subject: subject.to_owned(),
            check: finding.subject.to_owned(),
            level,
            text: finding.message,
            mend: finding.remedy,
        }
    }

    /// A risk.
    pub fn warning(subject: &str, check: &str, text: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding {
            level: Level::Warning,
            mend: Some(mend.into()),
            ..Finding::good(subject, check, text)
        }
    }

    /// Something that has to be mended.
    pub fn error(subject: &str, check: &str, text: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding {
            level: Level::Error,
            ..Finding::warning(subject, check, text, mend)
        }
    }
}

/// All findings, in the order in which they were made.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The findings.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many have to be mended.
    pub fn errors(&self) -> usize {
        let errors = self
            .findings
            .iter()
            .filter(|finding| finding.level == Level::Error);
        errors.count()
    }

    /// A table with a line for each finding, and the mending below it.
    pub fn render(&self) -> String {
        let width = |of: fn(&Finding) -> &str| {
            let widths = self.findings.iter().map(|finding| of(finding).chars().count());
            widths.max().unwrap_or(0)
        };
        let (subjects, checks) = (width(|f| &f.subject), width(|f| &f.check));
        let mut table = String::new();
        for finding in &self.findings {
            let mark = match finding.level {
                Level::Good => '✓',
                Level::Note => '·',
                Level::Warning => '!',
                Level::Error => '✗',
            };
            let Finding {
                subject,
                check,
                text,
                mend,
                ..
            } = finding;
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{mark} {subject:subjects$}  {check:checks$}  {text}");
            for line in mend.iter().flat_map(|mend| mend.lines()) {
                let _ = writeln!(table, "  {:subjects$}  {:checks$}  → {line}", "", "");
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_mending_stands_below_its_finding() {
        let report = Report {
            findings: vec![
                Finding::good("repository", "write", "works"),
                Finding::error(
                    "shop",
                    "wal_level",
                    "is minimal",
                    "ALTER SYSTEM SET wal_level = 'replica';\nthen restart",
                ),
            ],
        };
        let expected = "\
✓ repository  write      works
✗ shop        wal_level  is minimal
                         → ALTER SYSTEM SET wal_level = 'replica';
                         → then restart
";
        assert_eq!(report.render(), expected);
        assert_eq!(report.errors(), 1);
    }
}

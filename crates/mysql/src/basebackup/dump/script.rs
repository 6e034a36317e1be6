//! Statements as text that the vendors' clients read: each ends with a line that holds nothing but the delimiter.

use std::fmt::Write;

/// What every file begins with. A server that does not know a setting of a later version skips the comment it stands in.
pub const PREAMBLE: &str = "\
SET NAMES utf8mb4;
SET SESSION time_zone = '+00:00', sql_mode = 'NO_AUTO_VALUE_ON_ZERO', foreign_key_checks = 0, unique_checks = 0;
/*!80013 SET SESSION sql_require_primary_key = 0 */;
/*!80030 SET SESSION sql_generate_invisible_primary_key = 0 */;
";

/// The statements of one file.
#[derive(Debug, Default)]
pub struct Script {
    statements: Vec<String>,
}

impl Script {
    /// Adds a statement.
    pub fn push(&mut self, statement: impl Into<String>) {
        self.statements.push(statement.into());
    }

    pub fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// The text. Bodies of routines hold semicolons, so the delimiter is something that none of them holds.
    pub fn render(&self) -> String {
        let delimiter = (0..)
            .map(|number| format!(";;{number}"))
            .find(|delimiter| {
                !self
                    .statements
                    .iter()
                    .any(|statement| statement.contains(delimiter))
            })
            .unwrap_or_default();
        let mut text = format!("{PREAMBLE}DELIMITER {delimiter}\n");
        for statement in &self.statements {
            // Writing to a string cannot fail.
            let _ = write!(text, "{statement}\n{delimiter}\n");
        }
        text.push_str("DELIMITER ;\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delimiter_is_in_no_statement() {
        let mut script = Script::default();
        script.push("SELECT ';;0;;1'");
        script.push("SELECT 2");
        let text = script.render();
        assert!(text.starts_with(PREAMBLE));
        assert!(text.ends_with("DELIMITER ;;2\nSELECT ';;0;;1'\n;;2\nSELECT 2\n;;2\nDELIMITER ;\n"));
    }
}

//! Loading a dump into a new server: statements from files, in the order of their paths, rows over several connections at once.
//!
//! The files are such as the vendors' clients read (see the dump of base backups); no client has to be installed.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;

use super::RestoreError;
use super::options::Purpose;
use super::server::{PrivateServer, ServerLaunch, initialise};
use crate::client::Sql;
use crate::error::MysqlError;

/// The folder of files that may be loaded in any order.
const ROWS: &str = "40-data";

/// Makes a new server in the data directory, which is there and empty, loads the dump in `directory` into it, and stops it.
/// `tell` is called with the bytes of each file that is done.
///
/// # Errors
/// [`RestoreError::Load`] names the file and the statement that failed.
pub async fn load_dump(
    launch: &ServerLaunch,
    directory: &Path,
    tell: &mut (dyn FnMut(u64) + Send),
) -> Result<(), RestoreError> {
    initialise(launch).await?;
    let mut server = PrivateServer::start(launch.clone(), Purpose::Load).await?;
    let loaded = match load(&mut server, directory, tell).await {
        Ok(()) => Ok(()),
        Err(error) => Err(server.explain(error).await),
    };
    let stopped = server.stop().await;
    loaded.and(stopped)
}

async fn load(
    server: &mut PrivateServer,
    directory: &Path,
    tell: &mut (dyn FnMut(u64) + Send),
) -> Result<(), RestoreError> {
    for (stage, files) in stages(directory)? {
        let at_once = match stage.as_str() {
            ROWS => server.launch().options.workers,
            _ => 1,
        };
        let waiting = Arc::new(Mutex::new(VecDeque::from(files)));
        let mut work = JoinSet::new();
        for _ in 0..at_once {
            let sql = server.connect().await?;
            work.spawn(load_files(sql, Arc::clone(&waiting)));
        }
        while let Some(done) = work.join_next().await {
            let bytes = done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
            tell(bytes);
        }
    }
    Ok(())
}

/// The files by the first part of their paths, in order.
fn stages(directory: &Path) -> Result<BTreeMap<String, Vec<PathBuf>>, RestoreError> {
    let mut stages = BTreeMap::new();
    for path in entries(directory)? {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let files = if path.is_dir() {
            entries(&path)?
        } else {
            vec![path]
        };
        stages.insert(name, files);
    }
    Ok(stages)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, RestoreError> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            paths.push(entry?.path());
        }
        paths.sort();
        Ok(paths)
    };
    list().map_err(RestoreError::io("list", directory))
}

/// Loads files until none waits any more; returns their bytes.
async fn load_files(mut sql: Sql, waiting: Arc<Mutex<VecDeque<PathBuf>>>) -> Result<u64, RestoreError> {
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let mut bytes = 0;
    while let Some(path) = next() {
        bytes += load_file(&mut sql, &path).await?;
    }
    Ok(bytes)
}

async fn load_file(sql: &mut Sql, path: &Path) -> Result<u64, RestoreError> {
    let io = |error| RestoreError::io("read", path)(error);
    let file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    let mut statements = Statements::new(BufReader::new(file));
    let mut number = 0;
    loop {
        // A statement is a megabyte or so: reading one blocks for moments.
        let Some(statement) = statements.next().map_err(io)? else {
            return Ok(bytes);
        };
        number += 1;
        let failed = |source: MysqlError| RestoreError::Load {
            path: path.to_owned(),
            statement: number,
            source: Box::new(source),
        };
        sql.execute("load the dump", &statement).await.map_err(failed)?;
    }
}

/// Parts a script into statements, as the vendors' clients do: by semicolons at the ends of lines outside of quotes, and
/// behind a line `DELIMITER X` by lines that hold nothing but X.
struct Statements<R> {
    input: R,
    delimiter: Option<String>,
}

/// In which kind of quotes a script is.
#[derive(Default)]
struct Quotes {
    inside: Option<u8>,
    is_escaped: bool,
}

impl Quotes {
    fn pass(&mut self, line: &[u8]) {
        for &byte in line {
            match self.inside {
                Some(_) if self.is_escaped => self.is_escaped = false,
                Some(b'\'' | b'"') if byte == b'\\' => self.is_escaped = true,
                // A doubled quote leaves and comes back.
                Some(quote) if byte == quote => self.inside = None,
                Some(_) => {}
                None if matches!(byte, b'\'' | b'"' | b'`') => self.inside = Some(byte),
                None => {}
            }
        }
    }
}

impl<R: BufRead> Statements<R> {
    fn new(input: R) -> Statements<R> {
        Statements {
            input,
            delimiter: None,
        }
    }

    /// The next statement, without its delimiter; `None` at the end.
    fn next(&mut self) -> std::io::Result<Option<String>> {
        let mut statement = Vec::new();
        let mut quotes = Quotes::default();
        loop {
            let begin = statement.len();
            if self.input.read_until(b'\n', &mut statement)? == 0 {
                return if statement.trim_ascii().is_empty() {
                    Ok(None)
                } else {
                    Err(invalid("the last statement has no end"))
                };
            }
            let line = statement.get(begin..).unwrap_or_default();
            let text = line.trim_ascii_end();
            if begin == 0 && line.starts_with(b"DELIMITER ") {
                let delimiter = String::from_utf8_lossy(text).replace("DELIMITER ", "");
                self.delimiter = Some(delimiter).filter(|delimiter| delimiter != ";");
                statement.clear();
                continue;
            }
            let end = match &self.delimiter {
                Some(delimiter) => (text == delimiter.as_bytes()).then_some(begin),
                None => {
                    quotes.pass(line);
                    let is_end = quotes.inside.is_none() && text.ends_with(b";");
                    is_end.then_some((begin + text.len()).saturating_sub(1))
                }
            };
            if let Some(end) = end {
                statement.truncate(end);
                let statement = String::from_utf8(statement).map_err(|_| invalid("it is not UTF-8"))?;
                return Ok(Some(statement));
            }
        }
    }
}

fn invalid(problem: &'static str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(text: &str) -> Vec<String> {
        let mut reader = Statements::new(text.as_bytes());
        let mut found = Vec::new();
        while let Some(statement) = reader.next().unwrap() {
            found.push(statement);
        }
        found
    }

    #[test]
    fn a_semicolon_in_quotes_ends_nothing() {
        let text = "SET a = 1;\nINSERT INTO t VALUES ('x;\ny''z;\n'),\n(\"\\\";\n\"), (`;\n`);\nSELECT 2;\n";
        assert_eq!(
            statements(text),
            [
                "SET a = 1",
                "INSERT INTO t VALUES ('x;\ny''z;\n'),\n(\"\\\";\n\"), (`;\n`)",
                "SELECT 2"
            ]
        );
    }

    #[test]
    fn delimiters_hold_for_what_follows() {
        let text = "SET a;\nDELIMITER ;;0\nCREATE PROCEDURE p()\nBEGIN\n  SELECT 1;\nEND\n;;0\nSELECT 2\n;;0\nDELIMITER ;\nSET b;\n";
        assert_eq!(
            statements(text),
            [
                "SET a",
                "CREATE PROCEDURE p()\nBEGIN\n  SELECT 1;\nEND\n",
                "SELECT 2\n",
                "SET b"
            ]
        );
    }

    #[test]
    fn what_is_cut_off_is_told() {
        let mut reader = Statements::new(&b"SELECT 1;\nSELECT"[..]);
        assert!(reader.next().unwrap().is_some());
        assert!(reader.next().is_err());
    }
}

//! Opens the files of a cluster in a backup's books, and cuts what is to be read of them into units.

use tidemark_postgres::basebackup::{Scan, SourceFile};
use tidemark_postgres::control_file::CONTROL_FILE_PATH;
use tidemark_repository::base::{BackupWriter, EntryKind, FileEntry, FileMeta};
use tidemark_types::{Clock, SystemClock};

use super::books::Books;
use super::delta::{Delta, FilePlan, sample};
use super::parent::{Entries, Parent};
use super::take::Job;
use super::work::{Run, Work, meta_of};

/// See the module.
pub struct Planner<'a> {
    /// The backup.
    pub job: &'a Job,
    /// What it is laid over, if it is incremental.
    pub parent: Option<&'a Parent>,
    /// What changed since the parent; `None`: files are compared.
    pub delta: Option<Delta>,
}

impl Planner<'_> {
    /// Plans all files that were listed but `pg_control`, which comes last.
    ///
    /// # Errors
    /// What the repository says; `Corrupt` when the parent's manifest is.
    pub async fn plan(
        mut self,
        listed: Scan,
        writer: &mut BackupWriter,
        books: &mut Books,
    ) -> anyhow::Result<Work> {
        self.job.progress.expect(listed.total_bytes());
        add_paths(&listed, writer);
        let mut files = listed.files;
        files.retain(|file| file.path != CONTROL_FILE_PATH);
        let mut work = Work::new(files);
        let mut entries = self
            .parent
            .map(|parent| Entries::new(parent.reader.manifest().files()));
        for source in 0..work.files().len() {
            let Some(file) = work.files().get(source).cloned() else {
                break;
            };
            let base = match &mut entries {
                Some(entries) => entries.file(&file.path)?,
                None => None,
            };
            self.file(&file, source, base, &mut work, writer, books).await?;
        }
        Ok(work)
    }

    async fn file(
        &mut self,
        file: &SourceFile,
        source: usize,
        base: Option<FileEntry>,
        work: &mut Work,
        writer: &mut BackupWriter,
        books: &mut Books,
    ) -> anyhow::Result<()> {
        let Some(base) = base else {
            let id = writer.begin_file(meta_of(file));
            match work.add_whole(id, source) {
                0 => writer.end_file(id, 0, 0).await?,
                units => books.expect(id, units),
            }
            return Ok(());
        };
        let plan = match &mut self.delta {
            Some(delta) => delta.plan(file.kind, file.size, Some(base.size)),
            None => FilePlan::Compare,
        };
        let runs = match plan {
            FilePlan::Keep => {
                writer.keep_unchanged(meta_of(file), &base)?;
                self.check(source, file.size, &[], work);
                return Ok(());
            }
            FilePlan::Runs(runs) => Some(runs),
            FilePlan::Whole | FilePlan::Compare => None,
        };
        let parts = base.parts.clone();
        let id = writer.begin_overlay(meta_of(file), base);
        let units = match &runs {
            Some(runs) => {
                self.check(source, file.size, runs, work);
                work.add_runs(id, source, runs)
            }
            None => work.add_compare(id, source, &parts),
        };
        match units {
            0 => writer.end_file(id, file.size, 0).await?,
            units => books.expect_overlay(id, file.size, units),
        }
        Ok(())
    }

    /// Has some of the pages called unchanged looked at.
    fn check(&self, source: usize, size: u64, changed: &[Run], work: &mut Work) {
        let read: u64 = changed.iter().map(|run| run.bytes().len()).sum();
        self.job.progress.add(size.saturating_sub(read));
        let share = self.job.settings().base_backup.verify_unchanged.fraction();
        work.add_check(source, &sample(size, changed, share, rand::random));
    }
}

/// Directories, and links to tablespaces.
fn add_paths(listed: &Scan, writer: &mut BackupWriter) {
    for skipped in &listed.skipped {
        tracing::warn!(file = %skipped.location.display(), reason = skipped.reason, "left out of the base backup");
    }
    let modified = SystemClock.now();
    for directory in &listed.directories {
        writer.add_path(FileMeta {
            path: directory.path.clone(),
            kind: EntryKind::Directory,
            mode: directory.mode,
            modified,
            tag: None,
        });
    }
    for tablespace in listed
        .tablespaces
        .iter()
        .filter(|tablespace| !tablespace.is_in_place())
    {
        let to = tablespace.location.to_string_lossy().into_owned();
        writer.add_path(FileMeta {
            path: format!("pg_tblspc/{}", tablespace.oid),
            kind: EntryKind::Link(to),
            mode: 0o777,
            modified,
            tag: None,
        });
    }
}

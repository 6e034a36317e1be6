//! Listing a tree in the order of its keys' bytes, as S3 lists.
//!
//! A folder sorts as its name with a `/` behind it: so `a-b` (0x2d) comes before all of `a/` (0x2f), and `a0` after.
//! Folders that cannot hold a key within the bounds are not entered, and of a large folder only the names that fit
//! into the page are kept.

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, statat};
use rustix::io::Errno;

use crate::file::failure::Subject;
use crate::file::root::{Root, is_file, is_folder, modified_of, size_of};
use crate::key::is_part;
use crate::{ListPage, ObjectKey, ObjectMeta, Operation, StorageError};

/// Made by `mkfs` at the root of ext file systems, readable by root alone.
const LOST_AND_FOUND: &str = "lost+found";
/// No key is longer, so nothing below a deeper folder is an object.
const FOLDER_LENGTH_MAX: usize = crate::key::LENGTH_MAX;

/// Up to `limit` objects whose keys begin with `prefix` and come after `start_after` (empty: from the beginning).
pub(super) fn page(
    root: &Root,
    prefix: &str,
    start_after: &str,
    limit: usize,
) -> Result<ListPage, StorageError> {
    let mut walk = Walk {
        root,
        prefix,
        start_after,
        limit,
        page: ListPage::default(),
    };
    let folder = prefix.rfind('/').and_then(|at| prefix.get(..=at)).unwrap_or("");
    if is_folder_prefix(folder) {
        walk.folder(folder)?;
    }
    Ok(walk.page)
}

/// The folders directly below `prefix` that hold an object at any depth, sorted.
pub(super) fn folders(root: &Root, prefix: &str) -> Result<Vec<String>, StorageError> {
    let mut found = Vec::new();
    if !is_folder_prefix(prefix) {
        return Ok(found);
    }
    let Some((_, names)) = names_in(root, prefix, &Bounds::default())? else {
        return Ok(found);
    };
    for name in names.kept {
        if let Some(folder) = name.strip_suffix('/')
            && holds_object(root, format!("{prefix}{name}"))?
        {
            found.push(folder.to_owned());
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether the text is empty or a path of valid parts, each followed by `/`: anything else names no folder of ours,
/// and must not lead out of the root.
fn is_folder_prefix(folder: &str) -> bool {
    folder.is_empty()
        || folder
            .strip_suffix('/')
            .is_some_and(|path| path.split('/').all(|part| is_part(part.as_bytes())))
}

struct Walk<'a> {
    root: &'a Root,
    prefix: &'a str,
    start_after: &'a str,
    limit: usize,
    page: ListPage,
}

impl Walk<'_> {
    /// Adds what lies below `folder` (empty, or ending in `/`) until the page is full.
    fn folder(&mut self, folder: &str) -> Result<(), StorageError> {
        let mut done = None;
        loop {
            let bounds = Bounds {
                prefix: self.prefix.get(folder.len()..).unwrap_or(""),
                start_after: self.start_after.strip_prefix(folder),
                skip_all: self.start_after > folder && !self.start_after.starts_with(folder),
                done,
                // One more than fits tells whether more follows.
                limit: self
                    .limit
                    .saturating_sub(self.page.objects.len())
                    .saturating_add(1),
            };
            let Some((dir, mut names)) = names_in(self.root, folder, &bounds)? else {
                return Ok(());
            };
            names.kept.sort_unstable();
            for name in &names.kept {
                self.entry(&dir, folder, name)?;
                if self.page.more {
                    return Ok(());
                }
            }
            match (names.cut, names.kept.pop()) {
                (true, Some(last)) => done = Some(last),
                _ => return Ok(()),
            }
        }
    }

    fn entry(&mut self, dir: &OwnedFd, folder: &str, name: &str) -> Result<(), StorageError> {
        if name.ends_with('/') {
            return self.folder(&format!("{folder}{name}"));
        }
        let Ok(key) = ObjectKey::new(format!("{folder}{name}")) else {
            return Ok(());
        };
        if self.page.objects.len() >= self.limit {
            self.page.more = true;
            return Ok(());
        }
        match statat(dir, name, AtFlags::empty()) {
            Ok(stat) => self.page.objects.push(ObjectMeta {
                size: size_of(&stat),
                modified: modified_of(&stat),
                key,
            }),
            // Deleted since its name was read.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(Subject::object(self.root, Operation::List, &key).error(errno)),
        }
        Ok(())
    }
}

/// Which names of one folder are wanted. A name is a file's, or a folder's with a `/` behind it.
#[derive(Debug, Default)]
struct Bounds<'a> {
    /// The part of the wanted prefix below this folder; empty when the folder lies wholly within it.
    prefix: &'a str,
    /// The part of the lower bound below this folder, where the bound lies in it.
    start_after: Option<&'a str>,
    /// The lower bound lies past the whole folder.
    skip_all: bool,
    /// The last name already dealt with.
    done: Option<String>,
    /// How many names to keep at most; zero for all.
    limit: usize,
}

impl Bounds<'_> {
    fn admit(&self, name: &str) -> bool {
        if self.skip_all || self.done.as_deref().is_some_and(|done| name <= done) {
            return false;
        }
        let (begins, after) = (self.prefix, self.start_after.unwrap_or(""));
        if name.ends_with('/') {
            (name.starts_with(begins) || begins.starts_with(name))
                && (name > after || after.starts_with(name))
        } else {
            name.starts_with(begins) && name > after
        }
    }
}

/// The least names of a folder that its bounds admit, in no order.
#[derive(Debug, Default)]
struct Names {
    kept: Vec<String>,
    /// Whether greater ones were left out.
    cut: bool,
    ceiling: Option<String>,
}

impl Names {
    fn add(&mut self, name: &str, limit: usize) {
        if self.ceiling.as_deref().is_some_and(|ceiling| name > ceiling) {
            return;
        }
        self.kept.push(name.to_owned());
        if limit > 0 && self.kept.len() >= limit.saturating_mul(2) {
            self.prune(limit);
        }
    }

    fn prune(&mut self, limit: usize) {
        if limit > 0 && self.kept.len() > limit {
            let (_, greatest, _) = self.kept.select_nth_unstable(limit - 1);
            self.ceiling = Some(greatest.clone());
            self.kept.truncate(limit);
            self.cut = true;
        }
    }
}

/// The wanted names of a folder; `None` when there is no such folder.
fn names_in(
    root: &Root,
    folder: &str,
    bounds: &Bounds<'_>,
) -> Result<Option<(OwnedFd, Names)>, StorageError> {
    let mut names = Names::default();
    let dir = visit(root, folder, |_, name| {
        if bounds.admit(name) {
            names.add(name, bounds.limit);
        }
        ControlFlow::Continue(())
    })?;
    names.prune(bounds.limit);
    Ok(dir.map(|dir| (dir, names)))
}

/// Shows `each` the name and the size of every object directly in `folder`, in no order.
pub(super) fn visit_objects(
    root: &Root,
    folder: &str,
    each: &mut dyn FnMut(&str, u64),
) -> Result<(), StorageError> {
    if !is_folder_prefix(folder) {
        return Ok(());
    }
    let mut failed = None;
    visit(root, folder, |dir, name| {
        if name.ends_with('/') {
            return ControlFlow::Continue(());
        }
        match statat(dir, name, AtFlags::empty()) {
            Ok(stat) => each(name, size_of(&stat)),
            // Deleted since its name was read.
            Err(Errno::NOENT) => {}
            Err(errno) => {
                let key = format!("{folder}{name}");
                failed = Some(Subject::named(root, Operation::List, &key).error(errno));
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(()), Err)
}

/// Whether an object lies below the folder, at any depth.
fn holds_object(root: &Root, folder: String) -> Result<bool, StorageError> {
    let mut waiting = vec![folder];
    while let Some(folder) = waiting.pop() {
        let mut found = false;
        visit(root, &folder, |_, name| {
            if name.ends_with('/') {
                waiting.push(format!("{folder}{name}"));
                return ControlFlow::Continue(());
            }
            found = true;
            ControlFlow::Break(())
        })?;
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Shows `each` the open folder and the names in it, in no order, folders with a `/` behind them, and returns the folder;
/// `None` when there is none.
fn visit(
    root: &Root,
    folder: &str,
    mut each: impl FnMut(&OwnedFd, &str) -> ControlFlow<()>,
) -> Result<Option<OwnedFd>, StorageError> {
    let subject = Subject::named(root, Operation::List, folder);
    if folder.len() > FOLDER_LENGTH_MAX {
        return Ok(None);
    }
    let dir = match root.open_folder(folder) {
        Ok(dir) => dir,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(subject.error(errno)),
    };
    let mut with_slash = String::new();
    for entry in Dir::read_from(&dir).map_err(|errno| subject.error(errno))? {
        let entry = match entry {
            Ok(entry) => entry,
            // The folder was deleted while it was read.
            Err(Errno::NOENT) => break,
            Err(errno) => return Err(subject.error(errno)),
        };
        let bytes = entry.file_name().to_bytes();
        let Some(name) = std::str::from_utf8(bytes).ok().filter(|_| is_part(bytes)) else {
            continue;
        };
        let flow = match entry_type(&dir, name, entry.file_type()) {
            EntryType::File => each(&dir, name),
            EntryType::Folder if folder.is_empty() && name == LOST_AND_FOUND => continue,
            EntryType::Folder => {
                with_slash.clear();
                with_slash.push_str(name);
                with_slash.push('/');
                each(&dir, &with_slash)
            }
            EntryType::Other => continue,
        };
        if flow.is_break() {
            break;
        }
    }
    Ok(Some(dir))
}

enum EntryType {
    File,
    Folder,
    Other,
}

/// Some file systems do not tell a name's type while listing; a link (to another disk, say) stands for its target.
fn entry_type(dir: &OwnedFd, name: &str, told: FileType) -> EntryType {
    match told {
        FileType::RegularFile => EntryType::File,
        FileType::Directory => EntryType::Folder,
        FileType::Symlink | FileType::Unknown => match statat(dir, name, AtFlags::empty()) {
            Ok(stat) if is_file(&stat) => EntryType::File,
            Ok(stat) if is_folder(&stat) => EntryType::Folder,
            _ => EntryType::Other,
        },
        _ => EntryType::Other,
    }
}

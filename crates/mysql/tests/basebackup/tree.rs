//! Lays a stream of files down, as a restore does.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tidemark_mysql::basebackup::FileEvent;

/// Files below a directory.
pub struct Tree {
    root: PathBuf,
    open: HashMap<u64, File>,
    pub files: usize,
}

impl Tree {
    pub fn new(root: &Path) -> Tree {
        fs::create_dir_all(root).unwrap();
        Tree {
            root: root.to_owned(),
            open: HashMap::new(),
            files: 0,
        }
    }

    pub fn take(&mut self, event: FileEvent) {
        match event {
            FileEvent::Directory { path } => fs::create_dir_all(self.root.join(&*path)).unwrap(),
            FileEvent::Begin { file, path, replaces } => {
                let path = self.root.join(&*path);
                assert_eq!(path.exists(), replaces, "{}", path.display());
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                self.open.insert(file, File::create(path).unwrap());
                self.files += 1;
            }
            FileEvent::Data { file, offset, bytes } => self.open[&file].write_all_at(&bytes, offset).unwrap(),
            FileEvent::End { file } => drop(self.open.remove(&file).unwrap()),
            FileEvent::Rename { from, to } => {
                fs::rename(self.root.join(&*from), self.root.join(&*to)).unwrap();
            }
            FileEvent::Remove { path } => fs::remove_file(self.root.join(&*path)).unwrap(),
        }
    }
}

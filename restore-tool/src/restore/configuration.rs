//! Configuration files of the lost server that lay outside its data directory (Debian keeps them under `/etc`): they are
//! laid beside the restored one, for whoever puts it into service. No server is started with them: they name the lost
//! one's directories, addresses and peers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::Context;

/// The configuration of a lost server, of any engine.
#[derive(Debug, Clone, Default)]
pub struct LostConfiguration<'a> {
    /// Paths and texts of its files.
    pub files: Vec<(&'a str, &'a str)>,
    /// The data directory: what lay in it is restored with it.
    pub data_directory: Option<&'a str>,
}

impl LostConfiguration<'_> {
    /// A file's path below the folder, and its text.
    fn outside(&self) -> impl Iterator<Item = (PathBuf, &str)> {
        let data = self.data_directory.map(Path::new);
        self.files.iter().filter_map(move |(path, text)| {
            let path = Path::new(path);
            let is_inside = data.is_some_and(|data| path.starts_with(data));
            let below = path.strip_prefix("/").ok()?;
            let is_plain = below
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            (is_plain && !is_inside).then(|| (below.to_owned(), *text))
        })
    }

    /// The folder for them in the folder `state`, if there are any.
    pub fn folder(&self, state: &Path) -> Option<PathBuf> {
        self.outside().next().map(|_| state.join("configuration"))
    }

    /// Writes them below `folder`, each under the whole path that it had.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        for (below, text) in self.outside() {
            let path = folder.join(below);
            let parent = path.parent().unwrap_or(folder);
            // They may hold passwords.
            let private = fs::Permissions::from_mode(0o600);
            fs::create_dir_all(parent)
                .and_then(|()| fs::write(&path, text))
                .and_then(|()| fs::set_permissions(&path, private))
                .with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}

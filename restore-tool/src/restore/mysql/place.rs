//! Where a restore goes, and what is noted beside it for one that goes on later.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tidemark_types::{ErrorClass, Generation, ServerName};

use super::base::Base;
use crate::cli::RestoreArgs;
use crate::exit::Failure;
use crate::plan::Plan;
use crate::planning::Question;
use crate::restore::owner::Owner;
use crate::restore::place::{
    LOG_ROOM, check_room, data_and_state, entries_of, make_private, private_directory,
};

const NOTE_FILE: &str = "restore.json";

/// The places of a restore.
#[derive(Debug)]
pub struct Place {
    /// The data directory.
    pub data: PathBuf,
    /// The folder beside it.
    pub state: PathBuf,
    /// The private server's directory.
    pub server: PathBuf,
    /// Who all of it belongs to.
    pub owner: Owner,
}

/// What is noted when the base lies there: what a restore that goes on has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The server.
    pub server: ServerName,
    /// Which identity of it.
    pub generation: Generation,
    /// The base backup.
    pub backup: String,
}

impl Place {
    /// Makes sure that the place is free and has room; with `--resume`, that something is there to go on with.
    ///
    /// # Errors
    /// `Conflict` when something is there already; when the disk is too small.
    pub fn check(args: &RestoreArgs, question: &Question, plan: &Plan) -> anyhow::Result<Place> {
        let (data, state) = data_and_state(&args.to)?;
        let state = state.path().to_owned();
        let owner = Owner::find(args.owner.as_deref(), &data, question.listed.engine)?;
        owner.check_reaches(&data, "its data directory")?;
        let server = private_directory(&state, owner)?;
        let place = Place {
            data,
            state,
            server,
            owner,
        };
        if args.resume {
            return Ok(place);
        }
        if entries_of(&place.data)? > 0 {
            let message = format!("{} is not empty", place.data.display());
            return Err(Failure::new(ErrorClass::Conflict, message)
                .hint(
                    "restore into another directory; --resume goes on with an earlier restore into this one",
                )
                .into());
        }
        if entries_of(&place.state)? > 0 && !place.state.join(NOTE_FILE).exists() {
            let message = format!(
                "{} is needed for the restore and holds something else",
                place.state.display()
            );
            return Err(Failure::new(ErrorClass::Conflict, message)
                .hint("move it away, or restore into another directory")
                .into());
        }
        check_room(
            &place.data,
            plan.base.bytes.saturating_add(plan.log.bytes.min(LOG_ROOM)),
        )?;
        Ok(place)
    }

    /// What an earlier restore noted; `None` for one that begins.
    ///
    /// # Errors
    /// When there is none to go on with, or it is of another server.
    pub fn earlier(&self, args: &RestoreArgs, question: &Question) -> anyhow::Result<Option<Note>> {
        if !args.resume {
            return Ok(None);
        }
        let path = self.state.join(NOTE_FILE);
        let text = fs::read(&path).map_err(|error| {
            let message = format!(
                "there is no restore in {} to go on with: read {}: {error}",
                self.data.display(),
                path.display()
            );
            Failure::new(ErrorClass::Conflict, message)
                .hint("without --resume a restore begins anew, in an empty directory")
        })?;
        let note: Note = serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))?;
        let listed = &question.listed;
        if note.server == listed.server && note.generation == listed.generation {
            return Ok(Some(note));
        }
        let message = format!(
            "{} was restored from server {}, generation {}",
            self.data.display(),
            note.server,
            note.generation
        );
        Err(Failure::new(ErrorClass::Conflict, message).into())
    }

    /// Where the statements of a dump lie until they are loaded.
    pub fn statements(&self) -> PathBuf {
        self.state.join("statements")
    }

    /// Makes the folder beside the data directory anew: it belongs to one restore.
    ///
    /// # Errors
    /// When that fails.
    pub fn make(&self) -> anyhow::Result<()> {
        if self.state.exists() {
            fs::remove_dir_all(&self.state).with_context(|| format!("remove {}", self.state.display()))?;
        }
        for path in [&self.state, &self.data] {
            make_private(path)?;
            self.owner.give(path)?;
        }
        Ok(())
    }

    /// Notes that the base lies there.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn note(&self, question: &Question, base: &Base) -> anyhow::Result<()> {
        let note = Note {
            server: question.listed.server.clone(),
            generation: question.listed.generation,
            backup: base.id().to_owned(),
        };
        let path = self.state.join(NOTE_FILE);
        fs::write(&path, serde_json::to_vec_pretty(&note)?)
            .with_context(|| format!("write {}", path.display()))?;
        self.owner.give(&path)
    }
}

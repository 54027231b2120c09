//! `cargo xtask clean`.

use std::fs;
use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cargo;

/// Arguments of `clean`.
#[derive(clap::Args)]
pub struct Clean {
    /// Remove the tools that `setup` installed, too
    #[arg(long)]
    all: bool,
}

impl Clean {
    /// Empties the target directory.
    ///
    /// # Errors
    /// When something in it can't be removed.
    pub fn run(&self) -> Result<ExitCode> {
        let target = cargo::workspace().join("target");
        let entries = match fs::read_dir(&target) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(ExitCode::SUCCESS),
            entries => entries.with_context(|| format!("can't read {}", target.display()))?,
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("can't read {}", target.display()))?;
            if entry.file_name() == "tools" && !self.all {
                continue;
            }
            let path = entry.path();
            let directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("can't remove {}", path.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

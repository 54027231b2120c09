//! The policies in force: built-in ones, the file's, and those that operators added, the later replacing the earlier.

use std::sync::Arc;

use crate::api::views::PolicySource;
use crate::config::{Config, Inadmissible, admit_policies, compile_with};
use crate::engine::policy::{Compilation, CompileError, Policy};
use crate::store::Store;

/// A policy that can't be used, or can't be stored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// They may not be stored.
    #[error(transparent)]
    Inadmissible(#[from] Inadmissible),
    /// Together they don't work.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The database.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// Not one of the operator's.
    #[error("{0}")]
    NotStored(String),
}

/// The policies with where each comes from, in order of precedence, and what they compile to.
#[derive(Clone, Debug)]
pub struct Policies {
    config: Config,
    stored: Vec<Policy>,
    compilation: Arc<Compilation>,
}

impl Policies {
    /// Reads the stored ones and compiles all.
    pub fn load(config: &Config, store: &Store) -> Result<Self, Error> {
        let stored = store.policies()?;
        let compilation = Arc::new(compile_with(config, &stored)?);
        Ok(Self { config: config.clone(), stored, compilation })
    }

    /// What they compile to.
    pub fn compilation(&self) -> &Arc<Compilation> {
        &self.compilation
    }

    /// Where a policy comes from.
    pub fn source(&self, name: &str) -> PolicySource {
        if self.stored.iter().any(|policy| policy.name == name) {
            PolicySource::Stored
        } else if self.config.policies.iter().any(|policy| policy.name == name) {
            PolicySource::File
        } else {
            PolicySource::BuiltIn
        }
    }

    /// One that operators added.
    pub fn stored(&self, name: &str) -> Option<&Policy> {
        self.stored.iter().find(|policy| policy.name == name)
    }

    /// Checks policies, stores them durably and makes them some of those in force. Nothing changes on an error.
    pub fn add(&mut self, policies: &[Policy], replace: bool, store: &Store) -> Result<(), Error> {
        let (stored, compilation) = admit_policies(&self.config, &self.stored, policies, replace)?;
        store.save_policies(policies, replace)?;
        self.stored = stored;
        self.compilation = Arc::new(compilation);
        Ok(())
    }

    /// What would apply after [`Self::add`], or after [`Self::remove`] of `remove`: the same checks, and nothing changes.
    pub fn proposed(&self, policies: &[Policy], replace: bool, remove: Option<&str>) -> Result<Compilation, Error> {
        match remove {
            Some(name) => Ok(compile_with(&self.config, &self.without(name)?)?),
            None => Ok(admit_policies(&self.config, &self.stored, policies, replace)?.1),
        }
    }

    /// Removes a stored policy.
    pub fn remove(&mut self, name: &str, store: &Store) -> Result<(), Error> {
        let stored = self.without(name)?;
        let compilation = compile_with(&self.config, &stored)?;
        store.remove_policy(name)?;
        self.stored = stored;
        self.compilation = Arc::new(compilation);
        Ok(())
    }

    /// The stored policies but for one.
    fn without(&self, name: &str) -> Result<Vec<Policy>, Error> {
        let stored: Vec<Policy> = self.stored.iter().filter(|policy| policy.name != name).cloned().collect();
        if stored.len() == self.stored.len() {
            let known = self.compilation.policies.iter().any(|policy| policy.name == name);
            let text = match known {
                true => format!("policy {name:?} is not a stored one: change it in the configuration file"),
                false => format!("there is no policy {name:?}: `sdwan policies list` shows them"),
            };
            return Err(Error::NotStored(text));
        }
        Ok(stored)
    }
}

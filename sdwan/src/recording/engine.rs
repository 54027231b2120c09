//! The engine, with everything that it is told going into a recording as well.

use std::ops::Deref;
use std::sync::Arc;

use super::{Decisions, Entry, Line, PolicySet};
use crate::engine::input::{Changes, Input, Probe};
use crate::engine::policy::Compilation;
use crate::engine::{Engine, Time};

/// An engine whose inputs are recorded, if somebody asked for that. Whatever changes the engine is here; all else it is
/// asked by way of [`Deref`], so that nothing can change it unrecorded.
#[derive(Debug)]
pub struct RecordedEngine {
    engine: Engine,
    record: Option<Box<dyn Record>>,
}

/// Where a recording goes, line by line.
pub trait Record: Send + std::fmt::Debug {
    /// Takes a line, without waiting for anything.
    fn put(&mut self, line: Line);
}

impl Deref for RecordedEngine {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl RecordedEngine {
    /// An engine that has been told nothing yet.
    pub fn new(engine: Engine, record: Option<Box<dyn Record>>) -> Self {
        Self { engine, record }
    }

    /// [`Engine::handle`].
    pub fn handle(&mut self, input: Input, now: Time) {
        if let Some(record) = &mut self.record {
            record.put(Line { at: now, entry: Entry::Input(input.clone()) });
        }
        self.engine.handle(input, now);
    }

    /// [`Engine::set_policies`].
    pub fn set_policies(&mut self, compilation: Arc<Compilation>, now: Time) {
        if let Some(record) = &mut self.record {
            record.put(Line { at: now, entry: Entry::Policies(PolicySet::of(&compilation)) });
        }
        self.engine.set_policies(compilation, now);
    }

    /// [`Engine::poll`].
    pub fn poll(&mut self, now: Time) {
        if let Some(record) = &mut self.record
            // Before its deadline the engine has nothing to do.
            && self.engine.next_deadline().is_some_and(|deadline| deadline <= now)
        {
            record.put(Line { at: now, entry: Entry::Poll });
        }
        self.engine.poll(now);
    }

    /// [`Engine::next_probe`] until there is none.
    pub fn due_probes(&mut self, now: Time) -> Vec<Probe> {
        if let Some(record) = &mut self.record
            && self.engine.probes_wait(now)
        {
            record.put(Line { at: now, entry: Entry::Probes });
        }
        std::iter::from_fn(|| self.engine.next_probe(now)).collect()
    }

    /// [`Engine::take_changes`].
    pub fn take_changes(&mut self, now: Time) -> Changes {
        let changes = self.engine.take_changes();
        if let Some(record) = &mut self.record
            && !changes.is_empty()
        {
            record.put(Line { at: now, entry: Entry::Changed(Box::new(Decisions::of(&changes, &self.engine))) });
        }
        changes
    }
}

//! What the engine was told and what it decided, as a file that can be replayed: `sdwan run --record`, `sdwan replay`.
//!
//! One JSON object per line. The first is the [`Header`], from which an engine can be made that is equal to the recorded
//! one at its start; each of the others is a [`Line`]: an input with its time, a moment at which the engine was let work,
//! or what it decided. The engine has no clock and no randomness, so the same lines give the same decisions.
//!
//! There is no key in it but public ones. It names sites, addresses and prefixes, so it is readable by its owner only.

mod engine;
mod recorder;
mod replay;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use engine::{Record, RecordedEngine};
pub use recorder::{DEFAULT_LIMIT, RecordError, RecordFile, Recorder, Recording};
pub use replay::{Difference, Outcome, ReplayError, replay};

use crate::engine::events::EngineEvent;
use crate::engine::input::{Changes, Input};
use crate::engine::path::PathState;
use crate::engine::policy::{Compilation, CompileError, Policy, compile};
use crate::engine::sets::Ranked;
use crate::engine::settings::Settings;
use crate::engine::types::{PathKey, SiteId};
use crate::engine::{Engine, Local, Time};

/// Version of the format. It rises when an older `sdwan` would misread a newer file, or the reverse.
pub const VERSION: u32 = 2;

/// The first line: what the engine was made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Header {
    /// [`VERSION`]; its name says what the file is.
    pub sdwan_recording: u32,
    /// Version of the program that recorded.
    pub program: String,
    /// The site that recorded.
    pub site: SiteId,
    /// Its name.
    pub name: String,
    /// When the recording began, on the engine's clock.
    pub started: Time,
    /// The same moment as Unix time, ns.
    pub started_unix_ns: u64,
    /// The engine's settings.
    pub settings: Settings,
    /// What is fixed of the site. Its uplinks are an input.
    pub local: Local,
    /// The policies in force.
    pub policies: PolicySet,
}

/// Policies and what they are compiled with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicySet {
    /// The policies.
    pub policies: Vec<Policy>,
    /// Names of the ingress zones by number.
    pub zones: Vec<String>,
}

impl PolicySet {
    /// Those of a compilation.
    pub fn of(compilation: &Compilation) -> Self {
        Self { policies: compilation.policies.clone(), zones: compilation.zones.clone() }
    }

    /// Compiles them.
    ///
    /// # Errors
    /// When they contradict each other: then the file was changed by hand.
    pub fn compile(&self) -> Result<Compilation, CompileError> {
        // They fitted the recorded daemon's data path.
        compile(&self.policies, &self.zones, usize::from(u16::MAX))
    }
}

/// Any line but the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When, on the engine's clock: ns of `CLOCK_MONOTONIC`.
    pub at: Time,
    /// What.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What a line tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// The engine was told this.
    Input(Input),
    /// The policies were replaced.
    Policies(PolicySet),
    /// The engine was let work off the deadlines that had passed.
    Poll,
    /// It was asked for every probe that was due.
    Probes,
    /// The engine was asked what changed, and something had.
    Changed(Box<Decisions>),
    /// So many lines are missing here, because the disk or the machine was too slow, or the disk was full.
    Missed(u64),
    /// The recording ends here, for this reason.
    Ended(String),
}

/// What changed and what it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Decisions {
    /// For operators.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EngineEvent>,
    /// States of paths, `None` for one that is gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<(PathKey, Option<PathState>)>,
    /// Detection times.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub detections: Vec<(PathKey, Option<Duration>)>,
    /// Path sets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<SetDecision>,
    /// Sites, uplinks, paths or prefixes came, went or changed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub topology: bool,
    /// The policies changed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rules: bool,
}

/// A path set as it is after a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetDecision {
    /// The remote site.
    pub site: SiteId,
    /// Number of the class.
    pub class: u16,
    /// A flow on a usable candidate of at most this rank stays.
    pub keep_rank: u8,
    /// The candidates, best rank first; none when the site is gone.
    pub candidates: Vec<Ranked>,
}

impl Decisions {
    /// What `changes`, just taken from `engine`, say.
    pub fn of(changes: &Changes, engine: &Engine) -> Self {
        let detection = |key: &PathKey| engine.path(key).map(|path| path.told_detection(engine.settings()));
        let set = |&(site, class): &(SiteId, u16)| {
            let set = engine.site(&site).and_then(|known| known.sets().get(usize::from(class)));
            SetDecision {
                site,
                class,
                keep_rank: set.map_or(0, |set| set.keep_rank()),
                candidates: set.map(|set| set.candidates().to_vec()).unwrap_or_default(),
            }
        };
        Self {
            events: changes.events.clone(),
            states: changes.states.iter().map(|key| (*key, engine.path(key).map(|path| path.state()))).collect(),
            detections: changes.detections.iter().map(|key| (*key, detection(key))).collect(),
            sets: changes.sets.iter().map(set).collect(),
            topology: changes.topology,
            rules: changes.rules,
        }
    }
}

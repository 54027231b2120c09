//! What a change of the policies would do to the flows of the moment: the classifier, the decision about path sets and the
//! selection that would run if it were made, on what is known now. Nothing changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use sdwan_common::abi::{Candidate, Config, FlowKey, MAX_CANDIDATES, MAX_ZONES, NO_PATH, PathSet, candidate_flag};
use sdwan_common::classify::{Facts, classify};
use sdwan_common::liveness::{candidate_state, path_liveness};
use sdwan_common::select::{CandidateState, flow_hash, select};

use super::names::Names;
use crate::api::request::Refusal;
use crate::api::views::{DryRunFlowView, DryRunView};
use crate::dataplane::{FlowRecord, Reader};
use crate::engine::policy::Compilation;
use crate::engine::sets::Set;
use crate::engine::types::{PathKey, SiteId, TunnelKey};
use crate::engine::{Engine, Site, Time};

/// The policies as they would be, and the path sets that they would make.
#[derive(Debug)]
pub struct Proposal {
    present: Arc<Compilation>,
    compilation: Arc<Compilation>,
    sets: HashMap<(SiteId, u16), PathSet>,
    /// DSCPs and zones that the policies tell apart: those that one names, and one that none does.
    marks: Vec<(u8, u32)>,
}

/// Where one flow would go.
struct Fate {
    class: Option<u16>,
    policy: Option<u16>,
    path: u32,
}

impl Proposal {
    /// As the engine would decide at once: with new policies, each class sees the paths for the first time. `numbers` are
    /// those of the paths in the maps.
    pub fn new(engine: &Engine, compilation: Compilation, numbers: &[(PathKey, u32)], now: Time) -> Self {
        let numbers: HashMap<PathKey, u32> = numbers.iter().copied().collect();
        let mut sets = HashMap::new();
        for site in engine.sites() {
            for (class, spec) in (0..).zip(&compilation.classes) {
                let mut set = Set::default();
                // No class has this number yet, so that nothing counts that another class remembers.
                set.decide(spec, site.rated(u16::MAX, spec), false, now, engine.settings());
                sets.insert((site.remote().id, class), record(site, class, &set, &numbers));
            }
        }
        let present = engine.compilation().clone();
        let marks = marks(&present, &compilation);
        Self { present, compilation: Arc::new(compilation), sets, marks }
    }

    /// Looks at up to `scan` flows, and lists up to `limit` of those that would change.
    pub fn run(
        &self,
        reader: &Reader,
        names: &Names,
        scan: usize,
        limit: usize,
        now: Time,
    ) -> Result<DryRunView, Refusal> {
        let failed = |error: crate::dataplane::Error| Refusal::Failed(error.to_string());
        let config = reader.config().map_err(failed)?;
        let mut states = States { reader, config: &config, now, known: HashMap::new() };
        let mut view = DryRunView::of_nothing();
        let (mut moving, mut renamed) = (Vec::new(), Vec::new());
        let (mut guessed, mut strays) = (0_u64, 0_u64);
        for record in reader.flows(scan, scan, |_| true) {
            view.looked_at += 1;
            let Some(site) = names.path(record.flow.path).map(|path| path.path.site) else {
                strays += 1;
                continue;
            };
            let Some((dscp, zone, certain)) = self.unseen(&record) else {
                strays += 1;
                continue;
            };
            guessed += u64::from(!certain);
            let fate = self.fate(&record, site, dscp, zone, &mut states).map_err(failed)?;
            let moves = fate.path != record.flow.path;
            let class = fate.class.and_then(|class| self.compilation.classes.get(usize::from(class)));
            let class = class.map(|class| class.name.clone());
            let renames = class.as_deref() != Some(names.class(record.flow.class).as_str());
            view.change_path += u64::from(moves);
            view.change_class += u64::from(renames);
            let list = if moves { &mut moving } else { &mut renamed };
            if (moves || renames) && list.len() < limit {
                let policy = fate.policy.and_then(|policy| self.compilation.policies.get(usize::from(policy)));
                list.push(DryRunFlowView {
                    flow: names.flow(&record, now),
                    class,
                    policy: policy.map(|policy| policy.name.clone()),
                    path: (fate.path != NO_PATH).then(|| names.flow_path(fate.path)),
                });
            }
        }
        let listed = moving.len();
        view.flows = moving.into_iter().chain(renamed).take(limit).collect();
        view.truncated = view.flows.len() == limit && (view.change_path > listed as u64 || view.change_class > 0);
        if guessed > 0 {
            view.notes.push(format!(
                "The flow table keeps neither DSCP nor zone: {guessed} flows match another policy then if they are marked \
                 otherwise than they are taken to be"
            ));
        }
        if strays > 0 {
            view.notes.push(format!(
                "Of {strays} flows nothing is said: they are on a former path, or were decided by former policies"
            ));
        }
        Ok(view)
    }

    /// DSCP and zone of a flow, which its entry doesn't have: the first that make the present policies match as they did. The
    /// last is whether any that do lead to the same policy. `None`: nothing does.
    fn unseen(&self, record: &FlowRecord) -> Option<(u8, u32, bool)> {
        let rules = &self.present.rules;
        let fits = |(dscp, zone): &(u8, u32)| {
            let facts = Facts { key: &record.key, dscp: *dscp, zone: *zone };
            classify(&**rules, &facts, rules.scope) == Some(record.flow.rule)
        };
        let mut fitting = self.marks.iter().copied().filter(fits);
        let (dscp, zone) = fitting.next()?;
        let fate = self.classified(&record.key, dscp, zone);
        let certain = fitting.all(|(dscp, zone)| self.classified(&record.key, dscp, zone) == fate);
        Some((dscp, zone, certain))
    }

    fn fate(
        &self,
        record: &FlowRecord,
        site: SiteId,
        dscp: u8,
        zone: u32,
        states: &mut States<'_>,
    ) -> Result<Fate, crate::dataplane::Error> {
        let FlowRecord { key, flow } = record;
        let (class, policy) = self.classified(key, dscp, zone);
        let Some(class) = class else { return Ok(Fate { class: None, policy, path: NO_PATH }) };
        let set = self.sets.get(&(site, class)).copied().unwrap_or_default();
        states.learn(&set)?;
        let current = if flow.class == class { flow.path } else { NO_PATH };
        let selection = select(&set, current, flow_hash(key), |path| states.known.get(&path).copied());
        Ok(Fate { class: Some(class), policy, path: selection.map_or(NO_PATH, |selection| selection.path) })
    }

    fn classified(&self, key: &FlowKey, dscp: u8, zone: u32) -> (Option<u16>, Option<u16>) {
        let rules = &self.compilation.rules;
        let number = classify(&**rules, &Facts { key, dscp, zone }, rules.scope);
        let rule = number.and_then(|number| rules.rule(number));
        (rule.map(|rule| rule.class), rule.map(|rule| rule.policy))
    }
}

fn marks(present: &Compilation, proposed: &Compilation) -> Vec<(u8, u32)> {
    let all = || present.policies.iter().chain(&proposed.policies).flat_map(|policy| &policy.matches);
    let named: BTreeSet<u8> = all().flat_map(|alternative| &alternative.dscp).map(|dscp| dscp.0).collect();
    let unnamed = (0..64).find(|dscp| !named.contains(dscp));
    let zones = match all().any(|alternative| !alternative.zones.is_empty()) {
        true => u32::try_from(present.zones.len().clamp(1, MAX_ZONES)).unwrap_or(1),
        false => 1,
    };
    // Most packets carry no mark at all.
    let dscps = unnamed.into_iter().chain(named);
    dscps.flat_map(|dscp| (0..zones).map(move |zone| (dscp, zone))).collect()
}

/// A path set as the maps would have it.
fn record(site: &Site, class: u16, set: &Set, numbers: &HashMap<PathKey, u32>) -> PathSet {
    let mut record = PathSet { class, keep_rank: set.keep_rank(), ..PathSet::default() };
    let number = |tunnel: TunnelKey| numbers.get(&PathKey { site: site.remote().id, tunnel }).copied();
    let existing = set.candidates().iter().filter_map(|ranked| Some((number(ranked.tunnel)?, ranked)));
    for (place, (path, ranked)) in record.candidates.iter_mut().zip(existing.take(MAX_CANDIDATES)) {
        let flags = if ranked.full { candidate_flag::FULL } else { 0 };
        *place = Candidate { path, weight: ranked.weight, rank: ranked.rank, flags };
        record.count += 1;
    }
    record
}

/// Which paths flows may use right now, from the maps; each is read once.
struct States<'a> {
    reader: &'a Reader,
    config: &'a Config,
    now: Time,
    known: HashMap<u32, CandidateState>,
}

impl States<'_> {
    fn learn(&mut self, set: &PathSet) -> Result<(), crate::dataplane::Error> {
        for candidate in set.candidates.iter().take(usize::from(set.count)) {
            if self.known.contains_key(&candidate.path) {
                continue;
            }
            let path = self.reader.path(candidate.path)?;
            let live = self.reader.path_counters(candidate.path)?.live;
            let site = self.reader.site_live(path.site)?;
            let liveness = path_liveness(&path, &live, &site, self.config, self.now.0);
            if let Some(state) = candidate_state(&live, liveness) {
                self.known.insert(candidate.path, state);
            }
        }
        Ok(())
    }
}

//! What the kernel would do with a packet of a flow: the functions that it runs, on the maps that it reads.

use ipnet::IpNet;
use sdwan_common::abi::{ABI_VERSION, Config, NO_PATH, Path, PathLive, PathSet};
use sdwan_common::liveness::{Liveness, candidate_state, path_liveness};
use sdwan_common::select::{Reason, SecondState, flow_hash, select, select_second};

use super::names::Names;
use crate::api::answer::test_policy;
use crate::api::flow::FlowSpec;
use crate::api::request::Refusal;
use crate::api::views::{CandidateView, ExplainView, VERSION};
use crate::dataplane::{FlowRecord, Reader};
use crate::engine::path::PathState;
use crate::engine::policy::Mode;
use crate::engine::sets::Tier;
use crate::engine::types::SiteId;
use crate::engine::{Engine, Time};

/// A candidate as the maps have it.
struct Seen {
    number: u32,
    rank: u8,
    weight: u16,
    live: PathLive,
    liveness: Liveness,
}

/// Explains a flow.
pub fn explain(
    engine: &Engine,
    reader: &Reader,
    names: &Names,
    class_capacity: u32,
    flow: &FlowSpec,
    now: Time,
) -> Result<ExplainView, Refusal> {
    let failed = |error: crate::dataplane::Error| Refusal::Failed(error.to_string());
    let classification = test_policy(engine.compilation(), flow)?;
    let (prefix, site) = owner(engine, flow);
    let key = flow.key();
    let entry = reader.flow(&key).map_err(failed)?;
    let mut view = ExplainView {
        version: VERSION,
        flow: flow.clone(),
        prefix,
        site,
        site_name: site.and_then(|id| engine.site(&id)).map(|site| site.remote().name.clone()),
        candidates: Vec::new(),
        chosen: None,
        second: None,
        reason: String::new(),
        entry: entry.map(|flow| names.flow(&FlowRecord { key, flow }, now)),
        classification,
    };
    let config = reader.config().map_err(failed)?;
    if config.abi_version != ABI_VERSION {
        view.reason = "the data path is not set up: every packet goes to the stack".into();
        return Ok(view);
    }
    let Some(site) = site else {
        view.reason = "the destination is in no remote site's prefix: the packet goes to the stack".into();
        return Ok(view);
    };
    if !engine.is_local(flow.source.address) {
        view.reason =
            "the source is in no prefix of this site, and the other end would refuse it: the packet goes to the \
                       stack"
                .into();
        return Ok(view);
    }
    let class = view.classification.rule.and_then(|rule| engine.compilation().rules.rule(rule)).map(|rule| rule.class);
    let Some(class) = class else {
        view.reason = "no policy matches: the packet goes to the stack".into();
        return Ok(view);
    };
    let number = reader.site_number(&site).map_err(failed)?;
    let set = match number {
        Some(number) => reader.path_set(number * class_capacity + u32::from(class)).map_err(failed)?,
        None => PathSet::default(),
    };
    let seen = candidates(reader, &set, &config, now).map_err(failed)?;
    let current = entry.filter(|flow| flow.class == class).map_or(NO_PATH, |flow| flow.path);
    let state = |path| {
        let seen = seen.iter().find(|seen| seen.number == path)?;
        candidate_state(&seen.live, seen.liveness)
    };
    let selection = select(&set, current, flow_hash(&key), state);
    view.reason = match selection.map(|selection| selection.reason) {
        Some(Reason::Kept) => "the flow stays on its path, which is good enough".into(),
        Some(Reason::Ranked) => {
            "best rank with a usable path; within the rank by the flow's hash and the weights".into()
        }
        Some(Reason::LeastBad) => "no path is usable: the one that was heard last is the least bad".into(),
        None => "the class has no path to this site: the packet goes to the stack".into(),
    };
    view.candidates = seen.iter().filter_map(|seen| candidate_view(engine, names, class, seen)).collect();
    // A path so new that it has no name yet isn't among them.
    view.chosen =
        selection.and_then(|selection| view.candidates.iter().position(|shown| shown.number == selection.path));
    let copies =
        engine.compilation().classes.get(usize::from(class)).is_some_and(|class| class.mode == Mode::Duplicate);
    if let Some(first) = view.chosen.filter(|_| copies).map(|first| &view.candidates[first]) {
        let uplinks = |shown: &CandidateView| (shown.tunnel.local.get(), shown.tunnel.remote.get());
        let second = select_second(&set, first.number, |number| {
            let shown = view.candidates.iter().find(|shown| shown.number == number)?;
            Some(SecondState::new(shown.usable, uplinks(shown), uplinks(first)))
        });
        view.second = second.and_then(|second| view.candidates.iter().position(|shown| shown.number == second));
    }
    Ok(view)
}

/// The longest prefix of a remote site that the destination is in.
fn owner(engine: &Engine, flow: &FlowSpec) -> (Option<IpNet>, Option<SiteId>) {
    let owners = engine.prefix_owners();
    let containing = owners.iter().filter(|(prefix, _)| prefix.contains(&flow.destination.address));
    match containing.max_by_key(|(prefix, _)| prefix.prefix_len()) {
        Some((prefix, site)) => (Some(*prefix), Some(*site)),
        None => {
            let address = flow.destination.address;
            let site = engine.sites().find(|site| site.remote().overlay == address);
            (site.map(|_| IpNet::from(address)), site.map(|site| site.remote().id))
        }
    }
}

fn candidates(
    reader: &Reader,
    set: &PathSet,
    config: &Config,
    now: Time,
) -> Result<Vec<Seen>, crate::dataplane::Error> {
    let mut seen = Vec::new();
    for candidate in set.candidates.iter().take(usize::from(set.count)) {
        let path: Path = reader.path(candidate.path)?;
        let live = reader.path_counters(candidate.path)?.live;
        let site = reader.site_live(path.site)?;
        let liveness = path_liveness(&path, &live, &site, config, now.0);
        seen.push(Seen { number: candidate.path, rank: candidate.rank, weight: candidate.weight, live, liveness });
    }
    Ok(seen)
}

fn candidate_view(engine: &Engine, names: &Names, class: u16, seen: &Seen) -> Option<CandidateView> {
    let path_names = names.path(seen.number)?;
    let site = engine.site(&path_names.path.site)?;
    let tunnel = path_names.path.tunnel;
    let spec = engine.compilation().classes.get(usize::from(class))?;
    let rated = site.rated(class, spec).into_iter().find(|rated| rated.tunnel == tunnel);
    let path = site.path(tunnel);
    Some(CandidateView {
        number: seen.number,
        tunnel,
        local_uplink: path_names.local.clone(),
        remote_uplink: path_names.remote.clone(),
        rank: seen.rank,
        weight: seen.weight,
        state: path.map_or(PathState::Down, |path| path.state()),
        liveness: liveness_text(seen.liveness).into(),
        usable: seen.liveness.usable(),
        score: rated.map_or(0.0, |rated| rated.score),
        complies: rated.is_some_and(|rated| rated.tier <= Tier::Degraded),
    })
}

/// What the kernel's check says, for people.
fn liveness_text(liveness: Liveness) -> &'static str {
    match liveness {
        Liveness::Alive => "probes are answered",
        Liveness::AliveByPeer => "the daemon is silent, and the peer's probes say that it hears us",
        Liveness::FailStatic => "nobody probes: the last state stands",
        Liveness::Down => "written down by the daemon",
        Liveness::Disabled => "switched off",
        Liveness::Silent => "the last answer is too old",
        Liveness::SilentByPeer => "the daemon is silent, and so is the peer on this path",
    }
}

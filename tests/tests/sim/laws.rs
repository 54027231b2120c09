//! What must hold, whatever happens.

use std::collections::BTreeMap;
use std::time::Duration;

use sdwan_common::abi::{MAX_CANDIDATES, NO_PATH, path_state};
use sdwan_common::liveness::Liveness;

use crate::case::{FaultKind, WARM_MS};
use crate::lines::End;
use crate::node::{Daemon, Node, prefix, site_number};
use crate::world::{ANNOUNCE_MS, World, ends};
use sdwan::engine::Time;
use sdwan::engine::events::EventKind;
use sdwan::engine::path::PathState;
use sdwan::engine::policy::{ClassSpec, Mode, Sticky};
use sdwan::engine::sets::Tier;
use sdwan::engine::types::{PathKey, SiteId, TunnelKey};

/// A law that didn't hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Broken {
    /// When, ms after the start.
    pub at_ms: u64,
    /// Which.
    pub law: &'static str,
    /// By what.
    pub what: String,
}

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
/// How late the programs may notice, on top of what they are told: checks are this far apart at most, and a daemon
/// needs a moment.
const SLACK: Duration = Duration::from_millis(60);
/// A fault is felt for so long after it is over: the longest hold, the loss window, the hold before a better path.
const AFTERMATH: Duration = Duration::from_secs(45);
/// Moves that no fault explains, per class and minute: two good paths whose quality wanders.
const UNPROVOKED: usize = 2;

/// The laws and what they remember.
#[derive(Default)]
pub struct Laws {
    /// Events of each node that have been looked at.
    seen: Vec<usize>,
    /// When each class of each node moved.
    moves: BTreeMap<(usize, SiteId, String), Vec<Time>>,
    /// When each flow moved.
    flow_moves: BTreeMap<(usize, usize), Vec<Time>>,
    /// Since when each prefix goes round in a loop from each site.
    loops: BTreeMap<(usize, usize), Time>,
    /// Sites whose daemons were away or stalled, and until when that is felt.
    disturbed: Vec<Time>,
    /// Checks that were made, to tell a run that checks nothing from one that holds.
    pub checks: u64,
    /// Flows that were looked at.
    pub packets: u64,
}

impl Laws {
    /// A fault begins or ends.
    pub fn edge(&mut self, world: &World, number: usize) {
        self.disturbed.resize(world.nodes.len(), Time(0));
        let fault = &world.case.faults[number];
        if matches!(fault.kind, FaultKind::Restart | FaultKind::Stall | FaultKind::Move) {
            let until = world.now + MS * fault.for_ms as u32 + Duration::from_secs(3);
            let next = (fault.site + 1) % world.nodes.len();
            for site in [fault.site, next] {
                self.disturbed[site] = self.disturbed[site].max(until);
            }
        }
    }

    /// When each flow moved.
    pub fn moves_of_flows(&self) -> impl Iterator<Item = &[Time]> {
        self.flow_moves.values().map(Vec::as_slice)
    }

    /// At every moment.
    pub fn check(&mut self, world: &mut World) -> Result<(), Broken> {
        self.checks += 1;
        self.seen.resize(world.nodes.len(), 0);
        self.disturbed.resize(world.nodes.len(), Time(0));
        let now = world.now;
        let at_ms = now.since(world.start).as_millis() as u64;
        let broken = |law, what| Broken { at_ms, law, what };
        let small = world.case.sites.len() <= 16;
        let mut found = self.events(world);
        for number in 0..world.nodes.len() {
            found = found
                .or_else(|| maps_follow(&world.nodes[number], self.checks.is_multiple_of(if small { 4 } else { 20 })));
        }
        found = found.or_else(|| self.no_loops(world));
        if let Some((law, what)) = found {
            return Err(broken(law, what));
        }
        for number in 0..world.nodes.len() {
            if let Some((law, what)) = self.packets(world, number) {
                return Err(broken(law, what));
            }
        }
        Ok(())
    }

    /// Paths that nothing is wrong with stay up, and classes don't move more often than faults explain.
    fn events(&mut self, world: &World) -> Option<(&'static str, String)> {
        for (number, node) in world.nodes.iter().enumerate() {
            for (at, event) in &node.events[self.seen[number]..] {
                if event.kind == EventKind::PathDown
                    && let Some(path) = event.path
                    && untouched(world, number, &path)
                {
                    return Some((
                        "a path that nothing is wrong with stays up",
                        format!("site{number}: {}", event.message),
                    ));
                }
                if event.kind == EventKind::ClassMoved
                    && event.from_path.is_some()
                    && let (Some(site), Some(class)) = (event.site, event.class.clone())
                {
                    let moves = self.moves.entry((number, site, class.clone())).or_default();
                    moves.push(*at);
                    let recent = moves.iter().filter(|moved| at.since(**moved) < MINUTE).count();
                    let allowed = allowed_moves(world, number, &site, *at);
                    if recent > allowed {
                        let what = format!(
                            "site{number}: {class} moved {recent} times in a minute, {allowed} are explained: {}",
                            event.message
                        );
                        return Some(("a class moves no more often than faults explain", what));
                    }
                }
            }
            self.seen[number] = node.events.len();
            if node.restless > 0 {
                return Some(("reconciling twice is reconciling once", format!("site{number}")));
            }
        }
        None
    }

    /// What packets do, for a few flows of each class to each site.
    fn packets(&mut self, world: &mut World, number: usize) -> Option<(&'static str, String)> {
        let now = world.now;
        let heartbeat = world.nodes[number].heartbeat(now).0;
        let mut flows = std::mem::take(&mut world.nodes[number].flows);
        let mut found = None;
        for (position, flow) in flows.iter_mut().enumerate() {
            let node = &world.nodes[number];
            let before = flow.path;
            self.packets += 1;
            node.maps.packet(flow, heartbeat, now.0);
            if flow.path == NO_PATH {
                continue;
            }
            if before != NO_PATH && before != flow.path {
                let moves = self.flow_moves.entry((number, position)).or_default();
                moves.push(now);
                let recent = moves.iter().filter(|moved| now.since(**moved) < MINUTE).count();
                let allowed = allowed_moves(world, number, &flow.site, now);
                if recent > allowed {
                    let what = format!(
                        "site{number}: a flow of class {} to {} moved {recent} times in a minute, {allowed} are explained",
                        flow.class,
                        site_number(&flow.site)
                    );
                    found = found.or(Some(("a flow moves no more often than faults explain", what)));
                }
            }
            found = found.or_else(|| self.on_a_good_path(world, number, flow.site, flow.class, flow.path, heartbeat));
        }
        world.nodes[number].flows = flows;
        found
    }

    /// No flow is on a path that is down while one of its set is up.
    fn on_a_good_path(
        &self,
        world: &World,
        number: usize,
        site: SiteId,
        class: u16,
        path: u32,
        heartbeat: u64,
    ) -> Option<(&'static str, String)> {
        let now = world.now;
        let node = &world.nodes[number];
        let set = node.maps.set(&site, class).filter(|set| set.count > 0)?;
        let usable = |path| node.maps.liveness(&site, path, heartbeat, now.0).is_some_and(Liveness::usable);
        let good = usable(path);
        let here_to = number_to(world, number, site, path);
        if good && here_to.is_some_and(|(here, there)| world.lines.dead_since(here, there).is_none()) {
            return None;
        }
        let candidates = set.candidates[..usize::from(set.count)].iter().map(|candidate| candidate.path);
        let others: Vec<u32> = candidates.filter(|other| *other != path && usable(*other)).collect();
        let key = |path: u32| {
            let record = node.maps.path(path)?;
            let index = |number| sdwan::engine::types::UplinkIndex::new(number);
            let tunnel = TunnelKey { local: index(record.local_uplink)?, remote: index(record.remote_uplink)? };
            Some((PathKey { site, tunnel }, record))
        };
        let (current, record) = key(path)?;
        if !good && !others.is_empty() {
            return Some((
                "a flow on a path that isn't usable leaves it for one that is",
                format!("site{number}: {current:?}"),
            ));
        }
        let (here, there) = ends(number, &current);
        let dead = now.since(world.lines.dead_since(here, there)?);
        let peer = there.0;
        let disturbed = now < self.disturbed[number] || now < self.disturbed[peer];
        let both_away = node.daemon != Daemon::Running && world.nodes[peer].daemon != Daemon::Running;
        if both_away || disturbed && world.nodes[peer].daemon != Daemon::Running {
            return None;
        }
        let round_trip = Duration::from_micros(world.lines.round_trip_us(here, there));
        let detection = Duration::from_nanos(record.detection_ns.max(record.peer_detection_ns));
        let mut bound = detection + round_trip + SLACK;
        if node.daemon != Daemon::Running || disturbed {
            // The peer finds out first, and says so in its next probe.
            bound += detection * 2 + node.heartbeat_stale() + round_trip;
        }
        if disturbed {
            // A daemon that starts says for a second that it hears the others: it can't tell yet.
            bound += Duration::from_secs(1);
        }
        let alive = others.iter().find(|other| {
            key(**other).is_some_and(|(other, _)| {
                let (here, there) = ends(number, &other);
                world.lines.alive_since(here, there).is_some_and(|since| now.since(since) > bound)
            })
        });
        if dead > bound && alive.is_some() {
            let what = format!("site{number}: class {class} is on {current:?}, dead for {dead:?}, bound {bound:?}");
            return Some(("a flow is off a dead path within its detection time", what));
        }
        None
    }

    /// No packet goes from site to site for ever.
    fn no_loops(&mut self, world: &World) -> Option<(&'static str, String)> {
        let moved = world.case.faults.iter().filter(|fault| fault.kind == FaultKind::Move);
        let mut prefixes: Vec<usize> = moved.map(|fault| fault.site).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        for of in prefixes {
            let owners: Vec<Option<usize>> = world.nodes.iter().map(|node| owner(node, of)).collect();
            for start in 0..world.nodes.len() {
                let mut at = start;
                let looping = (0..=world.nodes.len()).all(|_| match owners[at] {
                    Some(next) if next != at => {
                        at = next;
                        true
                    }
                    _ => false,
                });
                if !looping {
                    self.loops.remove(&(of, start));
                    continue;
                }
                let since = *self.loops.entry((of, start)).or_insert(world.now);
                // Three announcements may be lost, and a site's last one may be under way.
                if world.now.since(since) > MS * (4 * ANNOUNCE_MS) as u32 {
                    return Some((
                        "no prefix is forwarded in a loop",
                        format!("the prefix of site{of}, from site{start}"),
                    ));
                }
            }
        }
        None
    }

    /// After the faults: everything is up again and at rest.
    pub fn at_rest(&self, world: &World) -> Result<(), Broken> {
        let at_ms = world.now.since(world.start).as_millis() as u64;
        let found = world.nodes.iter().enumerate().find_map(|(number, node)| at_rest(world, number, node));
        found.map_or(Ok(()), |(law, what)| Err(Broken { at_ms, law, what }))
    }
}

/// Both ends of a path of a site, by its number in the maps.
fn number_to(world: &World, number: usize, site: SiteId, path: u32) -> Option<(End, End)> {
    let record = world.nodes[number].maps.path(path)?;
    Some(((number, usize::from(record.local_uplink)), (site_number(&site), usize::from(record.remote_uplink))))
}

/// What the maps say is what the daemon wants.
fn maps_follow(node: &Node, thorough: bool) -> Option<(&'static str, String)> {
    if !node.published() || !thorough {
        return None;
    }
    let name = site_number(&node.id);
    for site in node.engine.sites() {
        let id = site.remote().id;
        for (tunnel, path) in site.paths() {
            let Some(number) = node.maps.reconciler.path_number(&PathKey { site: id, tunnel }) else {
                return Some(("every path is in the maps", format!("site{name}: {tunnel}")));
            };
            let up = node.maps.path(number).is_some_and(|record| record.state == path_state::UP);
            if up != (path.state() == PathState::Up) {
                let what =
                    format!("site{name}: {tunnel} to {} is {:?}, written as up: {up}", site_number(&id), path.state());
                return Some(("the maps say of each path what the engine does", what));
            }
        }
        for (class, set) in (0..).zip(site.sets()) {
            let expected = site.paths().len().min(MAX_CANDIDATES);
            if set.candidates().len() != expected {
                return Some(("a set holds every path", format!("site{name}: class {class}: {set:?}")));
            }
            let record = node.maps.set(&id, class)?;
            let owner = |path| node.maps.path(path).map(|record| record.site);
            let own = node.maps.reconciler.site_number(&id);
            let foreign = record.candidates[..usize::from(record.count)].iter().any(|one| owner(one.path) != own);
            if usize::from(record.count) != expected || foreign {
                return Some((
                    "a set in the maps holds this site's paths, and all of them",
                    format!("site{name}: {record:?}"),
                ));
            }
        }
    }
    None
}

/// Whether nothing was ever wrong with a path, and neither end ever lost a packet by itself.
fn untouched(world: &World, number: usize, path: &PathKey) -> bool {
    let (here, there) = ends(number, path);
    let hit = |end: End| {
        world.case.faults.iter().any(|fault| {
            fault.kind.breaks_line() && (fault.site, fault.uplink) == end && world.ms(fault.at_ms) <= world.now
        })
    };
    world.lines.lossless(here, there) && !hit(here) && !hit(there)
}

/// Times that a class to `site` may have moved in the minute before `at`.
fn allowed_moves(world: &World, number: usize, site: &SiteId, at: Time) -> usize {
    // Leaving, and coming back: for each fault that was felt in that minute. A flapping line is one. Where a prefix moves, two
    // daemons start at once, twice: what a slow line still delivers of their probes makes quicker ones look silent.
    let other = site_number(site);
    let felt = world.case.faults.iter().filter(|fault| {
        let concerns = fault.site == number || fault.site == other || matches!(fault.kind, FaultKind::Move);
        let begins = world.ms(fault.at_ms);
        let ends = world.ms(fault.at_ms + fault.for_ms) + AFTERMATH + MINUTE;
        concerns && begins <= at && at <= ends
    });
    // Before the end of the start, everything settles.
    let start = if at.since(world.start) < MS * (WARM_MS as u32) + MINUTE { 4 } else { 0 };
    let moves = felt.map(|fault| if matches!(fault.kind, FaultKind::Move) { 4 } else { 2 });
    UNPROVOKED + moves.sum::<usize>() + start
}

/// Which site a site takes a prefix for; `None` when it knows none.
fn owner(node: &Node, of: usize) -> Option<usize> {
    let wanted = prefix(of);
    if node.prefixes.contains(&wanted) {
        return Some(site_number(&node.id));
    }
    node.engine.prefix_owners().get(&wanted).map(site_number)
}

fn at_rest(world: &World, number: usize, node: &Node) -> Option<(&'static str, String)> {
    let quiet = Duration::from_secs(15);
    for site in node.engine.sites() {
        let (id, peer) = (site.remote().id, site_number(&site.remote().id));
        for (tunnel, path) in site.paths() {
            let (here, there) = ends(number, &PathKey { site: id, tunnel });
            let alive = world.lines.alive_since(here, there).is_some();
            if alive && path.state() != PathState::Up {
                let what = format!("site{number}: {tunnel} to site{peer} is {:?}", path.state());
                return Some(("every path that works is up again", what));
            }
        }
        // Loss that wanders over the bound of an SLA starts the hold before a better path anew each time.
        let clean = site.paths().all(|(tunnel, _)| {
            let (here, there) = ends(number, &PathKey { site: id, tunnel });
            world.lines.lossless(here, there)
        });
        let classes = (0..).zip(&node.engine.compilation().classes).zip(site.sets());
        for ((number, class), set) in classes.filter(|_| clean) {
            if let Some(what) = settled(class, site.rated(number, class), set.first(), node) {
                return Some((
                    "every class is on a path that is good enough",
                    format!("site{number} to site{peer}: {what}"),
                ));
            }
        }
    }
    let known = (0..world.nodes.len()).filter(|other| world.case.knows(number, *other)).count();
    if node.engine.sites().count() != known {
        return Some(("every site is known again", format!("site{number} knows {}", node.engine.sites().count())));
    }
    let lossless = (0..world.nodes.len()).all(|site| {
        (0..world.case.sites[site].uplinks.len()).all(|uplink| world.lines.lossless((site, uplink), (site, uplink)))
    });
    let late = node
        .events
        .iter()
        .rev()
        .find(|(at, event)| event.kind == EventKind::ClassMoved && world.now.since(*at) < quiet && lossless);
    late.map(|(_, event)| ("decisions come to rest", format!("site{number}: {}", event.message)))
}

/// What is wrong with the path that a class is on, if anything is.
fn settled(
    class: &ClassSpec,
    rated: Vec<sdwan::engine::sets::Rated>,
    first: Option<TunnelKey>,
    node: &Node,
) -> Option<String> {
    let best = rated.iter().min_by(|a, b| a.tier.cmp(&b.tier).then(b.score.total_cmp(&a.score)))?;
    let Some(now) = rated.iter().find(|path| Some(path.tunnel) == first) else {
        return Some(format!("{} has no path", class.name));
    };
    if class.mode == Mode::Balance || class.sticky == Sticky::UntilEnd && now.tier == best.tier {
        return None;
    }
    // A challenger may be within its hold; twice the margin is more than noise.
    let margin = node.engine.settings().switch_margin * 2.0;
    let worse = now.tier > best.tier && now.tier >= Tier::Violating || best.score > now.score + margin;
    worse.then(|| {
        format!(
            "{} is on {} ({:?}, {:.0}), and {} is {:?}, {:.0}",
            class.name, now.tunnel, now.tier, now.score, best.tunnel, best.tier, best.score
        )
    })
}

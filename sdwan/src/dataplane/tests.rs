use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use sdwan_common::abi::{
    ABI_VERSION, Class, Config, CopyNumbers, Path, PathLive, PathSet, PathStats, PrefixEntry, PrefixKey, Rule, RuleSet,
    SITE_LOCAL, SiteIdentity, TcpRtt, TunnelPathKey, Zone, ZoneKey, path_state,
};

use super::desired::{CandidateDesired, Change, Desired, LanIngress, PathDesired, SetDesired, SiteDesired, WallClock};
use super::load::Capacities;
use super::memory::MemoryTable;
use super::tables::Tables;
use super::{Error, Numbers, Reconciler};
use crate::engine::Time;
use crate::engine::policy::{CompiledRules, compile, default_policies, prefix_key};
use crate::engine::types::{PathKey, SiteId, TunnelKey, UplinkIndex};

/// All maps in memory.
#[derive(Clone)]
struct Kernel {
    fuse: Arc<AtomicI64>,
    site_ids: MemoryTable<u32, SiteIdentity>,
    prefixes: MemoryTable<PrefixKey, PrefixEntry>,
    paths: MemoryTable<u32, Path>,
    path_stats: MemoryTable<u32, PathStats>,
    path_live: MemoryTable<u32, PathLive>,
    tcp_rtt: MemoryTable<u32, TcpRtt>,
    copy_numbers: MemoryTable<u32, CopyNumbers>,
    tunnel_paths: MemoryTable<TunnelPathKey, u32>,
    path_sets: MemoryTable<u32, PathSet>,
    zones: MemoryTable<ZoneKey, Zone>,
    rules: MemoryTable<u32, Rule>,
    classes: MemoryTable<u32, Class>,
    sets: [MemoryTable<u32, RuleSet>; 5],
    tries: [MemoryTable<PrefixKey, RuleSet>; 2],
    config: MemoryTable<u32, Config>,
}

/// Everything that packets see, without the epochs and numbers of operations.
type Seen = (
    BTreeMap<PrefixKey, (Option<SiteId>, u32)>,
    BTreeMap<PathKey, Path>,
    BTreeMap<(SiteId, u16), Vec<(PathKey, u8, u16)>>,
    BTreeMap<ZoneKey, Zone>,
    Vec<(u32, Rule)>,
);

impl Kernel {
    fn new() -> Self {
        let fuse = Arc::new(AtomicI64::new(-1));
        Self {
            site_ids: MemoryTable::new(fuse.clone()),
            prefixes: MemoryTable::new(fuse.clone()),
            paths: MemoryTable::new(fuse.clone()),
            path_stats: MemoryTable::new(fuse.clone()),
            path_live: MemoryTable::new(fuse.clone()),
            tcp_rtt: MemoryTable::new(fuse.clone()),
            copy_numbers: MemoryTable::new(fuse.clone()),
            tunnel_paths: MemoryTable::new(fuse.clone()),
            path_sets: MemoryTable::new(fuse.clone()),
            zones: MemoryTable::new(fuse.clone()),
            rules: MemoryTable::new(fuse.clone()),
            classes: MemoryTable::new(fuse.clone()),
            sets: std::array::from_fn(|_| MemoryTable::new(fuse.clone())),
            tries: std::array::from_fn(|_| MemoryTable::new(fuse.clone())),
            config: MemoryTable::new(fuse.clone()),
            fuse,
        }
    }

    fn reconciler(&self) -> Reconciler {
        let kernel = self.clone();
        let [protocol, source_port, destination_port, dscp, zone] = kernel.sets;
        let [source, destination] = kernel.tries;
        let tables = Tables {
            site_ids: Box::new(kernel.site_ids),
            prefixes: Box::new(kernel.prefixes),
            paths: Box::new(kernel.paths),
            path_stats: Box::new(kernel.path_stats),
            path_live: Box::new(kernel.path_live),
            tcp_rtt: Box::new(kernel.tcp_rtt),
            copy_numbers: Box::new(kernel.copy_numbers),
            tunnel_paths: Box::new(kernel.tunnel_paths),
            path_sets: Box::new(kernel.path_sets),
            zones: Box::new(kernel.zones),
            rules: Box::new(kernel.rules),
            classes: Box::new(kernel.classes),
            protocol: Box::new(protocol),
            source_port: Box::new(source_port),
            destination_port: Box::new(destination_port),
            dscp: Box::new(dscp),
            zone: Box::new(zone),
            source: Box::new(source),
            destination: Box::new(destination),
            config: Box::new(kernel.config),
        };
        Reconciler::new(tables, capacities()).expect("memory can be read")
    }

    fn config(&self) -> Config {
        self.config.snapshot().get(&0).copied().unwrap_or_default()
    }

    fn set(&self, site: u32, class: u16) -> PathSet {
        let index = site * capacities().classes + u32::from(class);
        self.path_sets.snapshot().get(&index).copied().unwrap_or_default()
    }

    /// The maps in the engine's words, so that two kernels can be compared whatever numbers they use.
    fn seen(&self) -> Seen {
        let ids = self.site_ids.snapshot();
        let id = |number: u32| ids.get(&number).map(|identity| SiteId(identity.id));
        let paths: BTreeMap<u32, (PathKey, Path)> = self
            .paths
            .snapshot()
            .into_iter()
            .filter(|(_, path)| path.state != path_state::UNUSED)
            .map(|(number, path)| {
                let index = |number| UplinkIndex::new(number).expect("a valid index was written");
                let tunnel = TunnelKey { local: index(path.local_uplink), remote: index(path.remote_uplink) };
                let site = id(path.site).expect("a path belongs to a known site");
                (number, (PathKey { site, tunnel }, Path { site: 0, ..path }))
            })
            .collect();
        let prefixes = self
            .prefixes
            .snapshot()
            .into_iter()
            .map(|(prefix, entry)| {
                let owner =
                    (entry.site != SITE_LOCAL).then(|| id(entry.site).expect("a prefix belongs to a known site"));
                (prefix, (owner, entry.flags))
            })
            .collect();
        let sets = self
            .path_sets
            .snapshot()
            .into_iter()
            .filter(|(_, set)| set.count != 0)
            .map(|(index, set)| {
                let site = id(index / capacities().classes).expect("a set belongs to a known site");
                let candidates = set.candidates[..usize::from(set.count)]
                    .iter()
                    .map(|candidate| (paths[&candidate.path].0, candidate.rank, candidate.weight))
                    .collect();
                ((site, set.class), candidates)
            })
            .collect();
        let rules = self.rules.snapshot().into_iter().collect();
        (prefixes, paths.into_values().collect(), sets, self.zones.snapshot(), rules)
    }
}

fn capacities() -> Capacities {
    Capacities { flows: 1024, sites: 8, classes: 8, paths: 24, prefixes: 64 }
}

fn site(number: u8) -> SiteId {
    SiteId([number; 16])
}

fn path(site_number: u8, code: u8) -> PathKey {
    let index = |number| UplinkIndex::new(number).expect("a small number");
    PathKey { site: site(site_number), tunnel: TunnelKey { local: index(code / 2), remote: index(code % 2) } }
}

fn default_rules() -> Arc<CompiledRules> {
    compile(&default_policies(), &["lan".into()], 8).expect("the defaults compile").rules
}

/// Sites, each with the paths of these codes, up or not.
fn desired(sites: &BTreeMap<u8, BTreeMap<u8, bool>>, rules: &Arc<CompiledRules>) -> Desired {
    let mut desired = Desired {
        overlay: IpAddr::from([100, 64, 0, 1]),
        local_prefixes: vec!["10.1.0.0/16".parse().expect("a prefix")],
        lan: vec![LanIngress { ifindex: 3, vlan: None, zone: 0 }],
        sites: BTreeMap::new(),
        paths: BTreeMap::new(),
        sets: BTreeMap::new(),
        rules: rules.clone(),
        classes: vec![Class::default(); 4],
        fast_path: 2,
        outer_port: 0,
        flow_event_mask: 0xff,
        events_per_second: 100,
        heartbeat_stale: Duration::from_millis(500),
        clock: WallClock { offset_ns: 3, scale: 1 },
    };
    for (&number, paths) in sites {
        let prefixes = vec![
            format!("10.{}.0.0/16", u16::from(number) + 1).parse().expect("a prefix"),
            format!("fd00:{number}::/48").parse().expect("a prefix"),
        ];
        desired.sites.insert(site(number), SiteDesired { overlay: IpAddr::from([100, 64, 1, number]), prefixes });
        for (&code, &up) in paths {
            desired.paths.insert(
                path(number, code),
                PathDesired {
                    ifindex: 100 + u32::from(code),
                    mark: u32::from(code),
                    mtu: 1420,
                    up,
                    detection: Duration::from_millis(150),
                    last_answer: Time(1_000 + u64::from(code)),
                    peer_detection: Duration::from_millis(300),
                },
            );
        }
        for class in 0..4 {
            let candidates = paths
                .keys()
                .enumerate()
                .map(|(rank, &code)| CandidateDesired {
                    path: path(number, code),
                    rank: rank as u8,
                    weight: 1,
                    full: false,
                })
                .collect();
            desired.sets.insert((site(number), class), SetDesired { candidates, keep_rank: 0 });
        }
    }
    desired
}

fn three_sites() -> Desired {
    let paths = || (0..4).map(|code| (code, true)).collect::<BTreeMap<u8, bool>>();
    desired(&BTreeMap::from([(1, paths()), (2, paths()), (3, paths())]), &default_rules())
}

#[test]
fn applying_twice_writes_nothing_the_second_time() {
    let kernel = Kernel::new();
    let mut reconciler = kernel.reconciler();
    let wanted = three_sites();
    reconciler.apply(&wanted).expect("it fits");
    let (seen, config) = (kernel.seen(), kernel.config());
    kernel.fuse.store(0, Ordering::Relaxed);
    reconciler.apply(&wanted).expect("nothing is written");
    assert_eq!(kernel.seen(), seen);
    assert_eq!(kernel.config(), config);
}

#[test]
fn a_trace_goes_on_through_whole_states_and_heartbeats_and_ends_with_its_daemon() {
    let kernel = Kernel::new();
    let mut reconciler = kernel.reconciler();
    reconciler.set_traced(true).expect("it is remembered");
    assert_eq!(kernel.config().abi_version, 0, "nothing is written before there is a whole state");
    reconciler.apply(&three_sites()).expect("it fits");
    let scope = kernel.config().scope;
    assert_eq!((scope.traced, scope.words), (1, three_sites().rules.scope.words));
    reconciler.heartbeat(Time(7), WallClock { offset_ns: 3, scale: 1 }).expect("one write");
    reconciler.apply(&three_sites()).expect("nothing changes");
    assert_eq!(kernel.config().scope, scope);
    let mut next = kernel.reconciler();
    next.apply(&three_sites()).expect("it fits");
    assert_eq!(kernel.config().scope.traced, 0, "nobody asked the next daemon");
    next.set_traced(true).expect("one write");
    next.set_traced(false).expect("one write");
    assert_eq!(kernel.config().scope, three_sites().rules.scope);
}

#[test]
fn a_failover_is_one_write() {
    let kernel = Kernel::new();
    let mut reconciler = kernel.reconciler();
    reconciler.apply(&three_sites()).expect("it fits");
    let before = kernel.paths.snapshot();
    kernel.fuse.store(1, Ordering::Relaxed);
    reconciler.change(&[Change::PathState(path(2, 0), false)]).expect("one write is enough");
    let changed: Vec<Path> = kernel
        .paths
        .snapshot()
        .into_iter()
        .filter(|(number, path)| before[number] != *path)
        .map(|(_, path)| path)
        .collect();
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].state, path_state::DOWN);
}

#[test]
fn single_changes_write_what_they_change_and_nothing_else() {
    let kernel = Kernel::new();
    let mut reconciler = kernel.reconciler();
    let mut wanted = three_sites();
    reconciler.apply(&wanted).expect("it fits");
    let (config, sets) = (kernel.config(), kernel.path_sets.snapshot());
    let worse = path(2, 0);
    let mut candidates = wanted.sets[&(site(2), 1)].candidates.clone();
    candidates.rotate_left(1);
    (0..).zip(&mut candidates).for_each(|(rank, candidate)| candidate.rank = rank);
    let set = SetDesired { candidates, keep_rank: 0 };
    let slower = Duration::from_millis(700);
    let changes = [
        Change::PathState(worse, false),
        Change::PathDetection(worse, slower),
        Change::PathSet(site(2), 1, set.clone()),
        // What isn't in the maps is left out, and what is so already isn't written.
        Change::PathState(path(7, 0), true),
        Change::PathSet(site(7), 0, set.clone()),
        Change::PathSet(site(3), 1, wanted.sets[&(site(3), 1)].clone()),
    ];
    // The path once, the set before and with its epoch.
    kernel.fuse.store(3, Ordering::Relaxed);
    reconciler.change(&changes).expect("three writes are enough");
    reconciler.change(&changes).expect("nothing is left to write");
    kernel.fuse.store(-1, Ordering::Relaxed);
    let number = reconciler.site_number(&site(2)).expect("the site has a number");
    let index = number * capacities().classes + 1;
    let differing = kernel.path_sets.snapshot().into_iter().filter(|(index, set)| sets[index] != *set);
    assert_eq!(differing.map(|(index, _)| index).collect::<Vec<_>>(), [index]);
    assert_eq!(kernel.set(number, 1).epoch, sets[&index].epoch + 1);
    assert_eq!(kernel.config(), config, "flows of other sites don't decide anew");
    // The whole state finds nothing to do.
    let changed = wanted.paths.get_mut(&worse).expect("it is there");
    (changed.up, changed.detection, changed.peer_detection) = (false, slower, slower);
    wanted.sets.insert((site(2), 1), set);
    kernel.fuse.store(0, Ordering::Relaxed);
    reconciler.apply(&wanted).expect("nothing is written");
}

#[test]
fn what_a_failed_write_left_is_known() {
    let kernel = Kernel::new();
    let mut reconciler = kernel.reconciler();
    reconciler.apply(&three_sites()).expect("it fits");
    let down: Vec<Change> = (0..4).map(|code| Change::PathState(path(2, code), false)).collect();
    kernel.fuse.store(2, Ordering::Relaxed);
    reconciler.change(&down).expect_err("it is cut off");
    kernel.fuse.store(2, Ordering::Relaxed);
    let up: Vec<Change> = (0..4).map(|code| Change::PathState(path(2, code), true)).collect();
    reconciler.change(&up).expect("two have to be taken back");
    assert!(kernel.paths.snapshot().values().all(|path| path.state == path_state::UP));
}

#[test]
fn a_set_gets_its_new_content_under_the_old_epoch_first() {
    let kernel = Kernel::new();
    let mut reconciler = kernel.reconciler();
    reconciler.apply(&three_sites()).expect("it fits");
    let number = reconciler.site_number(&site(2)).expect("the site has a number");
    let before = kernel.set(number, 1);
    let other = SetDesired {
        candidates: vec![CandidateDesired { path: path(2, 3), rank: 0, weight: 7, full: false }],
        keep_rank: 0,
    };
    kernel.fuse.store(1, Ordering::Relaxed);
    reconciler.change(&[Change::PathSet(site(2), 1, other.clone())]).expect_err("the second write is cut off");
    let torn = kernel.set(number, 1);
    assert_eq!((torn.count, torn.epoch), (1, before.epoch));
    kernel.fuse.store(-1, Ordering::Relaxed);
    let mut restarted = kernel.reconciler();
    let mut wanted = three_sites();
    wanted.sets.insert((site(2), 1), other);
    restarted.apply(&wanted).expect("it fits");
    assert_ne!(kernel.config().epoch, 1, "the restarted daemon makes every flow decide anew");
}

#[test]
fn only_a_change_of_what_flows_rest_on_raises_the_epoch() {
    let kernel = Kernel::new();
    let mut reconciler = kernel.reconciler();
    let mut wanted = three_sites();
    reconciler.apply(&wanted).expect("it fits");
    let first = kernel.config().epoch;
    wanted.paths.values_mut().for_each(|path| path.mtu = 1300);
    wanted.fast_path = 1;
    reconciler.apply(&wanted).expect("it fits");
    assert_eq!(kernel.config().epoch, first);
    wanted.sites.get_mut(&site(1)).expect("it is there").prefixes.pop();
    reconciler.apply(&wanted).expect("it fits");
    assert_eq!(kernel.config().epoch, first + 1);
    wanted.rules = compile(&default_policies()[2..], &["lan".into()], 8).expect("they compile").rules;
    reconciler.apply(&wanted).expect("it fits");
    assert_eq!(kernel.config().epoch, first + 2);
}

#[test]
fn a_restarted_daemon_finds_its_numbers_again() {
    let kernel = Kernel::new();
    let wanted = three_sites();
    let mut first = kernel.reconciler();
    first.apply(&wanted).expect("it fits");
    let numbers: Vec<_> = first.path_numbers().iter().collect();
    let mut second = kernel.reconciler();
    assert_eq!(second.path_numbers().iter().collect::<Vec<_>>(), numbers);
    let sets = kernel.path_sets.snapshot();
    second.apply(&wanted).expect("it fits");
    assert_eq!(kernel.path_sets.snapshot(), sets, "no set is written again");
}

#[test]
fn a_path_that_is_new_in_the_maps_begins_with_what_the_daemon_heard_and_then_belongs_to_the_programs() {
    let kernel = Kernel::new();
    let mut wanted = three_sites();
    let mut reconciler = kernel.reconciler();
    reconciler.apply(&wanted).expect("it fits");
    let heard = || kernel.path_live.snapshot().values().map(|live| live.last_reply_ns).collect::<Vec<_>>();
    let first = heard();
    assert_eq!(first.len(), wanted.paths.len());
    assert!(first.iter().all(|heard| *heard >= 1_000), "{first:?}");
    for path in wanted.paths.values_mut() {
        path.last_answer = Time(9_000);
    }
    reconciler.apply(&wanted).expect("it fits");
    assert_eq!(heard(), first);
}

#[test]
fn a_heartbeat_leaves_the_rest_of_the_configuration_alone() {
    let kernel = Kernel::new();
    let mut reconciler = kernel.reconciler();
    let clock = WallClock { offset_ns: 7, scale: 24 };
    reconciler.heartbeat(Time(5), clock).expect("it is no error");
    assert_eq!(kernel.config().abi_version, 0, "nothing is configured yet");
    reconciler.apply(&three_sites()).expect("it fits");
    let before = kernel.config();
    reconciler.heartbeat(Time(5), clock).expect("it is written");
    let beaten = Config { heartbeat_ns: 5, realtime_offset_ns: 7, clock_scale: 24, ..before };
    assert_eq!(kernel.config(), beaten);
    reconciler.apply(&Desired { clock, ..three_sites() }).expect("it fits");
    assert_eq!(kernel.config(), beaten, "a new state is no heartbeat");
    assert_eq!(before.abi_version, ABI_VERSION);
    assert_eq!(
        (before.realtime_offset_ns, before.clock_scale),
        (3, 1),
        "probes are answered before the first heartbeat"
    );
}

#[test]
fn too_much_of_anything_is_refused_before_anything_is_written() {
    let kernel = Kernel::new();
    let mut reconciler = kernel.reconciler();
    let sites = (1..=9).map(|number| (number, BTreeMap::new())).collect();
    let error = reconciler.apply(&desired(&sites, &default_rules())).expect_err("there is room for 8 sites");
    assert!(matches!(error, Error::Full { what: "sites", wanted: 9, capacity: 8, .. }), "{error}");
    assert!(kernel.site_ids.snapshot().is_empty());
}

#[test]
fn a_default_route_of_ipv6_catches_no_ipv4() {
    let kernel = Kernel::new();
    let mut reconciler = kernel.reconciler();
    let mut wanted = three_sites();
    wanted.sites.get_mut(&site(1)).expect("it is there").prefixes.push("::/0".parse().expect("a prefix"));
    reconciler.apply(&wanted).expect("it fits");
    let prefixes = kernel.prefixes.snapshot();
    let ipv4 = prefix_key(&"0.0.0.0/0".parse().expect("a prefix"));
    assert_eq!(prefixes[&ipv4].site, SITE_LOCAL);
}

#[test]
fn numbers_are_stable_dense_and_reused() {
    let mut numbers = Numbers::new(3, [('a', 1), ('b', 1), ('c', 9)]);
    assert_eq!(numbers.get(&'a'), Some(1));
    assert_eq!((numbers.get(&'b'), numbers.get(&'c')), (None, None));
    assert_eq!(numbers.assign('b'), Some((0, true)));
    assert_eq!(numbers.assign('c'), Some((2, true)));
    assert_eq!(numbers.assign('d'), None);
    assert_eq!(numbers.len(), 3);
    assert_eq!(numbers.release(|key| *key != 'a'), vec![('a', 1)]);
    assert_eq!(numbers.assign('d'), Some((1, true)));
    assert_eq!(numbers.assign('d'), Some((1, false)));
}

fn random_sites() -> impl Strategy<Value = BTreeMap<u8, BTreeMap<u8, bool>>> {
    let paths = prop::collection::btree_map(0u8..4, any::<bool>(), 0..4);
    prop::collection::btree_map(1u8..7, paths, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn whatever_came_before_and_wherever_it_was_cut_off_the_maps_end_as_desired(
        history in prop::collection::vec((random_sites(), 0i64..400, any::<bool>()), 0..6),
        last in random_sites(),
    ) {
        let rules = default_rules();
        let kernel = Kernel::new();
        let mut reconciler = kernel.reconciler();
        for (sites, fuse, restart) in history {
            kernel.fuse.store(fuse, Ordering::Relaxed);
            // Cut off by the fuse or not, the next one must mend it.
            let _ = reconciler.apply(&desired(&sites, &rules));
            kernel.fuse.store(-1, Ordering::Relaxed);
            if restart {
                reconciler = kernel.reconciler();
            }
        }
        let wanted = desired(&last, &rules);
        reconciler.apply(&wanted).expect("it fits");
        let fresh = Kernel::new();
        fresh.reconciler().apply(&wanted).expect("it fits");
        prop_assert_eq!(kernel.seen(), fresh.seen());
        let numbers: BTreeSet<u32> = reconciler.path_numbers().iter().map(|(_, number)| number).collect();
        prop_assert_eq!(numbers.len(), wanted.paths.len());
    }
}

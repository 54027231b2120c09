//! The user-space side of the data path on the real kernel.

mod sandbox;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use sandbox::{Sandbox, Tun, eventually, index, run, sandboxed, send_udp};
use sdwan::dataplane::desired::{
    CandidateDesired, Change, Desired, LanIngress, PathDesired, SetDesired, SiteDesired, WallClock,
};
use sdwan::dataplane::{
    AttachMode, Attachment, Capacities, Dataplane, Direction, Error, EventStream, PlaneEvent, Reader, Settings,
    detach_all,
};
use sdwan::engine::Time;
use sdwan::engine::policy::{compile, default_policies};
use sdwan::engine::types::{PathKey, SiteId, TunnelKey, UplinkIndex};

const REMOTE: SiteId = SiteId([7; 16]);
const CAPACITIES: Capacities = Capacities { flows: 1_024, sites: 16, classes: 8, paths: 64, prefixes: 256 };

fn settings(bpffs: &Path) -> Settings {
    Settings { directory: bpffs.join("sdwan"), capacities: CAPACITIES, tcp_rtt_per_second: 10 }
}

fn open(sandbox: &Sandbox) -> Dataplane {
    Dataplane::open(&settings(sandbox.bpffs())).expect("the data path can be opened")
}

fn path(uplink: u8) -> PathKey {
    let index = UplinkIndex::new(uplink).expect("a small number");
    PathKey { site: REMOTE, tunnel: TunnelKey { local: index, remote: index } }
}

/// One remote site, 10.2.0.0/16, with a path for each tunnel, the first one best.
fn desired(lan: u32, tunnels: &[u32]) -> Desired {
    let compilation = compile(&default_policies(), &["lan".into()], 8).expect("the defaults compile");
    let paths = (0..).zip(tunnels).map(|(uplink, &ifindex)| {
        let desired = PathDesired {
            ifindex,
            mark: 0,
            mtu: 1_420,
            up: true,
            // No probes run here: the written state decides.
            detection: Duration::ZERO,
            last_answer: Time(0),
            peer_detection: Duration::ZERO,
        };
        (path(uplink), desired)
    });
    let paths: BTreeMap<PathKey, PathDesired> = paths.collect();
    let candidates: Vec<_> =
        (0..).zip(paths.keys()).map(|(rank, &path)| CandidateDesired { path, rank, weight: 1, full: false }).collect();
    let sets = (0..compilation.classes.len() as u16)
        .map(|class| ((REMOTE, class), SetDesired { candidates: candidates.clone(), keep_rank: 0 }));
    Desired {
        overlay: IpAddr::from([100, 64, 0, 1]),
        local_prefixes: vec!["10.1.0.0/16".parse().expect("a prefix")],
        lan: vec![LanIngress { ifindex: lan, vlan: None, zone: 0 }],
        sites: BTreeMap::from([(
            REMOTE,
            SiteDesired {
                overlay: IpAddr::from([100, 64, 0, 2]),
                prefixes: vec!["10.2.0.0/16".parse().expect("a prefix")],
            },
        )]),
        sets: sets.collect(),
        paths,
        classes: compilation.classes.iter().map(|class| class.abi()).collect(),
        rules: compilation.rules,
        fast_path: 2,
        outer_port: 0,
        flow_event_mask: 0,
        events_per_second: 1_000,
        heartbeat_stale: Duration::from_secs(1),
        clock: WallClock { offset_ns: 0, scale: 0 },
    }
}

fn lan(ifindex: u32) -> BTreeSet<Attachment> {
    BTreeSet::from([Attachment { direction: Direction::Lan, ifindex, interface: "lan".into() }])
}

fn attach(dataplane: &mut Dataplane, wanted: &BTreeSet<Attachment>) {
    let errors = dataplane.attach(wanted);
    assert!(errors.is_empty(), "{errors:?}");
}

fn links(dataplane: &Dataplane) -> Vec<String> {
    let entries = std::fs::read_dir(dataplane.layout().links()).expect("the directory of links");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("a link").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The LAN interface, and nothing else, has its program. Only links are pinned; a filter shows on the interface.
fn assert_lan_attached(dataplane: &Dataplane, ifindex: u32) {
    match AttachMode::of_this_kernel() {
        AttachMode::Tcx => assert_eq!(links(dataplane), [format!("lan_ingress-{ifindex}")]),
        AttachMode::Clsact => {
            assert_eq!(run("tc filter show dev lan ingress").matches(" handle ").count(), 1);
            assert!(links(dataplane).is_empty());
        }
    }
}

/// A mesh with two tunnels and the programs attached in a way of choice.
fn steer(sandbox: &Sandbox, mode: AttachMode) -> (Dataplane, Tun, Tun) {
    let (first, second) = (Tun::new("sdw0-0"), Tun::new("sdw1-1"));
    let lan_index = sandbox.add_lan();
    let mut dataplane = Dataplane::open_with(&settings(sandbox.bpffs()), mode).expect("the data path can be opened");
    dataplane.apply(&desired(lan_index, &[first.ifindex, second.ifindex])).expect("the maps can be written");
    attach(&mut dataplane, &lan(lan_index));
    (dataplane, first, second)
}

#[test]
fn a_packet_takes_the_best_path_and_the_other_one_after_a_single_write() {
    sandboxed("a_packet_takes_the_best_path_and_the_other_one_after_a_single_write", |sandbox| {
        let (mut dataplane, mut first, mut second) = steer(sandbox, AttachMode::of_this_kernel());
        send_udp(40_000, [10, 2, 0, 9], 5_060);
        let packet = first.receive().expect("the packet comes out of the best path");
        assert_eq!((packet[0] >> 4, packet[8]), (4, 63), "a bare IP packet, its TTL one less");

        dataplane.change(&[Change::PathState(path(0), false)]).expect("one write");
        send_udp(40_000, [10, 2, 0, 9], 5_060);
        assert!(second.receive().is_some(), "the flow moved");
        assert!(first.is_empty());

        let reader = Reader::open(dataplane.layout()).expect("the maps can be read");
        let flows = reader.flows(100, 100, |_| true);
        assert_eq!(flows.len(), 1);
        assert_eq!((flows[0].flow.moves, flows[0].flow.packets), (1, 2));
        assert_eq!(Some(flows[0].flow.path), dataplane.path_number(&path(1)));
        for uplink in [0, 1] {
            let number = dataplane.path_number(&path(uplink)).expect("the path has a number");
            assert_eq!(reader.path_counters(number).expect("counters").stats.sent_packets, 1);
        }
        let class = reader.class_counters(flows[0].flow.class).expect("counters");
        assert_eq!((class.packets, class.flows, class.moves), (2, 1, 1));
        assert!(reader.drops().expect("counters").iter().all(|(_, packets)| *packets == 0));
    });
}

#[test]
fn packets_flow_on_while_the_daemon_is_away_and_the_next_one_takes_over() {
    sandboxed("packets_flow_on_while_the_daemon_is_away_and_the_next_one_takes_over", |sandbox| {
        let (dataplane, mut first, second) = steer(sandbox, AttachMode::of_this_kernel());
        send_udp(40_000, [10, 2, 0, 9], 80);
        assert!(first.receive().is_some());
        let numbers = dataplane.path_numbers();
        let pins = links(&dataplane);
        drop(dataplane);
        send_udp(40_000, [10, 2, 0, 9], 80);
        assert!(first.receive().is_some(), "nobody is there, and packets flow");

        let mut next = open(sandbox);
        assert_eq!(next.path_numbers(), numbers, "before anything is applied");
        next.apply(&desired(index("lan"), &[first.ifindex, second.ifindex])).expect("the maps can be written");
        attach(&mut next, &lan(index("lan")));
        assert_eq!(links(&next), pins);
        send_udp(40_000, [10, 2, 0, 9], 80);
        assert!(first.receive().is_some());
        assert!(first.is_empty(), "one program is attached, not two");
        let reader = Reader::open(next.layout()).expect("the maps can be read");
        let flows = reader.flows(100, 100, |_| true);
        assert_eq!((flows.len(), flows[0].flow.packets, flows[0].flow.moves), (1, 3, 0), "the flow lives on");
    });
}

#[test]
fn what_a_daemon_of_another_abi_version_left_carries_packets_until_the_programs_are_swapped() {
    let name = "what_a_daemon_of_another_abi_version_left_carries_packets_until_the_programs_are_swapped";
    sandboxed(name, |sandbox| {
        let (dataplane, mut first, second) = steer(sandbox, AttachMode::of_this_kernel());
        let theirs = dataplane.layout().root().with_file_name("v1");
        let numbers = dataplane.path_numbers();
        send_udp(40_000, [10, 2, 0, 9], 80);
        assert!(first.receive().is_some());
        drop(dataplane);
        sdwan_tests::pins::age(&settings(sandbox.bpffs()).directory).expect("the pins become those of another version");

        let mut next = open(sandbox);
        assert_eq!(next.path_numbers(), numbers, "paths keep their numbers");
        send_udp(40_000, [10, 2, 0, 9], 80);
        assert!(first.receive().is_some(), "the old program goes on");
        next.apply(&desired(index("lan"), &[first.ifindex, second.ifindex])).expect("the maps can be written");
        attach(&mut next, &lan(index("lan")));
        assert_lan_attached(&next, index("lan"));
        assert!(!theirs.exists(), "nothing of the other version is left");
        send_udp(40_000, [10, 2, 0, 9], 80);
        assert!(first.receive().is_some());
        assert!(first.is_empty(), "one program is attached, not two");
        let reader = Reader::open(next.layout()).expect("the maps can be read");
        let flows = reader.flows(100, 100, |_| true);
        // One before the upgrade, one after it; the one in between was the old program's.
        assert_eq!((flows.len(), flows[0].flow.packets), (1, 2), "the flow lives on in the new program's map");
    });
}

#[test]
fn a_recreated_interface_is_attached_again_and_the_pin_of_the_old_one_goes() {
    sandboxed("a_recreated_interface_is_attached_again_and_the_pin_of_the_old_one_goes", |sandbox| {
        let (mut dataplane, mut first, second) = steer(sandbox, AttachMode::of_this_kernel());
        let old = index("lan");
        run("ip link delete lan");
        let new = sandbox.add_lan();
        assert_ne!(old, new, "the kernel counts interfaces up");
        dataplane.apply(&desired(new, &[first.ifindex, second.ifindex])).expect("the maps can be written");
        attach(&mut dataplane, &lan(new));
        assert_lan_attached(&dataplane, new);
        send_udp(40_000, [10, 2, 0, 9], 80);
        assert!(first.receive().is_some());
    });
}

#[test]
fn an_interface_that_does_not_exist_is_an_error_of_its_own() {
    sandboxed("an_interface_that_does_not_exist_is_an_error_of_its_own", |sandbox| {
        let lan_index = sandbox.add_lan();
        let mut dataplane = open(sandbox);
        let mut wanted = lan(lan_index);
        wanted.insert(Attachment { direction: Direction::Tunnel, ifindex: 999, interface: "sdw9-9".into() });
        let errors = dataplane.attach(&wanted);
        assert_eq!(errors.len(), 1);
        assert!(errors[0].to_string().contains("sdw9-9"), "{}", errors[0]);
        assert_lan_attached(&dataplane, lan_index);
    });
}

#[test]
fn without_tcx_a_filter_is_attached_once_and_removed_when_nobody_wants_it() {
    sandboxed("without_tcx_a_filter_is_attached_once_and_removed_when_nobody_wants_it", |sandbox| {
        let (dataplane, mut first, second) = steer(sandbox, AttachMode::Clsact);
        let filters = || run("tc filter show dev lan ingress").matches(" handle ").count();
        assert_eq!(filters(), 1);
        drop(dataplane);
        send_udp(40_000, [10, 2, 0, 9], 80);
        assert!(first.receive().is_some(), "nobody is there, and packets flow");

        let mut next = Dataplane::open_with(&settings(sandbox.bpffs()), AttachMode::Clsact).expect("opens");
        next.apply(&desired(index("lan"), &[first.ifindex, second.ifindex])).expect("the maps can be written");
        attach(&mut next, &lan(index("lan")));
        assert_eq!(filters(), 1, "replaced, not added");
        send_udp(40_001, [10, 2, 0, 9], 80);
        assert!(first.receive().is_some());
        drop(next);

        let mut last = Dataplane::open_with(&settings(sandbox.bpffs()), AttachMode::Clsact).expect("opens");
        attach(&mut last, &BTreeSet::new());
        assert_eq!(filters(), 0, "what an earlier daemon left on an interface that nobody wants is gone");
    });
}

#[test]
fn a_map_of_another_size_is_made_anew_and_the_others_stay() {
    sandboxed("a_map_of_another_size_is_made_anew_and_the_others_stay", |sandbox| {
        let (dataplane, first, second) = steer(sandbox, AttachMode::of_this_kernel());
        let numbers = dataplane.path_numbers();
        drop(dataplane);
        let capacities = Capacities { flows: 2_048, ..CAPACITIES };
        let mut next = Dataplane::open(&Settings {
            directory: sandbox.bpffs().join("sdwan"),
            capacities,
            ..settings(sandbox.bpffs())
        })
        .expect("opens");
        assert_eq!(next.path_numbers(), numbers);
        next.apply(&desired(index("lan"), &[first.ifindex, second.ifindex])).expect("the maps can be written");
        let flows = next.layout().map("flows");
        let shown = run(&format!("bpftool map show pinned {}", flows.display()));
        assert!(shown.contains("max_entries 2048"), "{shown}");
    });
}

#[test]
fn after_down_nothing_of_ours_is_left_and_everything_of_others_is() {
    sandboxed("after_down_nothing_of_ours_is_left_and_everything_of_others_is", |sandbox| {
        let (dataplane, mut first, _second) = steer(sandbox, AttachMode::of_this_kernel());
        let foreign = sandbox.bpffs().join("other");
        std::fs::create_dir(&foreign).expect("a directory of somebody else");
        run("tc qdisc add dev host clsact");
        run("tc filter add dev host ingress bpf direct-action bytecode 1,6·0·0·0,");
        drop(dataplane);
        detach_all(&sandbox.bpffs().join("sdwan")).expect("down");
        detach_all(&sandbox.bpffs().join("sdwan")).expect("down once more");
        assert!(!sandbox.bpffs().join("sdwan").exists());
        assert!(foreign.exists());
        assert!(run("tc filter show dev host ingress").contains("bytecode"));
        send_udp(40_000, [10, 2, 0, 9], 80);
        assert!(first.receive().is_none(), "no program is left");
    });
}

#[test]
fn a_new_flow_is_told_as_an_event() {
    sandboxed("a_new_flow_is_told_as_an_event", |sandbox| {
        let (dataplane, _first, _second) = steer(sandbox, AttachMode::of_this_kernel());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
            let stream = EventStream::start(dataplane.layout(), sender).expect("the ring can be read");
            send_udp(40_000, [10, 2, 0, 9], 80);
            let event = tokio::time::timeout(Duration::from_secs(2), receiver.recv()).await.expect("in time");
            let Some(PlaneEvent::NewFlow(event)) = event else { panic!("{event:?}") };
            assert_eq!((event.flow.source_port, event.flow.destination_port), (40_000, 80));
            assert_eq!(Some(event.path), dataplane.path_number(&path(0)));

            // Room for one, and nobody takes it.
            (0..5).for_each(|port| send_udp(41_000 + port, [10, 2, 0, 9], 80));
            let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
            while stream.lost() < 4 && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(stream.lost(), 4, "what finds the channel full is counted");
        });
    });
}

#[test]
fn a_directory_that_is_no_bpf_file_system_is_refused_with_the_remedy() {
    sandboxed("a_directory_that_is_no_bpf_file_system_is_refused_with_the_remedy", |_sandbox| {
        let directory = tempfile::tempdir().expect("a directory");
        let error = Dataplane::open(&settings(directory.path())).err().expect("it is refused");
        assert!(matches!(error, Error::NoBpffs { .. }), "{error}");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        assert!(!directory.path().join("sdwan").exists(), "and nothing is left behind");
    });
}

#[test]
fn missing_privileges_are_one_clear_sentence() {
    sandboxed("missing_privileges_are_one_clear_sentence", |sandbox| {
        // Of this thread alone: `nobody` may write to the BPF file system, and is not allowed BPF.
        std::fs::set_permissions(sandbox.bpffs(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
        // SAFETY: the raw system call takes no pointers; unlike the library's it changes the calling thread only.
        let become_user = |user: i64| assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, -1, user, -1) }, 0);
        become_user(65_534);
        let error = Dataplane::open(&settings(sandbox.bpffs())).err();
        become_user(0);
        let error = error.expect("it is refused");
        assert!(matches!(error, Error::Privilege { .. }), "{error:?}");
        assert!(error.to_string().contains("run as root"), "{error}");
    });
}

#[test]
fn maps_of_the_default_capacities_are_adopted_as_they_were_written() {
    sandboxed("maps_of_the_default_capacities_are_adopted_as_they_were_written", |sandbox| {
        let tunnel = Tun::new("sdw0-0");
        let wanted = desired(sandbox.add_lan(), &[tunnel.ifindex]);
        let settings = Settings {
            directory: sandbox.bpffs().join("sdwan"),
            capacities: Capacities::default(),
            tcp_rtt_per_second: 10,
        };
        let mut dataplane = Dataplane::open(&settings).expect("the maps are made");
        dataplane.apply(&wanted).expect("the maps can be written");
        let (numbers, pin) = (dataplane.path_numbers(), dataplane.layout().map("match_dport"));
        drop(dataplane);
        for port in [0_u16, 80, 5_060, 65_535] {
            let [low, high] = port.to_le_bytes();
            let dump = run(&format!("bpftool --json map lookup pinned {} key {low} {high} 0 0", pin.display()));
            let value = serde_json::from_str::<serde_json::Value>(&dump).expect("bpftool prints JSON");
            let words: Vec<u64> = serde_json::from_value(value["formatted"]["value"]["words"].clone()).expect("words");
            assert_eq!(words, wanted.rules.destination_port[usize::from(port)].words, "port {port}");
        }
        let started = std::time::Instant::now();
        let next = Dataplane::open(&settings).expect("the maps are adopted");
        println!("adopted in {:?}", started.elapsed());
        assert_eq!(next.path_numbers(), numbers);
    });
}

#[test]
fn the_maps_are_readable_with_bpftool() {
    sandboxed("the_maps_are_readable_with_bpftool", |sandbox| {
        let (dataplane, mut first, _second) = steer(sandbox, AttachMode::of_this_kernel());
        send_udp(40_000, [10, 2, 0, 9], 5_060);
        assert!(first.receive().is_some());
        let fields = [
            ("flows", "last_seen_ns"),
            ("prefixes", "site"),
            ("paths", "detection_ns"),
            ("path_sets", "keep_rank"),
            ("path_stats", "sent_packets"),
            ("classes", "dscp"),
            ("zones", "vlan"),
            ("tunnel_paths", "ifindex"),
            ("config", "abi_version"),
        ];
        for (map, field) in fields {
            let dump = run(&format!("bpftool map dump pinned {}", dataplane.layout().map(map).display()));
            assert!(dump.contains(&format!("\"{field}\"")), "{map} has no {field}: {dump}");
            if std::env::var_os("SDWAN_SHOW_MAPS").is_some() {
                println!("== {map}\n{}", dump.chars().take(1_500).collect::<String>());
            }
        }
        for map in ["paths", "path_sets", "path_stats"] {
            let entry =
                run(&format!("bpftool map lookup pinned {} key 0 0 0 0", dataplane.layout().map(map).display()));
            assert!(entry.contains("\"key\": 0"), "{map}: {entry}");
            if std::env::var_os("SDWAN_SHOW_MAPS").is_some() {
                println!("== {map}, entry 0\n{entry}");
            }
        }
        eventually("the counter", || {
            let reader = Reader::open(dataplane.layout()).expect("the maps can be read");
            reader.flow_count(100) == 1
        });
    });
}

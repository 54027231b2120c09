use super::Liveness::{Alive, AliveByPeer, Disabled, Down, FailStatic, Silent, SilentByPeer};
use super::*;
use crate::abi::path_state::{ADMIN_DOWN, DOWN, UNUSED, UP};

const NOW: u64 = 1_000_000;
const DETECTION: u64 = 150;
const PEER_DETECTION: u64 = 300;
const STALE: u64 = 1_000;
const FRESH: u64 = NOW - DETECTION;
const OLD: u64 = NOW - PEER_DETECTION - 1;
const HEARS: u32 = peer_flag::HEARS;

fn path(state: u8) -> Path {
    Path { state, detection_ns: DETECTION, peer_detection_ns: PEER_DETECTION, ..Path::default() }
}

fn config(heartbeat_ns: u64) -> Config {
    Config { heartbeat_ns, heartbeat_stale_ns: STALE, ..Config::default() }
}

fn live(last_reply_ns: u64, last_peer_probe_ns: u64, peer_flags: u32) -> PathLive {
    PathLive { last_reply_ns, last_peer_probe_ns, peer_flags, ..PathLive::default() }
}

fn site_at(last_peer_probe_ns: u64) -> SiteLive {
    SiteLive { last_peer_probe_ns, ..SiteLive::default() }
}

#[test]
fn a_peer_that_goes_on_after_a_pause_is_given_the_time_to_probe_every_path() {
    let dead = config(NOW - STALE - 1);
    // It probed another path first, just now; here the last probe is from before the pause.
    let mut site = site_at(OLD + 1);
    site.probed(PEER_DETECTION, NOW);
    assert_eq!((site.paused_ns, site.resumed_ns, site.last_peer_probe_ns), (OLD + 1, NOW, NOW));
    let seen =
        |site: &SiteLive, probed, flags, now| path_liveness(&path(UP), &live(OLD, probed, flags), site, &dead, now);
    assert_eq!(seen(&site_at(NOW), OLD, HEARS, NOW), SilentByPeer, "it made no pause");
    assert_eq!(seen(&site, OLD, HEARS, NOW), AliveByPeer);
    assert_eq!(seen(&site, OLD, 0, NOW), SilentByPeer, "it said that it didn't hear us");
    assert_eq!(seen(&site, OLD - PEER_DETECTION, HEARS, NOW), SilentByPeer, "it had stopped here before");
    let later = NOW + PEER_DETECTION + 1;
    site.probed(PEER_DETECTION, NOW + PEER_DETECTION / 2);
    site.probed(PEER_DETECTION, later);
    assert_eq!(site.resumed_ns, NOW, "no more than a lost probe or two");
    assert_eq!(seen(&site, OLD, HEARS, later), SilentByPeer, "it had the time");
    site.probed(0, later + 10 * PEER_DETECTION);
    assert_eq!(site.resumed_ns, NOW, "one that doesn't say how long it is to be waited for");
}

#[test]
fn the_table_of_all_cases_holds() {
    let alive = config(NOW);
    // It stopped, and nobody can tell yet.
    let paused = config(NOW - DETECTION / 2);
    let dead = config(NOW - STALE - 1);
    // State, configuration, last reply, last probe here, flags, last probe of the site: what it means.
    let table = [
        (UNUSED, alive, FRESH, FRESH, HEARS, FRESH, Disabled),
        (ADMIN_DOWN, alive, FRESH, FRESH, HEARS, FRESH, Disabled),
        (ADMIN_DOWN, dead, FRESH, FRESH, HEARS, FRESH, Disabled),
        (9, alive, FRESH, FRESH, HEARS, FRESH, Disabled),
        (UP, alive, FRESH, OLD, 0, OLD, Alive),
        (UP, alive, FRESH - 1, FRESH, HEARS, FRESH, Silent),
        (UP, alive, 0, FRESH, HEARS, FRESH, Silent),
        (UP, paused, FRESH - 1, FRESH, HEARS, FRESH, Alive),
        (UP, paused, FRESH - 30, FRESH, HEARS, FRESH, Silent),
        (DOWN, alive, FRESH, FRESH, HEARS, FRESH, Down),
        (DOWN, alive, OLD, OLD, 0, OLD, Down),
        (UP, dead, OLD, FRESH, HEARS, FRESH, AliveByPeer),
        (UP, dead, OLD, FRESH, 0, FRESH, SilentByPeer),
        (UP, dead, OLD, FRESH, !HEARS, FRESH, SilentByPeer),
        (UP, dead, OLD, OLD, HEARS, NOW, SilentByPeer),
        (UP, dead, OLD, OLD, HEARS, FRESH, AliveByPeer),
        (UP, dead, OLD, OLD, 0, FRESH, SilentByPeer),
        (UP, dead, OLD, OLD, HEARS, OLD, FailStatic),
        (UP, dead, FRESH, OLD, 0, OLD, FailStatic),
        (DOWN, dead, OLD, FRESH, HEARS, FRESH, AliveByPeer),
        (DOWN, dead, OLD, FRESH, 0, FRESH, SilentByPeer),
        (DOWN, dead, OLD, OLD, HEARS, NOW, SilentByPeer),
        (DOWN, dead, OLD, OLD, 0, OLD, Down),
    ];
    for (number, (state, config, reply, probe, flags, site, expected)) in table.into_iter().enumerate() {
        let found = path_liveness(&path(state), &live(reply, probe, flags), &site_at(site), &config, NOW);
        assert_eq!(found, expected, "row {number}");
    }
}

#[test]
fn a_peer_that_probes_slower_or_faster_than_we_do_is_waited_for_as_it_says() {
    const MS: u64 = 1_000_000;
    let now = 100_000 * MS;
    let dead = config(0);
    let ours = 300 * MS;
    let path = Path { peer_detection_ns: ours, ..path(UP) };
    let seen = |said, age, flags| {
        let live = PathLive { peer_detection_ns: said, ..live(0, now - age, flags) };
        // The peer's daemon lives: its probes come in on another path.
        path_liveness(&path, &live, &site_at(now), &dead, now)
    };
    for said in [1_500 * MS, 60 * MS] {
        assert_eq!(seen(said, said, HEARS), AliveByPeer, "{said} was said, and isn't over");
        assert_eq!(seen(said, said + 1, HEARS), SilentByPeer, "{said} was said, and is over");
        assert_eq!(seen(said, said, 0), SilentByPeer, "it doesn't hear us");
    }
    assert_eq!(seen(0, ours, HEARS), AliveByPeer, "it says nothing: the daemon's word holds");
    assert_eq!(seen(0, ours + 1, HEARS), SilentByPeer);
}

#[test]
fn no_peer_can_keep_a_silent_path_alive_for_ever_or_have_it_flicker() {
    let (least, most) = (*PEER_DETECTION_NS.start(), *PEER_DETECTION_NS.end());
    let said = |said| peer_detection_ns(&path(UP), &PathLive { peer_detection_ns: said, ..PathLive::default() });
    assert_eq!([said(1), said(least), said(most), said(most + 1), said(u64::MAX)], [least, least, most, most, most]);
    // All that a probe can say is far from an overflow.
    assert_eq!(said(crate::stamp::Extension { detection: u16::MAX, ..Default::default() }.detection_ns()), most);
    let off = Path { peer_detection_ns: 0, ..path(UP) };
    let live = PathLive { peer_detection_ns: most, ..PathLive::default() };
    assert_eq!(peer_detection_ns(&off, &live), 0, "the operator's off is off");
}

#[test]
fn only_the_living_are_usable() {
    for (liveness, usable) in [
        (Alive, true),
        (AliveByPeer, true),
        (FailStatic, true),
        (Down, false),
        (Disabled, false),
        (Silent, false),
        (SilentByPeer, false),
    ] {
        assert_eq!(liveness.usable(), usable, "{liveness:?}");
    }
}

#[test]
fn a_detection_time_of_zero_switches_the_check_off() {
    let unchecked = Path { detection_ns: 0, peer_detection_ns: 0, ..path(UP) };
    assert_eq!(path_liveness(&unchecked, &live(0, 0, 0), &site_at(0), &config(NOW), NOW), Alive);
    assert_eq!(path_liveness(&unchecked, &live(0, NOW, 0), &site_at(NOW), &config(0), NOW), FailStatic);
    let unchecked = Path { state: DOWN, ..unchecked };
    assert_eq!(path_liveness(&unchecked, &live(0, NOW, HEARS), &site_at(NOW), &config(0), NOW), Down);
}

#[test]
fn stamps_ahead_of_a_coarse_clock_are_fresh() {
    assert_eq!(path_liveness(&path(UP), &live(NOW + 4, 0, 0), &site_at(0), &config(NOW + 4), NOW), Alive);
    assert_eq!(path_liveness(&path(UP), &live(0, NOW + 4, HEARS), &site_at(NOW + 4), &config(0), NOW), AliveByPeer);
}

#[test]
fn a_dead_daemons_site_stamp_does_not_count_while_it_lives() {
    assert!(daemon_alive(&config(NOW - STALE), NOW));
    assert!(!daemon_alive(&config(NOW - STALE - 1), NOW));
    for site in [0, OLD, FRESH, NOW] {
        assert_eq!(path_liveness(&path(UP), &live(FRESH, OLD, 0), &site_at(site), &config(NOW), NOW), Alive);
    }
}

#[test]
fn a_disabled_path_is_no_candidate_and_others_tell_when_they_were_heard() {
    assert_eq!(candidate_state(&live(1, 2, 0), Disabled), None);
    let silent = |flags| candidate_state(&live(1, 2, flags), Silent);
    assert_eq!(silent(peer_flag::HEARS), Some(CandidateState { usable: false, heard_ns: 2 }));
    assert_eq!(silent(0), Some(CandidateState { usable: false, heard_ns: 1 }), "a line that works inbound only");
    assert_eq!(candidate_state(&live(3, 2, 0), Alive), Some(CandidateState { usable: true, heard_ns: 3 }));
}

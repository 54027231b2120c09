use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::engine::path::Path;
use crate::engine::time::Time;
use crate::engine::types::{PathKey, SiteId, TunnelKey, UplinkIndex};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// What routers say about packets that are too large.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Icmp {
    Silent,
    Honest,
    /// Says that this is the MTU, whatever it is.
    Lies(u16),
}

/// When it arrives, of which path, sequence number, size or what ICMP says, whether it is ICMP.
type Answer = (Time, PathKey, u64, u16, bool);

/// A network in virtual time: one MTU, the same loss each way, one round-trip time.
struct Net {
    searches: Searches,
    mtu: u16,
    /// One in ten paths has this one instead.
    narrow: Option<u16>,
    loss: f64,
    rtt: Duration,
    icmp: Icmp,
    now: Time,
    answers: BinaryHeap<Reverse<Answer>>,
    random: StdRng,
    sent: u32,
    sent_at: Vec<Time>,
    highest: u16,
}

fn path(number: u16) -> PathKey {
    let index = |number: u16| UplinkIndex::new((number % 8) as u8).unwrap();
    let [high, low] = (number / 64).to_be_bytes();
    let mut id = [1; 16];
    (id[0], id[1]) = (high, low);
    PathKey { site: SiteId(id), tunnel: TunnelKey { local: index(number / 8), remote: index(number) } }
}

fn conditions(max: u16, ipv6: bool, rtt: Duration, loss: f64) -> Conditions {
    // Both directions lose.
    let loss = 1.0 - (1.0 - loss) * (1.0 - loss);
    Conditions { ipv6, max, rtt: Some(rtt), variation: rtt / 20, loss, metered: false, up_since: Some(Time(1)) }
}

impl Net {
    fn new(mtu: u16, max: u16, ipv6: bool) -> Self {
        Self::lossy(mtu, max, ipv6, 0.0, 0)
    }

    fn lossy(mtu: u16, max: u16, ipv6: bool, loss: f64, seed: u64) -> Self {
        let mut searches = Searches::new(Settings::default(), 1);
        let (rtt, now) = (20 * MS, Time(1_000_000_000));
        searches.set(path(0), conditions(max, ipv6, rtt, loss), now);
        Self {
            searches,
            mtu,
            narrow: None,
            loss,
            rtt,
            icmp: Icmp::Silent,
            now,
            answers: BinaryHeap::new(),
            random: StdRng::seed_from_u64(seed),
            sent: 0,
            sent_at: Vec::new(),
            highest: 0,
        }
    }

    fn known(&self) -> Known {
        self.searches.report(&path(0), self.now).unwrap().known
    }

    fn state(&self) -> State {
        self.searches.report(&path(0), self.now).unwrap().state
    }

    /// Runs until `done` or for `most`; returns how long that took.
    fn run(&mut self, most: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let (start, end) = (self.now, self.now + most);
        loop {
            while let Some(probe) = self.searches.next_probe(self.now) {
                self.sent += 1;
                self.sent_at.push(self.now);
                self.transmit(probe);
            }
            for (_, known) in self.searches.take_changes() {
                if known.how != How::Configured {
                    self.highest = self.highest.max(known.size);
                }
            }
            if done(self) {
                return self.now.since(start);
            }
            let answer = self.answers.peek().map(|Reverse((at, ..))| *at);
            let next = answer.into_iter().chain(self.searches.next_deadline()).min().unwrap_or(end);
            if next > end {
                self.now = end;
                return most;
            }
            assert!(next >= self.now || next + S > self.now, "time runs backwards");
            self.now = next.max(self.now);
            while let Some(Reverse((at, key, sequence, size, icmp))) = self.answers.peek().copied() {
                if at > self.now {
                    break;
                }
                self.answers.pop();
                match icmp {
                    true => drop(self.searches.too_big(key, size, self.now)),
                    false => assert!(self.searches.acknowledged(key, sequence, size, self.now)),
                }
            }
        }
    }

    fn mtu_of(&self, path: &PathKey) -> u16 {
        self.narrow.filter(|_| path.tunnel.code().is_multiple_of(10)).unwrap_or(self.mtu)
    }

    fn transmit(&mut self, probe: Probe) {
        let lost = self.random.random_bool(self.loss) || self.random.random_bool(self.loss);
        let at = self.now + self.rtt;
        if probe.size <= self.mtu_of(&probe.path) {
            if !lost {
                self.answers.push(Reverse((at, probe.path, probe.sequence, probe.size, false)));
            }
        } else {
            let says = match self.icmp {
                Icmp::Silent => return,
                Icmp::Honest => self.mtu,
                Icmp::Lies(mtu) => mtu,
            };
            self.answers.push(Reverse((at, probe.path, probe.sequence, says, true)));
        }
    }
}

fn complete(net: &Net) -> bool {
    net.state() == State::Complete && net.known().how == How::Searched
}

#[test]
fn a_path_without_obstacles_is_known_after_three_round_trips() {
    let mut net = Net::new(1500, 1500, false);
    let took = net.run(60 * S, complete);
    assert_eq!((net.known().size, net.sent), (1500, 3));
    assert!(took <= 100 * MS, "{took:?}");
}

#[test]
fn every_mtu_between_1280_and_9000_is_found_exactly_in_bounded_probes_and_time() {
    let (mut most_probes, mut longest) = (0, Duration::ZERO);
    for ipv6 in [false, true] {
        for mtu in 1280..=9000 {
            let mut net = Net::new(mtu, 9000, ipv6);
            let took = net.run(60 * S, complete);
            assert_eq!(net.known(), Known { size: mtu, how: How::Searched, ipv6 });
            most_probes = most_probes.max(net.sent);
            longest = longest.max(took);
        }
    }
    println!("1280..=9000 without ICMP: at most {most_probes} probes and {longest:?}");
    assert!(most_probes <= 80, "{most_probes}");
    assert!(longest <= 8 * S, "{longest:?}");
}

#[test]
fn icmp_that_tells_the_truth_shortens_a_search_and_one_that_lies_changes_no_result() {
    for mtu in [1280, 1283, 1400, 1423, 1492] {
        let mut honest = Net::new(mtu, 1500, false);
        honest.icmp = Icmp::Honest;
        honest.run(60 * S, complete);
        assert_eq!(honest.known().size, mtu);
        let mut silent = Net::new(mtu, 1500, false);
        silent.run(60 * S, complete);
        assert!(honest.sent <= silent.sent && honest.sent <= 9, "{} and {}", honest.sent, silent.sent);
        for lie in [0, 68, 576, 1200, 1279, 1281, 1350, 1499, 1500, 9000, u16::MAX] {
            let mut lying = Net::new(mtu, 1500, false);
            lying.icmp = Icmp::Lies(lie);
            lying.run(60 * S, complete);
            assert_eq!(lying.known().size, mtu, "{lie}");
        }
    }
}

#[test]
fn forged_icmp_on_a_good_path_costs_a_probe_a_second_and_nothing_else() {
    let mut net = Net::new(1500, 1500, false);
    net.run(60 * S, complete);
    let before = net.sent;
    for _ in 0..1_000 {
        net.searches.too_big(path(0), 1300, net.now);
        net.run(10 * MS, |_| false);
    }
    assert_eq!(net.known(), Known { size: 1500, how: How::Searched, ipv6: false });
    assert!(net.sent - before <= 12, "{} probes in 10 s", net.sent - before);
}

#[test]
fn a_black_hole_is_found_within_ten_seconds_whatever_the_round_trip_time() {
    let mut longest = Duration::ZERO;
    for rtt in [1, 20, 100, 300, 600] {
        for phase in 0..10 {
            let mut net = Net::new(1500, 1500, false);
            net.rtt = rtt * MS;
            net.searches.set(path(0), conditions(1500, false, net.rtt, 0.0), net.now);
            net.run(60 * S, complete);
            net.run(phase * 300 * MS, |_| false);
            net.mtu = 1423;
            let found = net.run(60 * S, |net| net.known().size <= 1423);
            assert_eq!(net.known(), Known { size: 1200, how: How::Base, ipv6: false });
            longest = longest.max(found);
            net.run(60 * S, complete);
            assert_eq!(net.known().size, 1423);
        }
    }
    println!("black hole found after {longest:?} at most");
    assert!(longest <= 10 * S, "{longest:?}");
}

#[test]
fn a_lowered_mtu_that_icmp_tells_of_is_in_use_within_a_search_and_without_a_dip() {
    let mut net = Net::new(1500, 1500, false);
    net.run(60 * S, complete);
    (net.mtu, net.icmp) = (1423, Icmp::Honest);
    net.searches.too_big(path(0), 1423, net.now);
    let took = net.run(60 * S, |net| net.known().size != 1500);
    assert_eq!(net.known().size, 1423, "it doesn't fall to the base first");
    assert!(took < S, "{took:?}");
    net.run(60 * S, complete);
    assert_eq!(net.known(), Known { size: 1423, how: How::Searched, ipv6: false });
}

#[test]
fn after_a_black_hole_larger_sizes_come_into_use_while_the_search_goes_on() {
    let (mut longest_dip, mut most_steps) = (Duration::ZERO, 0);
    for mtu in [1300, 1400, 1423, 1452, 1492, 4470] {
        let mut net = Net::new(9000, 9000, false);
        net.run(60 * S, complete);
        net.mtu = mtu;
        net.run(60 * S, |net| net.known().how == How::Base);
        assert_eq!(net.known().size, 1200, "nothing larger is known to work");
        let (mut steps, mut last) = (0, 1200);
        let dip = net.run(60 * S, |net| net.known().size + 64 > mtu);
        while !complete(&net) {
            net.run(60 * S, |net| net.known().size != last || complete(net));
            let known = net.known();
            assert!(known.size >= last && known.size <= mtu, "{known:?} of {mtu}: never larger, nor back again");
            steps += u32::from(known.size != last);
            last = known.size;
        }
        assert_eq!(net.known(), Known { size: mtu, how: How::Searched, ipv6: false });
        (longest_dip, most_steps) = (longest_dip.max(dip), most_steps.max(steps));
    }
    println!("within 64 bytes of the MTU after {longest_dip:?} at most, in {most_steps} further steps");
    assert!(longest_dip < 5 * S && most_steps <= 4, "{longest_dip:?} {most_steps}");
}

#[test]
fn a_path_that_changes_between_two_routes_falls_to_the_smaller_ones_mtu_and_no_further() {
    let mut net = Net::new(1423, 1500, false);
    net.run(60 * S, complete);
    for _ in 0..3 {
        net.mtu = 1500;
        net.run(1_000 * S, |net| net.known().size == 1500 && complete(net));
        net.mtu = 1423;
        let took = net.run(60 * S, |net| net.known().size < 1500);
        assert_eq!(net.known(), Known { size: 1423, how: How::Base, ipv6: false }, "not the base size");
        assert!(took <= 10 * S, "{took:?}");
        net.run(60 * S, complete);
        assert_eq!(net.known(), Known { size: 1423, how: How::Searched, ipv6: false });
    }
    // Another black hole than ever before: one question more, and the base size as before.
    net.mtu = 1500;
    net.run(1_000 * S, |net| net.known().size == 1500 && complete(net));
    net.mtu = 1350;
    let took = net.run(60 * S, |net| net.known().size < 1500);
    assert_eq!((net.known().size, net.known().how), (1200, How::Base));
    assert!(took <= 10 * S, "{took:?}");
    net.run(60 * S, complete);
    assert_eq!(net.known().size, 1350);
}

#[test]
fn a_raised_mtu_is_found_by_the_raise_timer() {
    let mut net = Net::new(1400, 1500, false);
    net.run(60 * S, complete);
    net.mtu = 1492;
    let took = net.run(1_000 * S, |net| net.known().size > 1400);
    assert_eq!(net.known().size, 1492);
    assert!(took <= 605 * S, "{took:?}");
}

#[test]
fn a_path_that_came_back_is_looked_at_again_at_once() {
    let mut net = Net::new(1400, 1500, false);
    net.run(60 * S, complete);
    net.mtu = 1500;
    let back = Conditions { up_since: Some(net.now), ..conditions(1500, false, net.rtt, 0.0) };
    net.searches.set(path(0), back, net.now);
    let took = net.run(60 * S, |net| net.known().size == 1500);
    assert!(took < S, "{took:?}");
}

#[test]
fn a_path_that_is_down_keeps_its_mtu_and_is_asked_ever_more_slowly() {
    let mut net = Net::new(1400, 1500, false);
    net.run(60 * S, complete);
    net.mtu = 0;
    net.run(60 * S, |_| false);
    assert_eq!(net.known(), Known { size: 1400, how: How::Searched, ipv6: false });
    assert_eq!(net.state(), State::Base);
    let before = net.sent;
    net.run(300 * S, |_| false);
    assert!(net.sent - before <= 40, "{} probes in 5 minutes", net.sent - before);
    net.mtu = 1400;
    net.run(60 * S, complete);
    assert_eq!(net.known().size, 1400);
}

#[test]
fn a_peer_that_never_answers_leaves_the_configured_mtu() {
    let mut net = Net::new(0, 1500, true);
    net.run(120 * S, |_| false);
    assert_eq!(net.known(), Known { size: 1500, how: How::Configured, ipv6: true });
    let report = net.searches.report(&path(0), net.now).unwrap();
    assert!(!report.contact);
}

#[test]
fn a_path_below_the_base_size_is_found_over_ipv4_and_held_at_1280_over_ipv6() {
    let mut net = Net::new(900, 1500, false);
    net.run(60 * S, |net| net.known().how == How::Searched);
    assert_eq!((net.known().size, net.state()), (900, State::Error));
    net.mtu = 1500;
    net.run(120 * S, complete);
    assert_eq!(net.known().size, 1500, "it is left when more gets through");
    let mut net = Net::new(900, 1500, true);
    net.run(60 * S, |net| net.known().how == How::Base);
    assert_eq!((net.known().size, net.state()), (1280, State::Error));
    // A path in use that shrinks below the base.
    let mut net = Net::new(1500, 1500, false);
    net.run(60 * S, complete);
    net.mtu = 1000;
    net.run(60 * S, |net| net.known().size <= 1000);
    net.run(60 * S, |net| net.known().how == How::Searched);
    assert_eq!((net.known().size, net.state()), (1000, State::Error));
}

#[test]
fn acknowledgements_that_nobody_asked_for_change_nothing() {
    let mut net = Net::new(1400, 1500, false);
    net.run(60 * S, complete);
    for (sequence, size) in [(1, 1500), (2, 1500), (u64::MAX, 1500), (3, 1400), (0, 0)] {
        assert!(!net.searches.acknowledged(path(0), sequence, size, net.now), "{sequence} {size}");
        assert!(!net.searches.acknowledged(path(9), sequence, size, net.now), "{sequence} {size}");
    }
    assert_eq!(net.known().size, 1400);
}

#[test]
fn thousands_of_paths_stay_inside_the_budget_and_spread_evenly() {
    let mut net = Net::new(1500, 1500, false);
    net.narrow = Some(1423);
    for number in 1..4_000 {
        net.searches.set(path(number), conditions(1500, false, net.rtt, 0.0), net.now);
    }
    net.run(200 * S, |_| false);
    for number in 0..4_000 {
        let report = net.searches.report(&path(number), net.now).unwrap();
        assert_eq!(report.known.size, net.mtu_of(&path(number)), "{number} {report:?}");
    }
    let budget = Settings::default().budget as usize;
    // Every second, wherever it begins.
    let busiest = (0..net.sent_at.len()).map(|first| {
        let end = net.sent_at[first] + S;
        net.sent_at[first..].partition_point(|at| *at < end)
    });
    assert!(busiest.max().unwrap() <= budget + 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Over random loss an MTU is never taken for larger than it is, and seldom for smaller.
    #[test]
    fn loss_never_makes_an_mtu_too_large(mtu in 1280_u16..=9000, jumbo: bool, ipv6: bool, loss in 0.0..0.2_f64, seed: u64) {
        let max = if jumbo { 9000 } else { 1500 };
        let mtu = mtu.min(max);
        let mut net = Net::lossy(mtu, max, ipv6, loss, seed);
        net.run(120 * S, complete);
        prop_assert!(net.known().how == How::Searched, "{:?} {:?}", net.known(), net.state());
        prop_assert!(net.known().size <= mtu);
        prop_assert!(net.sent <= 250, "{} probes", net.sent);
        // Whatever happens later.
        net.run(60 * S, |_| false);
        prop_assert!(net.highest <= mtu, "{} of {mtu}", net.highest);
    }

    /// The largest inner packet makes a tunnel packet that fits, by WireGuard's padding, and one byte more doesn't.
    #[test]
    fn the_largest_packet_fits_to_the_byte(configured in 1280_u16..9000, size in 576_u16..9000, ipv6: bool, wider in 0_u16..200) {
        let settings = crate::engine::settings::Settings::default();
        let mut path = Path::new(Time(0), &settings, configured, None);
        path.set_underlay(Known { size, how: How::Searched, ipv6 });
        let room = path.room();
        prop_assert_eq!(room, configured.min(size - if ipv6 { 80 } else { 60 }));
        let interface = room.saturating_add(wider / 3 * 3).max(1280);
        path.fit_mtu(interface);
        let padded = |length: u16| length.next_multiple_of(16).min(interface).max(length);
        prop_assert!(padded(path.mtu()) <= room);
        prop_assert!(path.mtu() == interface || padded(path.mtu() + 1) > room);
    }

    /// Any number of changes of the network, and any messages, never make the search spin or hang.
    #[test]
    fn a_search_goes_on_through_any_history(
        steps in prop::collection::vec((0_u16..2000, 0_u16..=u16::MAX, 0_u64..4000), 1..40),
        seed: u64,
    ) {
        let mut net = Net::lossy(1500, 1500, false, 0.1, seed);
        for (mtu, hint, pause) in steps {
            net.mtu = mtu;
            net.searches.too_big(path(0), hint, net.now);
            net.searches.acknowledged(path(0), u64::from(hint), mtu, net.now);
            net.run(Duration::from_millis(pause), |_| false);
        }
        prop_assert!(net.sent <= 4_000);
        (net.mtu, net.loss) = (1437, 0.0);
        net.run(900 * S, |_| false);
        prop_assert_eq!(net.known().size, 1437);
    }
}

#[test]
fn with_a_fifth_of_the_packets_lost_each_way_nearly_all_results_are_exact() {
    let mut exact = 0;
    let mut probes = 0;
    for seed in 0..300 {
        let mut net = Net::lossy(1423, 1500, false, 0.2, seed);
        net.run(120 * S, complete);
        exact += u32::from(net.known().size == 1423);
        probes += net.sent;
    }
    println!("20 % loss each way: {exact} of 300 exact, {} probes on average", probes / 300);
    assert!(exact >= 285, "{exact} of 300");
}

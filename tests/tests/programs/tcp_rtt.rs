//! Round-trip time of TCP from the flows' own timestamps.

use std::time::{Duration, Instant};

use etherparse::{TcpHeader, TcpOptionElement};
use sdwan_common::abi::*;
use sdwan_tests::pace::paced;

use crate::load::{Programs, privileged};
use crate::mesh::*;
use crate::packets::{Spec, Transport};
use crate::run::{Context, OK, REDIRECT, run};

const HERE: &str = "10.1.0.5";
const THERE: &str = "10.2.0.9";
/// Between two measurements by one path, as the object has it when the loader says nothing.
const INTERVAL: Duration = Duration::from_millis(100);
/// One tick of the coarse clock, and room.
const TICK: Duration = Duration::from_millis(20);

/// A TCP packet as these tests need it.
#[derive(Clone, Copy, Debug)]
struct Segment {
    ports: (u16, u16),
    syn: bool,
    /// The packet's own timestamp, and the one that it echoes.
    timestamps: Option<(u32, u32)>,
    payload: usize,
}

const DATA: Segment = Segment { ports: (40_000, 443), syn: false, timestamps: Some((1_000, 5)), payload: 100 };

impl Segment {
    fn at(self, timestamp: u32) -> Self {
        Self { timestamps: Some((timestamp, 5)), ..self }
    }

    /// A pure acknowledgement of the reverse flow that echoes a timestamp.
    fn echo(self, timestamp: u32) -> Self {
        let ports = (self.ports.1, self.ports.0);
        Self { ports, syn: false, timestamps: Some((77, timestamp)), payload: 0 }
    }

    fn between(self, source: &str, destination: &str) -> Spec {
        use TcpOptionElement::{MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp};
        let mut header = TcpHeader::new(self.ports.0, self.ports.1, 1, 1_000);
        (header.syn, header.ack) = (self.syn, !self.syn);
        let mut options = match self.syn {
            true => vec![MaximumSegmentSize(1_200), SelectiveAcknowledgementPermitted],
            false => vec![Noop, Noop],
        };
        options.extend(self.timestamps.map(|(own, echoed)| Timestamp(own, echoed)));
        header.set_options(&options).expect("they fit");
        let mut bytes = header.to_bytes().to_vec();
        bytes.resize(bytes.len() + self.payload, 7);
        Spec::between(source, destination, Transport::Raw(6)).with(|spec| spec.payload = bytes)
    }
}

/// Packets leave from `HERE` to `THERE` and come back.
struct Wire {
    programs: Programs,
    addresses: (&'static str, &'static str),
}

impl Wire {
    fn new() -> Self {
        let mut programs = mesh();
        // The tests forward nothing to a LAN.
        programs.change("config", 0, |config: &mut Config| config.fast_path = fast_path::TO_TUNNEL);
        Self { programs, addresses: (HERE, THERE) }
    }

    fn leave(&self, segment: Segment) {
        let spec = segment.between(self.addresses.0, self.addresses.1);
        assert_eq!(run(self.programs.program("lan_ingress"), &spec.frame(), Context::default()).verdict, REDIRECT);
    }

    fn come_back(&self, segment: Segment) {
        let spec = segment.between(self.addresses.1, self.addresses.0);
        let outcome = run(self.programs.program("tunnel_ingress"), &spec.frame(), Context::default());
        assert_eq!((outcome.verdict, outcome.data), (OK, spec.frame()), "the packet is left as it is");
    }

    fn measured(&mut self, path: u32) -> Vec<Duration> {
        let record: TcpRtt = self.programs.get("tcp_rtt", path);
        let times = record.entries.iter().filter(|entry| **entry != 0).map(|entry| u64::from(*entry as u32));
        let times: Vec<_> = times.map(Duration::from_micros).collect();
        assert_eq!(times.len(), (record.count as usize).min(TCP_RTTS));
        times
    }

    fn awaited(&mut self) -> usize {
        let samples = (0..capacity::TCP_SAMPLES).filter(|slot| {
            let sample: TcpSample = self.programs.get("tcp_samples", *slot);
            sample.sent_ns != 0
        });
        samples.count()
    }
}

#[test]
fn the_first_packet_with_a_new_timestamp_is_measured_to_its_echo() {
    if !privileged("the_first_packet_with_a_new_timestamp_is_measured_to_its_echo") {
        return;
    }
    let mut wire = Wire::new();
    let wait = Duration::from_millis(30);
    for (number, addresses) in [(HERE, THERE), ("fd01::5", "fd02::9")].into_iter().enumerate() {
        wire.addresses = addresses;
        std::thread::sleep(INTERVAL + TICK);
        // Its turn: the timestamp that the flow had before is learnt.
        wire.leave(DATA.at(1_000));
        wire.leave(DATA.at(1_000));
        assert_eq!(wire.awaited(), 0, "older packets may have had this timestamp");
        let left = Instant::now();
        wire.leave(DATA.at(1_001));
        assert_eq!(wire.awaited(), 1);
        std::thread::sleep(wait);
        // The same timestamp again: the echo is that of the first one.
        wire.leave(DATA.at(1_001));
        wire.come_back(DATA.echo(1_000));
        assert_eq!(wire.measured(FIBRE).len(), number, "an echo of an older one");
        wire.come_back(DATA.echo(1_001));
        let most = left.elapsed();
        let measured = wire.measured(FIBRE);
        assert_eq!(measured.len(), number + 1, "{addresses:?}");
        assert!((wait..=most + Duration::from_millis(1)).contains(&measured[number]), "{measured:?}, {most:?}");
        wire.come_back(DATA.echo(1_001));
        assert_eq!(wire.measured(FIBRE).len(), number + 1, "once");
    }
    assert!(wire.measured(RADIO).is_empty());
}

#[test]
fn a_syn_needs_no_packet_before_it() {
    if !privileged("a_syn_needs_no_packet_before_it") {
        return;
    }
    let mut wire = Wire::new();
    wire.leave(Segment { syn: true, payload: 0, ..DATA.at(u32::MAX) });
    wire.come_back(Segment { syn: true, ..DATA.echo(u32::MAX) });
    assert_eq!(wire.measured(FIBRE).len(), 1);
}

#[test]
fn a_timestamp_that_wraps_around_is_newer() {
    if !privileged("a_timestamp_that_wraps_around_is_newer") {
        return;
    }
    let mut wire = Wire::new();
    wire.leave(DATA.at(u32::MAX));
    wire.leave(DATA.at(0));
    wire.come_back(DATA.echo(0));
    assert_eq!(wire.measured(FIBRE).len(), 1);
}

#[test]
fn a_round_trip_belongs_to_the_path_that_the_packet_left_by() {
    if !privileged("a_round_trip_belongs_to_the_path_that_the_packet_left_by") {
        return;
    }
    let mut wire = Wire::new();
    wire.programs.replace_set(DEFAULT, path_set(DEFAULT, &[(RADIO, 0)]));
    wire.leave(DATA.at(1));
    wire.leave(DATA.at(2));
    // Everything in these tests comes back by the fibre.
    wire.come_back(DATA.echo(2));
    assert_eq!((wire.measured(FIBRE).len(), wire.measured(RADIO).len()), (0, 1));
}

#[test]
fn what_is_no_echo_of_a_measured_packet_is_not_measured() {
    if !privileged("what_is_no_echo_of_a_measured_packet_is_not_measured") {
        return;
    }
    type Case = (&'static str, fn(&Wire));
    let cases: [Case; 8] = [
        ("pure acknowledgements are not answered at once", |wire| {
            for timestamp in 1..5 {
                wire.leave(Segment { payload: 0, ..DATA.at(timestamp) });
                wire.come_back(DATA.echo(timestamp));
            }
        }),
        ("a flow without timestamps", |wire| {
            for _ in 1..5 {
                wire.leave(Segment { timestamps: None, ..DATA });
                wire.come_back(Segment { timestamps: None, ..DATA.echo(0) });
            }
        }),
        ("a timestamp that never changes", |wire| {
            (0..5).for_each(|_| wire.leave(DATA));
            wire.come_back(DATA.echo(1_000));
        }),
        ("a timestamp that goes back", |wire| {
            wire.leave(DATA.at(9));
            wire.leave(DATA.at(8));
            wire.come_back(DATA.echo(8));
        }),
        ("an echo of nothing", |wire| (0..100).for_each(|timestamp| wire.come_back(DATA.echo(timestamp)))),
        ("an echo of a later one, and then ours", |wire| {
            wire.leave(DATA.at(1));
            wire.leave(DATA.at(2));
            wire.come_back(DATA.echo(3));
            wire.come_back(DATA.echo(2));
        }),
        ("an echo in another flow", |wire| {
            wire.leave(DATA.at(1));
            wire.leave(DATA.at(2));
            wire.come_back(Segment { ports: (443, 40_001), ..DATA.echo(2) });
            wire.come_back(Segment { ports: (40_000, 443), ..DATA.echo(2) });
        }),
        ("an echo without timestamps", |wire| {
            wire.leave(DATA.at(1));
            wire.leave(DATA.at(2));
            wire.come_back(Segment { timestamps: None, ..DATA.echo(2) });
        }),
    ];
    for (description, case) in cases {
        let mut wire = Wire::new();
        case(&wire);
        assert!(wire.measured(FIBRE).is_empty(), "{description}");
    }
}

#[test]
fn options_that_are_cut_short_or_contradict_themselves_are_left_alone() {
    if !privileged("options_that_are_cut_short_or_contradict_themselves_are_left_alone") {
        return;
    }
    let mut wire = Wire::new();
    let header = |options: &[u8]| {
        let mut bytes = DATA.between(HERE, THERE).payload[..20].to_vec();
        bytes[12] = ((20 + options.len()) as u8 / 4) << 4;
        [&bytes[..], options, &[7; 4]].concat()
    };
    let timestamps = [8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let cases = [
        [&[8, 9][..], &timestamps[2..], &[0; 2]].concat(),
        [&[2, 0][..], &timestamps].concat(),
        [&[0, 1][..], &timestamps].concat(),
        vec![1; 40],
        vec![8, 10, 0, 0],
        [&[3, 255][..], &timestamps].concat(),
    ];
    for options in cases {
        let spec = Spec::between(HERE, THERE, Transport::Raw(6)).with(|spec| spec.payload = header(&options));
        run(wire.programs.program("lan_ingress"), &spec.frame(), Context::default());
        let back = Spec::between(THERE, HERE, Transport::Raw(6)).with(|spec| spec.payload = header(&options));
        run(wire.programs.program("tunnel_ingress"), &back.frame(), Context::default());
        assert_eq!(wire.awaited(), 0, "{options:?}");
        wire.programs.change("path_live", FIBRE, |live: &mut PathLive| live.tcp_due_ns = 0);
    }
}

#[test]
fn a_flow_that_falls_silent_loses_its_turn_to_another() {
    if !privileged("a_flow_that_falls_silent_loses_its_turn_to_another") {
        return;
    }
    let mut wire = Wire::new();
    let other = Segment { ports: (50_000, 80), ..DATA };
    wire.leave(DATA.at(1));
    wire.leave(other.at(1));
    wire.leave(other.at(2));
    assert_eq!(wire.awaited(), 0, "it is not the other's turn");
    std::thread::sleep(Duration::from_millis(50) + TICK);
    wire.leave(other.at(3));
    wire.leave(other.at(4));
    wire.come_back(other.echo(4));
    assert_eq!(wire.measured(FIBRE).len(), 1);
}

#[test]
fn a_flood_of_timestamps_takes_no_more_than_its_share_and_forged_echoes_nothing() {
    if !privileged("a_flood_of_timestamps_takes_no_more_than_its_share_and_forged_echoes_nothing") {
        return;
    }
    let mut wire = Wire::new();
    let packets = paced(100_000.0) as u32;
    let start = Instant::now();
    for number in 0..packets {
        let ports = ((number % 60_000) as u16, (number / 60_000) as u16 + 80);
        let segment = Segment { ports, syn: number % 2 == 0, ..DATA.at(number) };
        wire.leave(segment);
        // An echo of some other timestamp, in every flow.
        wire.come_back(segment.echo(number.wrapping_mul(0x9e37_79b9) | 1 << 31));
    }
    let turns = (start.elapsed().as_millis() / INTERVAL.as_millis()) as usize + 2;
    let awaited = wire.awaited();
    println!("{packets} packets: {awaited} awaited, at most {turns} turns");
    assert!(awaited <= turns, "{awaited} of at most {turns}");
    assert!(wire.measured(FIBRE).is_empty(), "none of the echoes was right");
    // It goes on as before.
    std::thread::sleep(INTERVAL + TICK);
    wire.leave(Segment { syn: true, ports: (61_000, 443), ..DATA.at(5) });
    wire.come_back(Segment { ports: (61_000, 443), ..DATA }.echo(5));
    assert_eq!(wire.measured(FIBRE).len(), 1);
}

#[test]
fn the_last_measurements_of_a_path_are_kept() {
    if !privileged("the_last_measurements_of_a_path_are_kept") {
        return;
    }
    let mut wire = Wire::new();
    let rounds = TCP_RTTS as u32 + 10;
    for number in 0..rounds {
        wire.programs.change("path_live", FIBRE, |live: &mut PathLive| live.tcp_due_ns = 0);
        let segment = Segment { syn: true, ports: (1_000 + number as u16, 443), ..DATA.at(number) };
        wire.leave(segment);
        wire.come_back(segment.echo(number));
    }
    assert_eq!(wire.programs.get::<TcpRtt>("tcp_rtt", FIBRE).count, rounds);
    assert_eq!(wire.measured(FIBRE).len(), TCP_RTTS);
    let path = wire.programs.get::<Path>("paths", FIBRE);
    assert_eq!(path.site, SITE, "and nothing else of the path is touched");
}

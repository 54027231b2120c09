//! Packets from outside that are forged, replayed, truncated, oversized or too many change nothing and are counted.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use sdwan_common::stamp::{BASE_LENGTH, ErrorEstimate, ReflectorPacket, SenderPacket, Timestamp};
use sdwan_tests::bed::{Bed, Namespace};
use sdwan_tests::needs_bed;

use crate::{PORT, Reflector, addresses, answered, bed, key_file, sdwan, session};

fn question(sequence: u32) -> [u8; BASE_LENGTH] {
    let timestamp = Timestamp { seconds: 1_000 + sequence, nanoseconds: 0 };
    SenderPacket { sequence, timestamp, error_estimate: ErrorEstimate::OURS, session: 5 }.encode()
}

/// Sends packets from an address and counts the answers, none of which is longer than the longest question.
fn ask(from: &Namespace, local: SocketAddr, to: SocketAddr, packets: &[Vec<u8>]) -> usize {
    let longest = packets.iter().map(Vec::len).max().unwrap_or(0);
    from.run(|| {
        let socket = UdpSocket::bind(local).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        let mut buffer = vec![0; 65_535];
        let mut answers = 0;
        let mut receive = |answers: &mut usize| {
            while let Ok((length, source)) = socket.recv_from(&mut buffer) {
                assert!(source == to && length <= longest, "{length} bytes from {source}");
                *answers += 1;
            }
        };
        for (index, packet) in packets.iter().enumerate() {
            socket.send_to(packet, to).expect("sent");
            if index % 64 == 63 {
                receive(&mut answers);
            }
        }
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500) {
            receive(&mut answers);
        }
        answers
    })
    .expect("the namespace is entered")
}

fn ends(bed: &Bed) -> [(SocketAddr, SocketAddr); 2] {
    let (from, to) = (addresses(bed, "a"), addresses(bed, "b"));
    [0, 1].map(|family| (SocketAddr::new(from[family], 0), SocketAddr::new(to[family], PORT)))
}

#[test]
fn a_flood_is_answered_at_its_rate_and_others_keep_theirs() {
    needs_bed!();
    let bed = bed();
    let reflector = Reflector::start(&bed, "reflector", &["--source-pps", "50"]);
    let [(from, to), (_, other)] = ends(&bed);
    let flood: Vec<Vec<u8>> = (0..5_000).map(|sequence| question(sequence).to_vec()).collect();
    let start = Instant::now();
    let answers = ask(bed.site("a"), from, to, &flood);
    let most = 50.0 * (2.0 + start.elapsed().as_secs_f64());
    assert!((50.0..most).contains(&(answers as f64)), "{answers} answers, at most {most}");
    let report = answered(&bed, other, &["-n", "10", "-i", "30ms"]);
    assert_eq!(report["answered"], 10, "another source: {report:#}");
    let counts = reflector.finish();
    let refused = counts["source-rate-limited"].as_u64().expect("a count");
    // What the socket's buffer could not hold, nobody counts.
    assert!(refused > 1_000, "{counts}");
    assert_eq!(counts["answered"].as_u64(), Some(answers as u64 + 10), "{counts}");
}

#[test]
fn truncated_oversized_foreign_and_reflected_packets_get_no_answer_and_are_counted_by_reason() {
    needs_bed!();
    let bed = bed();
    let reflector = Reflector::start(&bed, "reflector", &["--allow", "fd00::/8", "--allow", "10.0.0.0/8"]);
    drop(reflector.finish());
    let [(v4, to4), (v6, to6)] = ends(&bed);
    let allow = format!("{}/128", v6.ip());
    let reflector = Reflector::start(&bed, "narrow", &["--allow", &allow, "--source-pps", "0"]);
    let site = bed.site("a");
    assert_eq!(ask(site, v4, to4, &vec![question(0).to_vec(); 3]), 0, "not an allowed source");
    let short: Vec<Vec<u8>> = (0..BASE_LENGTH).map(|length| question(0)[..length].to_vec()).collect();
    assert_eq!(ask(site, v6, to6, &short), 0);
    let long: Vec<Vec<u8>> = [9_001, 20_000].map(|length| [question(0).to_vec(), vec![1; length - 44]].concat()).into();
    assert_eq!(ask(site, v6, to6, &long), 0);
    for port in [862, PORT] {
        assert_eq!(ask(site, SocketAddr::new(v6.ip(), port), to6, &[question(0).to_vec()]), 0, "from port {port}");
    }
    // The longest that is answered, and one that looks like an answer.
    let longest = [question(0).to_vec(), vec![0; 9_000 - BASE_LENGTH]].concat();
    assert_eq!(ask(site, v6, to6, &[longest]), 1);
    let counts = reflector.finish();
    let expected = serde_json::json!({
        "answered": 1, "oversized": 2, "reflector-port": 2, "source-not-allowed": 3, "tlv-unrecognized": 1,
        "truncated": 44,
    });
    assert_eq!(counts, expected);
}

#[test]
fn forged_and_replayed_packets_do_not_move_an_authenticated_session() {
    needs_bed!();
    let bed = bed();
    let (key, other) = (key_file(&bed, "key", 7), key_file(&bed, "other", 8));
    let (key, other) = (key.to_str().expect("text"), other.to_str().expect("text"));
    let reflector = Reflector::start(&bed, "reflector", &["--key-file", key, "--source-pps", "0"]);
    let [(from, to), _] = ends(&bed);
    // An attacker who sees a session's packets sends them again from the very same address and port.
    let recorded = record(&bed, to, key);
    let unauthenticated = vec![[question(0).to_vec(), vec![0; 68]].concat()];
    assert_eq!(ask(bed.site("a"), from, to, &unauthenticated), 0);
    let (report, well) = session(&bed, to, &["-n", "3", "-i", "5ms", "--timeout", "300ms", "--key-file", other]);
    assert!(!well && report["answered"] == 0, "another key: {report:#}");
    let (report, well) = session(&bed, to, &["-n", "3", "-i", "5ms", "--timeout", "300ms"]);
    assert!(!well && report["lost"] == 3, "no key: {report:#}");
    let (source, packets) = recorded;
    assert_eq!(ask(bed.site("a"), source, to, &packets), 0, "each was answered before");
    let report = answered(&bed, to, &["-n", "5", "-i", "5ms", "--key-file", key]);
    assert_eq!((&report["answered"], &report["tlvs"]), (&5.into(), &"read".into()));
    let counts = reflector.finish();
    assert_eq!(counts["replayed"].as_u64(), Some(packets.len() as u64), "{counts}");
    assert_eq!((&counts["bad-hmac"], &counts["truncated"]), (&4.into(), &3.into()), "{counts}");
}

/// The packets of a session, and where they came from: a go-between at the sender's site writes them down.
fn record(bed: &Bed, to: SocketAddr, key: &str) -> (SocketAddr, Vec<Vec<u8>>) {
    let site = bed.site("a");
    let middle = site.run(|| UdpSocket::bind("127.0.0.1:0").expect("a socket")).expect("entered");
    let onward =
        site.run(|| UdpSocket::bind(SocketAddr::new(addresses(bed, "a")[0], 0)).expect("a socket")).expect("entered");
    let (local, source) = (middle.local_addr().expect("an address"), onward.local_addr().expect("an address"));
    let recorder = std::thread::spawn(move || {
        let mut packets = Vec::new();
        let mut buffer = [0; 2_000];
        for socket in [&middle, &onward] {
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        }
        while packets.len() < 4 {
            let (length, sender) = middle.recv_from(&mut buffer).expect("a question");
            packets.push(buffer[..length].to_vec());
            onward.send_to(&buffer[..length], to).expect("passed on");
            let length = onward.recv(&mut buffer).expect("an answer");
            middle.send_to(&buffer[..length], sender).expect("passed back");
        }
        packets
    });
    let report = answered(bed, local, &["-n", "4", "-i", "20ms", "--key-file", key]);
    assert_eq!(report["answered"], 4);
    (source, recorder.join().expect("the go-between ends"))
}

#[test]
fn a_reflector_that_lies_changes_no_figure_of_the_session() {
    needs_bed!();
    let bed = bed();
    let [(_, to), _] = ends(&bed);
    let liar = bed.site("b").run(|| UdpSocket::bind(to).expect("a socket")).expect("entered");
    let elsewhere = bed.site("b").run(|| UdpSocket::bind(SocketAddr::new(to.ip(), 0)).expect("a socket"));
    let elsewhere = elsewhere.expect("entered");
    let answers = std::thread::spawn(move || {
        let mut buffer = [0; 2_000];
        let mut questions = 0;
        liar.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        while questions < 10 {
            let (length, sender) = liar.recv_from(&mut buffer).expect("a question");
            questions += 1;
            let asked = SenderPacket::decode(&buffer[..length]).expect("a question");
            let good = ReflectorPacket::answer(&asked, questions, asked.timestamp, asked.timestamp, 1);
            let other_time = Timestamp { seconds: asked.timestamp.seconds ^ 1, ..asked.timestamp };
            let send = |packet: &ReflectorPacket| liar.send_to(&packet.encode(), sender).expect("sent");
            send(&ReflectorPacket { sender_timestamp: other_time, ..good });
            send(&ReflectorPacket { sender_sequence: asked.sequence + 1_000, ..good });
            send(&ReflectorPacket { session: asked.session.wrapping_add(1).max(1), ..good });
            liar.send_to(&good.encode()[..43], sender).expect("sent");
            elsewhere.send_to(&good.encode(), sender).expect("sent");
            if questions <= 5 {
                send(&good);
                send(&good);
            }
        }
    });
    let report = answered(&bed, to, &["-n", "10", "-i", "20ms", "--timeout", "500ms", "--base"]);
    answers.join().expect("the liar ends");
    let count = |pointer: &str| report.pointer(pointer).and_then(|value| value.as_u64()).expect("a count");
    assert_eq!((count("/sent"), count("/answered"), count("/lost")), (10, 5, 5), "{report:#}");
    assert_eq!((count("/duplicates"), count("/unknown")), (5, 20), "{report:#}");
    assert_eq!((count("/refused/other_session"), count("/refused/truncated")), (10, 10), "{report:#}");
    assert_eq!(count("/refused/foreign"), 10, "{report:#}");
}

#[test]
fn a_port_where_nobody_listens_ends_with_no_answer_and_a_hint() {
    needs_bed!();
    let bed = bed();
    let [(_, to), _] = ends(&bed);
    let output = sdwan(&bed, "a", &["measure", "stamp", &to.to_string(), "-n", "2", "-i", "5ms", "--timeout", "200ms"])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("2 sent, 0 answered, 2 lost (100.00 %)") && text.contains("no answer from"), "{text}");
}

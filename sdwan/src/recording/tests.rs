use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::recorder::Sink;
use super::*;
use crate::engine::estimate::ProbeReply;
use crate::engine::policy::default_policies;
use crate::engine::types::{LocalUplink, RemoteSite, RemoteUplink, TunnelKey, UplinkIndex};

const MS: Duration = Duration::from_millis(1);
const START: Time = Time(5_000_000_000);
const PEER: SiteId = SiteId([7; 16]);

fn index(number: u8) -> UplinkIndex {
    UplinkIndex::new(number).expect("a small number")
}

fn header() -> Header {
    Header {
        sdwan_recording: VERSION,
        program: env!("CARGO_PKG_VERSION").into(),
        site: SiteId([1; 16]),
        name: "a".into(),
        started: START,
        started_unix_ns: 1_700_000_000_000_000_000,
        settings: Settings { switch_margin: 0.1 + 0.2, ..Settings::default() },
        local: Local { id: SiteId([1; 16]), prefixes: vec!["10.1.0.0/24".parse().expect("a prefix")], mtu: None },
        policies: PolicySet { policies: default_policies(), zones: vec!["lan".into()] },
    }
}

fn uplinks() -> Vec<LocalUplink> {
    let uplink = |number: u8| LocalUplink {
        index: index(number),
        name: format!("isp{number}"),
        interface: format!("wan{number}"),
        ifindex: 10,
        carrier: true,
        addresses: vec![std::net::IpAddr::from([198, 51, 100, number])],
        gateways: Vec::new(),
        mtu: 1500,
        public_addresses: Vec::new(),
        cost: 0,
        rate_up: None,
        rate_down: None,
    };
    vec![uplink(0), uplink(1)]
}

fn peer() -> RemoteSite {
    RemoteSite {
        id: PEER,
        name: "b".into(),
        wireguard_key: [9; 32],
        next_wireguard_key: None,
        base_port: 51820,
        overlay: std::net::IpAddr::from([100, 64, 0, 2]),
        prefixes: vec!["10.2.0.0/24".parse().expect("a prefix")],
        uplinks: vec![RemoteUplink {
            index: index(0),
            name: "isp0".into(),
            addresses: vec![std::net::IpAddr::from([198, 51, 100, 9])],
            mtu: 1500,
            rate_down_kbps: Some(50_000),
        }],
    }
}

/// An engine that finds a peer by two paths, of which one is cut after two seconds and mended after four.
fn work(engine: &mut RecordedEngine) {
    let tunnels = [0, 1].map(|local| TunnelKey { local: index(local), remote: index(0) });
    engine.handle(Input::Tunnels(tunnels.into()), START);
    engine.handle(Input::Uplinks(uplinks()), START);
    engine.handle(Input::Site(peer()), START);
    let mut answers: Vec<(Time, PathKey, u32, Time)> = Vec::new();
    for step in 0..16_000 {
        let now = START + MS / 2 * step;
        let mut due = Vec::new();
        answers.retain(|answer| {
            if answer.0 <= now {
                due.push(*answer);
                false
            } else {
                true
            }
        });
        for (at, path, sequence, sent) in due {
            let reply = ProbeReply {
                sequence,
                reflector_sequence: sequence + 1,
                sent_ns: sent.0,
                reflector_received_ns: sent.0 + 1,
                reflector_sent_ns: sent.0 + 1,
                received_ns: at.0,
                synchronized: false,
                clock_error_ns: 0,
            };
            engine.handle(Input::ProbeReply { path, reply }, at);
        }
        engine.poll(now);
        // Probes wait for each other, deadlines don't.
        let probes = if step % 20 == 0 { engine.due_probes(now) } else { Vec::new() };
        for probe in probes {
            let cut = probe.path.tunnel.local == index(0) && (4_000..8_000).contains(&step);
            if !cut {
                let rtt = MS * (9 + 3 * u32::from(probe.path.tunnel.local.get()) + probe.sequence % 3);
                answers.push((now + rtt, probe.path, probe.sequence, now));
            }
        }
        engine.take_changes(now);
    }
}

/// Keeps what is written, and can be told to fail, or to wait for a permit per write.
#[derive(Clone, Default)]
struct Memory {
    bytes: Arc<Mutex<Vec<u8>>>,
    fails: Arc<Mutex<u32>>,
    permits: Option<Arc<Mutex<Receiver<()>>>>,
}

impl Memory {
    fn waiting() -> (Self, Sender<()>) {
        let (sender, permits) = channel();
        sender.send(()).expect("for the header");
        (Self { permits: Some(Arc::new(Mutex::new(permits))), ..Self::default() }, sender)
    }

    fn text(&self) -> Vec<u8> {
        self.bytes.lock().expect("nobody panicked").clone()
    }

    fn lines(&self) -> Vec<Line> {
        let text = self.text();
        let lines = text.split(|byte| *byte == b'\n').skip(1).filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).expect("a line")).collect()
    }
}

impl Sink for Memory {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(permits) = &self.permits {
            // Without a sender there is nothing to wait for any more.
            let _ = permits.lock().expect("nobody panicked").recv();
        }
        let mut fails = self.fails.lock().expect("nobody panicked");
        if *fails > 0 {
            *fails -= 1;
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.bytes.lock().expect("nobody panicked").extend_from_slice(bytes);
        Ok(())
    }
}

/// A record that keeps every line, at once.
#[derive(Debug)]
struct Direct(Arc<Mutex<Vec<u8>>>);

impl Record for Direct {
    fn put(&mut self, line: Line) {
        let mut text = self.0.lock().expect("nobody panicked");
        serde_json::to_writer(&mut *text, &line).expect("a line is plain data");
        text.push(b'\n');
    }
}

/// A whole recording.
fn recording() -> Vec<u8> {
    let mut first = serde_json::to_vec(&header()).expect("plain data");
    first.push(b'\n');
    let text = Arc::new(Mutex::new(first));
    let compilation = Arc::new(header().policies.compile().expect("they compile"));
    let engine = Engine::new(header().settings, header().local, compilation);
    work(&mut RecordedEngine::new(engine, Some(Box::new(Direct(text.clone())))));
    text.lock().expect("nobody panicked").clone()
}

fn poll(at: u64) -> Line {
    Line { at: Time(at), entry: Entry::Poll }
}

#[test]
fn a_recording_replays_to_the_same_events_and_decisions() {
    let text = recording();
    let mut kinds = Vec::new();
    let outcome = replay(&text[..], |_, event| kinds.push(event.kind.name())).expect("it replays");
    assert_eq!(outcome.difference, None);
    assert_eq!(outcome.header, header());
    assert!(outcome.decisions > 5 && outcome.inputs > 200, "{outcome:?}");
    for kind in ["site-up", "path-up", "path-down", "path-recovering", "class-moved"] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
    assert_eq!((outcome.missed, outcome.ended), (0, None));
}

#[test]
fn a_decision_that_was_not_as_recorded_is_found() {
    let text = String::from_utf8(recording()).expect("JSON is text");
    let at = text.lines().position(|line| line.contains("path-down")).expect("a path goes down");
    let tampered = text.replacen("\"up\"]", "\"recovering\"]", 1);
    assert_ne!(text, tampered);
    assert_eq!(replay(tampered.as_bytes(), |_, _| {}).expect("it replays").different, 1);
    // Without the line that says so, the decision comes unrecorded.
    let lines: Vec<&str> = text.lines().enumerate().filter(|(number, _)| *number != at).map(|(_, line)| line).collect();
    let outcome = replay((lines.join("\n") + "\n").as_bytes(), |_, _| {}).expect("it replays");
    let found = outcome.difference.expect("a difference");
    assert_eq!((found.line, found.recorded), (at as u64, Decisions::default()));
}

#[test]
fn what_is_no_recording_is_refused_with_the_number_of_the_line() {
    let text = String::from_utf8(recording()).expect("JSON is text");
    let refusal = |text: &str| replay(text.as_bytes(), |_, _| {}).expect_err("it is refused").to_string();
    for foreign in ["", "hello\n", "{}\n", "[1, 2]\n", "{\"sdwan-recording\":\"x\"}\n", "\0\0\0"] {
        let refused = refusal(foreign);
        assert!(refused.starts_with("line 1 is not the header"), "{foreign:?}: {refused}");
    }
    let newer = text.replacen("\"sdwan-recording\":2,", "\"sdwan-recording\":3,", 1);
    assert!(refusal(&newer).contains("has format 3"), "{}", refusal(&newer));
    let lines = text.lines().count();
    let cut = &text[..text.len() - 9];
    assert!(refusal(cut).starts_with(&format!("line {lines} is cut off")), "{}", refusal(cut));
    assert!(refusal(&text[..40]).starts_with("line 1 is cut off"), "{}", refusal(&text[..40]));
    let wrong = text.replacen("{\"at\":", "{\"when\":", 3);
    assert!(refusal(&wrong).starts_with("line 2 is not a line of a recording: missing field"), "{}", refusal(&wrong));
    let unknown = text.replacen("\"input\":{\"tunnels\"", "\"input\":{\"balloons\"", 1);
    assert!(refusal(&unknown).contains("line 2") && refusal(&unknown).contains("balloons"), "{}", refusal(&unknown));
}

#[test]
fn a_disk_that_is_too_slow_holds_nobody_up_and_the_file_says_what_is_missing() {
    let (memory, permits) = Memory::waiting();
    let mut recorder = Recorder::start_with(memory.clone(), 1 << 30, &header()).expect("it starts");
    let before = std::time::Instant::now();
    for at in 0..50_000 {
        recorder.put(poll(at));
    }
    // The disk takes nothing at all meanwhile.
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    drop(permits);
    drop(recorder);
    let lines = memory.lines();
    let missed: u64 =
        lines.iter().filter_map(|line| if let Entry::Missed(n) = line.entry { Some(n) } else { None }).sum();
    let polls = lines.iter().filter(|line| line.entry == Entry::Poll).count() as u64;
    assert!(missed > 30_000, "{missed}");
    assert_eq!(polls + missed, 50_000);
    assert_eq!(lines.last().map(|line| &line.entry), Some(&Entry::Ended("the daemon stopped".into())));
}

#[test]
fn a_full_disk_costs_lines_and_the_file_says_how_many() {
    let memory = Memory::default();
    let mut recorder = Recorder::start_with(memory.clone(), 1 << 30, &header()).expect("it starts");
    *memory.fails.lock().expect("nobody panicked") = 1;
    for at in 0..10 {
        recorder.put(poll(at));
    }
    std::thread::sleep(Duration::from_millis(1_500));
    recorder.put(poll(10));
    drop(recorder);
    let lines = memory.lines();
    assert!(matches!(lines[0].entry, Entry::Missed(1..=10)), "{lines:?}");
    let missed = if let Entry::Missed(count) = lines[0].entry { count } else { 0 };
    assert_eq!(lines.iter().filter(|line| line.entry == Entry::Poll).count() as u64 + missed, 11, "{lines:?}");
    assert_eq!(lines.len(), 2 + 11 - missed as usize, "nothing but one missing line and the end: {lines:?}");
}

#[test]
fn a_recording_ends_at_its_limit_and_says_so() {
    let memory = Memory::default();
    let limit = 100_000;
    let mut recorder = Recorder::start_with(memory.clone(), limit, &header()).expect("it starts");
    for at in 0..20_000 {
        recorder.put(poll(at));
        if at % 1_000 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    drop(recorder);
    assert!(memory.text().len() as u64 <= limit);
    let Some(Line { entry: Entry::Ended(why), .. }) = memory.lines().pop() else { panic!("no end") };
    assert!(why.contains("limit"), "{why}");
}

#[test]
fn a_recording_is_its_owners_and_a_former_one_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("engine.jsonl");
    for _ in 0..2 {
        let created = RecordFile::create(&file).expect("it is made");
        drop(Recorder::start(created, 1 << 20, &header()).expect("it starts"));
    }
    assert_eq!(std::fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
    for name in ["engine.jsonl", "engine.jsonl.1"] {
        let text = std::fs::read(directory.path().join(name)).expect("it is there");
        let outcome = replay(&text[..], |_, _| {}).expect("it replays");
        assert_eq!(outcome.ended.as_deref(), Some("the daemon stopped"));
    }
    let refused = RecordFile::create(directory.path()).expect_err("a directory is no file").to_string();
    assert!(refused.contains("is not a regular file"), "{refused}");
    let nowhere = RecordFile::create(&directory.path().join("a/b")).expect_err("no such directory").to_string();
    assert!(nowhere.contains("No such file or directory"), "{nowhere}");
}

#[test]
fn half_a_line_is_taken_back_before_the_next_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("engine.jsonl");
    let mut file = RecordFile::create(&path).expect("it is made");
    file.append(b"whole\n").expect("there is room");
    // What a full disk leaves of a write.
    io::Write::write_all(&mut file.file, b"hal").expect("there is room");
    file.dirty = true;
    file.append(b"next\n").expect("there is room again");
    assert_eq!(std::fs::read(&path).expect("it is there"), b"whole\nnext\n");
}

//! Failures of the machine itself: a wrong clock, no memory, a database that breaks while it is open, a flood of forgeries.
//! Forwarding and failover go on, and the operator is told. A full disk is in `faults.rs`.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use sdwan::engine::events::EventKind;
use sdwan::measure::clock::unix_ns;
use sdwan::trust::certificate::CertificateContent;
use sdwan::trust::keys::AuthorityKey;
use sdwan_tests::bed::Cut;
use sdwan_tests::clock::WallClock;
use sdwan_tests::failover::{PORT, QUICK_RETURN, uplink_in_use};
use sdwan_tests::mesh::{Gateway, Mesh, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::{paced, patience};
use sdwan_tests::traffic::{UdpReceiver, UdpSender, UdpSpec};

use crate::attacker::{Attacker, events, refused};
use crate::{PATIENCE, host, mesh_on, two_sites};

const RATE: f64 = 1_000.0;
const YEAR: i64 = 365 * 86_400;
/// Forgeries, and what the daemon may grow by while it refuses them.
const FORGERIES: u64 = 30_000;
const GROWTH_KIB: u64 = 24 << 10;
/// The store tries again after a pause that doubles up to half a minute.
const RECOVERY: Duration = Duration::from_secs(60);

fn quick() -> MeshOptions {
    MeshOptions { extra: QUICK_RETURN.into(), ..MeshOptions::default() }
}

fn voice(mesh: &Mesh) -> (UdpSender, UdpReceiver) {
    let (a, b) = (host(mesh, "a"), host(mesh, "b"));
    let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), PORT)).expect("the receiver starts");
    let sender = UdpSender::start(a, UdpSpec::new(receiver.local(), paced(RATE))).expect("the sender starts");
    sleep(Duration::from_secs(1));
    (sender, receiver)
}

/// Cuts the line in use and mends it; the stream must find the other one within the usual bounds.
fn fails_over(mesh: &Mesh, what: &str, sender: &UdpSender, receiver: &UdpReceiver) {
    let start_ns = unix_ns();
    let uplink = uplink_in_use(mesh).expect("packets are counted");
    mesh.bed().link("a", uplink).cut(Cut::Silent).expect("the line is cut");
    sleep(patience(Duration::from_secs(1)));
    let longest = receiver.snapshot(&sender.sent()).longest_loss_since(start_ns);
    println!("{what}: failover after {longest:?}");
    assert!(longest < Duration::from_millis(500), "{what}: {longest:?}");
    mesh.bed().link("a", uplink).restore().expect("the line is mended");
    mesh.wait_until_up(patience(PATIENCE)).unwrap_or_else(|error| panic!("{what}: {error}"));
}

fn wait_for_problem(gateway: &Gateway, text: &str, there: bool) {
    gateway
        .wait_for(&format!("the status tells {text:?}: {there}"), RECOVERY, |gateway| {
            let problems = gateway.status()?.problems;
            let told = problems.iter().any(|problem| problem.contains(text));
            Ok(if told == there { Ok(()) } else { Err(format!("{problems:?}")) })
        })
        .expect("the operator is told");
}

#[test]
fn a_wall_clock_that_is_wrong_by_a_year_stops_neither_forwarding_nor_failover_and_is_told() {
    needs_bed!();
    let test = "a_wall_clock_that_is_wrong_by_a_year_stops_neither_forwarding_nor_failover_and_is_told";
    if !WallClock::available() {
        eprintln!("skipped: {test}: no C compiler `cc` that could build the clock's library");
        return;
    }
    let mesh = Mesh::prepare(two_sites(), &quick()).expect("the mesh is prepared");
    let clock = WallClock::new(mesh.bed().directory(), "a").expect("the library is built");
    assert!(clock.is_seen().expect("date runs"), "programs take the library");
    let a = mesh.gateway("a");
    a.set_environment(clock.environment());
    mesh.start_daemons().expect("the daemons start");
    mesh.wait_until_up(patience(PATIENCE)).expect("all paths come up");
    let (sender, receiver) = voice(&mesh);
    for by in [YEAR, -YEAR] {
        clock.set(by).expect("the clock is set");
        wait_for_problem(a, "the wall clock was set", true);
        fails_over(&mesh, &format!("clock wrong by {by} s"), &sender, &receiver);
        // A fresh announcement of the other site is believed, too.
        let heard = a.status().expect("the status").refused_announcements;
        mesh.gateway("b").stop().expect("the daemon ends");
        mesh.gateway("b").start().expect("the daemon starts");
        mesh.wait_until_up(patience(PATIENCE)).expect("all paths are up");
        sleep(Duration::from_secs(2));
        let sites = a.sites().expect("the sites");
        assert!(sites.iter().any(|site| site.name == "b" && site.state == "active"), "{sites:?}");
        for reason in ["expired", "not-yet-valid", "clock-skew"] {
            let count = |refused: &std::collections::BTreeMap<String, u64>| refused.get(reason).copied().unwrap_or(0);
            assert_eq!(count(&a.status().expect("the status").refused_announcements), count(&heard), "{reason}");
        }
        clock.set(0).expect("the clock is right again");
        wait_for_problem(a, "the wall clock was set", false);
    }
    let sent = sender.stop().expect("the sender ends");
    let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    assert!(report.longest_loss() < Duration::from_millis(500), "{:?}", report.gaps);
    let told: Vec<String> =
        events(a, EventKind::ClockSet).expect("the events").into_iter().map(|event| event.message).collect();
    for text in ["forward by 365 days", "back by 365 days", "right again"] {
        assert!(told.iter().any(|message| message.contains(text)), "{text:?} in {told:?}");
    }
}

/// A control group in which one process may have hardly any memory. It goes when this is dropped.
struct NoMemory(PathBuf);

impl NoMemory {
    /// Makes it; the reason when this machine lets nobody.
    fn new() -> Result<Self, String> {
        let name = format!("sdwan-test-{}", std::process::id());
        let (first, second) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (root, limit) = if first.is_dir() { (first, "memory.limit_in_bytes") } else { (second, "memory.max") };
        let group = Self(root.join(name));
        let make = || {
            std::fs::create_dir(&group.0)?;
            // Swapping wouldn't end anybody. Where swap isn't counted there is no such file.
            for swap in ["memory.swappiness", "memory.swap.max"] {
                if group.0.join(swap).exists() {
                    std::fs::write(group.0.join(swap), "0")?;
                }
            }
            std::fs::write(group.0.join(limit), "65536")
        };
        make().map_err(|error: std::io::Error| format!("no control group for memory: {error}"))?;
        Ok(group)
    }

    fn take(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("the process is taken in");
    }
}

impl Drop for NoMemory {
    fn drop(&mut self) {
        // Empty by now, unless the test has failed before the process ended.
        drop(std::fs::remove_dir(&self.0));
    }
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn a_daemon_that_the_kernel_ends_for_want_of_memory_costs_no_packet() {
    needs_bed!();
    let group = match NoMemory::new() {
        Ok(group) => group,
        Err(reason) => {
            eprintln!("skipped: a_daemon_that_the_kernel_ends_for_want_of_memory_costs_no_packet: {reason}");
            return;
        }
    };
    let mesh = mesh_on(two_sites(), &quick());
    let (sender, receiver) = voice(&mesh);
    let a = mesh.gateway("a");
    let pid = a.pid().expect("the daemon runs");
    group.take(pid);
    let start = Instant::now();
    while is_running(pid) {
        assert!(start.elapsed() < Duration::from_secs(30), "it does with 64 KiB more");
        // What it answers with takes memory; that it doesn't answer is what is waited for.
        drop(a.text(&["paths", "--quantiles"]));
        sleep(Duration::from_millis(50));
    }
    println!("ended for want of memory after {:?}", start.elapsed());
    sleep(Duration::from_secs(2));
    a.start().expect("the daemon starts again");
    mesh.wait_until_up(patience(PATIENCE)).expect("all paths are up");
    sleep(Duration::from_secs(1));
    let sent = sender.stop().expect("the sender ends");
    let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    assert_eq!(report.lost, 0, "{:?}", report.gaps);
}

#[test]
fn a_database_that_breaks_while_it_is_open_costs_no_traffic_and_is_told() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &quick());
    let a = mesh.gateway("a");
    let (sender, receiver) = voice(&mesh);
    let garbage = format!(
        "cd '{}' && for file in sdwan.db sdwan.db-wal; do dd if=/dev/urandom of=$file bs=4k conv=notrunc \
         count=$(( $(stat -c %s $file) / 4096 )) 2> /dev/null; done",
        a.state().display()
    );
    a.namespace().shell(&garbage).expect("the files are overwritten");
    fails_over(&mesh, "a broken database", &sender, &receiver);
    wait_for_problem(a, "The database is damaged: restart sdwan", true);
    fails_over(&mesh, "a database that is known to be broken", &sender, &receiver);
    a.stop().expect("the daemon ends");
    a.start().expect("the daemon starts");
    mesh.wait_until_up(patience(PATIENCE)).expect("all paths are up");
    let store = a.status().expect("the status").store;
    assert!(store.ok && store.moved_aside.as_ref().is_some_and(|text| text.contains("was damaged")), "{store:?}");
    fails_over(&mesh, "a fresh database", &sender, &receiver);
    let sent = sender.stop().expect("the sender ends");
    let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    assert!(report.longest_loss() < Duration::from_millis(500), "{:?}", report.gaps);
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_flood_of_forged_announcements_neither_grows_the_daemon_nor_costs_traffic() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &quick());
    let (a, attacker) = (mesh.gateway("a"), Attacker::new(&mesh));
    let (sender, receiver) = voice(&mesh);
    let stranger = AuthorityKey::generate();
    // Of the right mesh, each of another site, signed by somebody else.
    let forged = |number: u64| {
        let mut identity = attacker.content().identity;
        identity[..8].copy_from_slice(&number.to_be_bytes());
        let name = format!("nobody-{number}");
        attacker.announce_as(number, CertificateContent { identity, name, ..attacker.content() }, &stranger)
    };
    let pid = a.pid().expect("the daemon runs");
    let before = resident_kib(pid);
    let target = SocketAddr::new(mesh.bed().link("a", "isp1").attachments()[0].address.addr(), sdwan::discovery::PORT);
    let provider = mesh.bed().provider("isp1");
    let socket = provider.run(|| UdpSocket::bind("0.0.0.0:0")).expect("it is entered").expect("a socket");
    for number in 1..=FORGERIES {
        socket.send_to(&forged(number), target).expect("it is sent");
    }
    let most = resident_kib(pid);
    println!("{before} KiB before the flood, {most} KiB after {FORGERIES} forgeries");
    let counted: u64 = ["bad-certificate-signature", "rate-limited"].iter().map(|reason| refused(a, reason)).sum();
    assert!(counted > FORGERIES / 20, "{counted} were refused");
    assert!(most < before + GROWTH_KIB, "{before} KiB, then {most} KiB");
    assert_eq!(a.sites().expect("the sites").len(), 1);
    fails_over(&mesh, "after a flood", &sender, &receiver);
    let sent = sender.stop().expect("the sender ends");
    let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    assert!(report.longest_loss() < Duration::from_millis(500), "{:?}", report.gaps);
}

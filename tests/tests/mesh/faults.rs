//! A full disk and a broken database: the traffic doesn't notice, and the operator is told.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sdwan::engine::events::EventKind;
use sdwan_tests::bed::Cut;
use sdwan_tests::failover::QUICK_RETURN;
use sdwan_tests::mesh::{Gateway, Mesh, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{UdpReceiver, UdpSender, UdpSpec};

use crate::attacker::events;
use crate::{PATIENCE, host, two_sites};

const PORT: u16 = 16_400;
/// The store tries again after a pause that doubles up to half a minute.
const RECOVERY: Duration = Duration::from_secs(60);

/// A mesh whose site a has its state on a small disk of its own.
fn on_a_small_disk() -> Mesh {
    let options = MeshOptions { extra: QUICK_RETURN.into(), ..MeshOptions::default() };
    let mesh = Mesh::prepare(two_sites(), &options).expect("the mesh is prepared");
    mesh.gateway("a").put_state_on_a_disk(8).expect("the state is on a disk of its own");
    mesh.start_daemons().expect("the daemons start");
    mesh.wait_until_up(PATIENCE).expect("all paths come up");
    mesh
}

fn in_state(gateway: &Gateway, line: &str) -> String {
    let state = gateway.state();
    gateway.namespace().shell(&format!("cd '{}' && {line}", state.display())).expect("the command runs")
}

/// The uplink of site a that the stream's flow leaves by.
fn uplink_in_use(mesh: &Mesh) -> &'static str {
    let flows = mesh.gateway("a").flows(Some("voip-video")).expect("the flows are listed");
    let flow = flows.iter().find(|flow| flow.destination_port == PORT).expect("the flow is in the table");
    let tunnel = flow.path.tunnel.expect("its path exists");
    if tunnel.local.get() == 0 { "isp1" } else { "isp2" }
}

/// Waits until the database is written, or fails to be with a text.
fn wait_for_store(gateway: &Gateway, trouble: Option<&str>) {
    let what = format!("the store tells {trouble:?}");
    gateway
        .wait_for(&what, RECOVERY, |gateway| {
            let status = gateway.status()?;
            let told = match trouble {
                Some(text) => {
                    !status.store.ok
                        && status.store.trouble.as_ref().is_some_and(|trouble| trouble.contains(text))
                        && status.problems.iter().any(|problem| problem.contains(text))
                }
                None => status.store.ok && status.store.trouble.is_none(),
            };
            Ok(if told { Ok(()) } else { Err(format!("{:?}", status.store)) })
        })
        .expect("the store's state is shown");
}

fn policy(gateway: &Gateway, name: &str) -> sdwan_tests::bed::Result<String> {
    gateway.text(&["policies", "add", name, "--priority", "250", "--protocol", "tcp", "--destination-port", "8443"])
}

#[test]
fn a_full_disk_and_then_a_broken_database_cost_no_traffic_and_are_told() {
    needs_bed!();
    let mesh = on_a_small_disk();
    let gateway = mesh.gateway("a");
    let (a, b) = (host(&mesh, "a"), host(&mesh, "b"));
    let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), PORT)).expect("the receiver starts");
    let sender = UdpSender::start(a, UdpSpec::new(receiver.local(), 500.0)).expect("the sender starts");
    std::thread::sleep(Duration::from_millis(500));

    gateway.fill_disk().expect("the disk is filled");
    let uplink = uplink_in_use(&mesh);
    mesh.bed().link("a", uplink).cut(Cut::Silent).expect("the line is cut");
    wait_for_store(gateway, Some("Make room on the disk"));
    let log = std::fs::read_to_string(gateway.log()).expect("the log is read");
    assert!(log.contains("Make room on the disk"), "{log}");
    let refusal = policy(gateway, "on-a-full-disk").expect_err("what can't be kept isn't accepted").to_string();
    assert!(refusal.contains("Make room on the disk"), "{refusal}");
    gateway
        .wait_for("the flow leaves the cut line", PATIENCE, |_| {
            let now = uplink_in_use(&mesh);
            Ok(if now == uplink { Err(format!("it is on {now}")) } else { Ok(()) })
        })
        .expect("the traffic fails over");
    mesh.bed().link("a", uplink).restore().expect("the line is mended");
    mesh.wait_until_up(PATIENCE).expect("the paths come back while the disk is full");
    let report = receiver.snapshot(&sender.sent());
    println!("cut on a full disk: gap {:?}, {} of {} lost", report.longest_loss(), report.lost, report.sent);
    assert!(report.longest_loss() < Duration::from_secs(1), "{:?}", report.gaps);

    gateway.make_room_on_disk().expect("there is room again");
    wait_for_store(gateway, None);
    policy(gateway, "after-the-full-disk").expect("a policy can be added again");
    // What happened meanwhile wasn't forgotten.
    gateway
        .wait_for("the events of the full disk are told", PATIENCE, |gateway| {
            let store: Vec<String> =
                events(gateway, EventKind::StoreTrouble)?.into_iter().map(|event| event.message).collect();
            let down = events(gateway, EventKind::PathDown)?.len();
            let told = store.iter().any(|message| message.contains("Make room on the disk"))
                && store.iter().any(|message| message == "the database is written again");
            Ok(if told && down >= 2 { Ok(()) } else { Err(format!("{store:?}, {down} paths went down")) })
        })
        .expect("the events are told");

    // Nothing of the database can be read any more.
    let before = receiver.snapshot(&sender.sent()).lost;
    gateway.kill().expect("the daemon is killed");
    let killed = Instant::now();
    let garbage = "for file in sdwan.db*; do dd if=/dev/urandom of=$file bs=4k conv=notrunc \
                   count=$(( $(stat -c %s $file) / 4096 + 1 )) 2> /dev/null; done; ls";
    println!("broken: {}", in_state(gateway, garbage).replace('\n', " "));
    // Long enough for whole seconds to tell an announcement from before the end from one after the start.
    std::thread::sleep(Duration::from_millis(1_500));
    let started = Instant::now();
    gateway.start().expect("the daemon starts again");
    gateway
        .wait_for("the daemon tells of the broken database", PATIENCE, |gateway| {
            let status = gateway.status()?;
            let told = status.store.ok && status.store.moved_aside.is_some_and(|text| text.contains("was damaged"));
            Ok(if told { Ok(()) } else { Err("it does not".into()) })
        })
        .expect("the status tells");
    mesh.wait_until_up(PATIENCE).expect("all paths are up");
    println!("up {:?} after the start on a broken database", started.elapsed());
    gateway
        .wait_for("an event tells of the broken database", PATIENCE, |gateway| {
            let told = events(gateway, EventKind::StoreTrouble)?;
            let damaged = told.iter().any(|event| event.message.contains("was damaged"));
            Ok(if damaged { Ok(()) } else { Err(format!("{told:?}")) })
        })
        .expect("the event is there");
    let kept = in_state(gateway, "ls");
    assert!(kept.contains("sdwan.db.damaged-"), "the old database is kept: {kept}");
    // Its sequence numbers began anew, and the others believe it again although they know larger ones.
    mesh.gateway("b")
        .wait_for("b hears a again", PATIENCE, |gateway| {
            let sites = gateway.sites()?;
            let last = sites.iter().find(|site| site.name == "a").and_then(|site| site.last_announcement_s);
            let since = killed.elapsed().as_secs();
            Ok(if last.is_some_and(|last| last < since) { Ok(()) } else { Err(format!("{last:?} of {since} s")) })
        })
        .expect("the announcements are accepted");
    std::thread::sleep(Duration::from_secs(1));
    let sent = sender.stop().expect("the sender ends");
    let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    println!(
        "start on a broken database: {} lost, longest {:?}",
        report.lost.saturating_sub(before),
        report.longest_loss()
    );
    assert!(report.longest_loss() < Duration::from_secs(1), "{:?}", report.gaps);
}

//! How many flows a failure moved is told.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use sdwan::api::views::{EventView, Listing};
use sdwan_tests::bed::{Bed, Cut, Impairment};
use sdwan_tests::mesh::MeshOptions;
use sdwan_tests::needs_bed;
use sdwan_tests::pace::patience;
use sdwan_tests::traffic::{UdpReceiver, UdpSender, UdpSpec};

use crate::{PATIENCE, host, mesh_on};

const FLOWS: u32 = 60;

fn flows_in(event: &EventView) -> u64 {
    event.event.details["flows"].as_u64().expect("it says how many")
}

#[test]
fn a_cut_line_is_told_with_the_number_of_flows_that_left_it() {
    needs_bed!();
    let slow = Impairment::delay(Duration::from_millis(20));
    let bed = Bed::builder().sites(["a", "b"]).impair("a", "isp2", slow).build().expect("the bed is built");
    let mesh = mesh_on(bed, &MeshOptions::default());
    let gateway = mesh.gateway("a");
    let (a, b) = (host(&mesh, "a"), host(&mesh, "b"));
    let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), 27_015)).expect("the receiver starts");
    let spec = UdpSpec { source_port: 42_000, flows: FLOWS, ..UdpSpec::new(receiver.local(), 10.0 * f64::from(FLOWS)) };
    let sender = UdpSender::start(a, spec).expect("the sender starts");
    // Past the holds of whatever moved last.
    std::thread::sleep(Duration::from_secs(8));
    let moved_before: u32 = gateway.flows(Some("gaming")).expect("the flows").iter().map(|flow| flow.moves).sum();

    let mut follow = gateway.command().expect("the command");
    follow.args(["events", "--follow", "-o", "json", "--kind", "flows-moved,class-moved", "--since", "0s"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().expect("it starts");
    let lines = BufReader::new(follow.stdout.take().expect("its output")).lines();
    let (told, heard) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if told.send(line).is_err() {
                return;
            }
        }
    });
    std::thread::sleep(Duration::from_secs(1));
    mesh.bed().link("a", "isp1").cut(Cut::Silent).expect("the line is cut");
    let local = |path: Option<sdwan::engine::types::PathKey>| path.map(|path| path.tunnel.local.get());
    let to_other_line = |event: &&EventView| local(event.event.path) == Some(1);
    let mut followed: Vec<EventView> = Vec::new();
    // Some may first try the other path of the cut line, whose last answer came a moment later.
    while followed.iter().filter(to_other_line).map(flows_in).sum::<u64>() < u64::from(FLOWS) {
        let line = heard.recv_timeout(patience(PATIENCE)).expect("the moves are told");
        println!("{line}");
        let event: EventView = serde_json::from_str(&line).expect("an event in a line");
        let flows_moved = event.event.kind == sdwan::engine::events::EventKind::FlowsMoved;
        if flows_moved && event.event.class.as_deref() == Some("gaming") {
            followed.push(event);
        }
    }
    follow.kill().expect("it is ended");
    follow.wait().expect("it has ended");
    reader.join().expect("the reader ends");
    let first = &followed.iter().find(to_other_line).expect("they left the line").event;
    assert_eq!(local(first.from_path), Some(0), "{first:?}");
    assert!(first.message.contains("to b moved from path 0-") && first.message.ends_with("the old path is down"));

    // What is told is what the flows themselves remember, each move once.
    std::thread::sleep(Duration::from_secs(6));
    let moved: u32 = gateway.flows(Some("gaming")).expect("the flows").iter().map(|flow| flow.moves).sum();
    let events: Listing<EventView> = gateway.json(&["events", "--kind", "flows-moved"]).expect("the events");
    let ours = |event: &&EventView| event.event.class.as_deref() == Some("gaming") && event.id >= followed[0].id;
    let told: u64 = events.items.iter().filter(ours).map(flows_in).sum();
    assert_eq!(told, u64::from(moved - moved_before), "{events:?}");
    sender.stop().expect("the sender ends");
}

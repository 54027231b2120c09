//! Lines that the kernel's netem emulates do what they were told.

use std::net::SocketAddr;
use std::time::Duration;

use sdwan_tests::bed::{Bed, Cut, Impairment};
use sdwan_tests::traffic::{PingReport, PingSpec, UdpReceiver, UdpSender, UdpSpec, ping};

const PATIENCE: Duration = Duration::from_secs(2);

/// A bed with a line by netem, or `None`, as skipped.
fn bed(test: &str, impairment: Impairment) -> Option<Bed> {
    if !sdwan_tests::bed::ready(test) {
        return None;
    }
    let bed = Bed::builder().sites(["a", "b"]).impair("a", "isp1", impairment).build().expect("the bed is built");
    if !bed.link("a", "isp1").is_by_kernel() {
        println!("skipped: {test}: the kernel has no netem");
        return None;
    }
    Some(bed)
}

fn address(bed: &Bed) -> std::net::IpAddr {
    bed.link("b", "isp1").attachments()[0].address.addr()
}

fn pings(bed: &Bed, count: u16) -> PingReport {
    let spec = PingSpec { patience: PATIENCE, ..PingSpec::new(address(bed), count) };
    ping(bed.site("a"), &spec).expect("pings are sent")
}

fn within(found: Duration, least_ms: u64, most_ms: u64) {
    let range = Duration::from_millis(least_ms)..Duration::from_millis(most_ms);
    assert!(range.contains(&found), "{found:?} is not in {range:?}");
}

#[test]
fn the_delay_is_the_one_told_and_follows_a_change() {
    let Some(bed) = bed("the_delay_is_the_one_told_and_follows_a_change", Impairment::delay_ms(10)) else { return };
    pings(&bed, 1);
    within(pings(&bed, 20).rtt.p50, 20, 28);
    bed.link("a", "isp1").impair(&Impairment::delay_ms(30)).expect("the line changes");
    within(pings(&bed, 20).rtt.p50, 60, 70);
}

#[test]
fn a_line_can_be_cut_and_mended_and_what_netem_cannot_do_the_keeper_does() {
    let test = "a_line_can_be_cut_and_mended_and_what_netem_cannot_do_the_keeper_does";
    let Some(bed) = bed(test, Impairment::delay_ms(5)) else { return };
    let line = bed.link("a", "isp1");
    assert_eq!(pings(&bed, 3).answered, 3);
    for cut in [Cut::Silent, Cut::Carrier] {
        line.cut(cut).expect("the line is cut");
        let spec = PingSpec { patience: Duration::from_millis(200), ..PingSpec::new(address(&bed), 1) };
        // Without a carrier there isn't even a route.
        let answered = ping(bed.site("a"), &spec).map_or(0, |report| report.answered);
        assert_eq!(answered, 0, "{cut:?}");
        line.restore().expect("the line is mended");
        let healed = (0..20).any(|_| ping(bed.site("a"), &spec).is_ok_and(|report| report.answered == 1));
        assert!(healed, "{cut:?}");
    }
    let reordering = Impairment { reorder: 0.1, reorder_by: Duration::from_millis(5), ..Impairment::delay_ms(5) };
    line.impair(&reordering).expect("the line changes");
    assert!(!line.is_by_kernel());
    assert_eq!(pings(&bed, 5).answered, 5);
    line.statistics().expect("the keeper keeps account");
}

#[test]
fn a_rate_and_a_black_hole_hold_back_what_they_say() {
    let Some(bed) = bed("a_rate_and_a_black_hole_hold_back_what_they_say", Impairment::default()) else { return };
    let hole = Impairment { drop_larger_than: Some(1_000), ..Impairment::default() };
    bed.link("a", "isp1").impair(&hole).expect("the line changes");
    for (size, answered) in [(900, 3), (1_200, 0)] {
        let spec = PingSpec { size, patience: Duration::from_millis(300), ..PingSpec::new(address(&bed), 3) };
        assert_eq!(ping(bed.site("a"), &spec).expect("pings are sent").answered, answered, "{size} bytes");
    }
    bed.link("a", "isp1").impair(&Impairment::default().rate_mbps(2.0)).expect("the line changes");
    let receiver =
        UdpReceiver::start(bed.site("b"), SocketAddr::new(address(&bed), 9_000)).expect("the receiver starts");
    // Twice as much as fits, for two seconds: 500 packets of 1,000 bytes a second.
    let spec = UdpSpec { size: 1_000, ..UdpSpec::new(receiver.local(), 500.0) };
    let sender = UdpSender::start(bed.site("a"), spec.during(Duration::from_secs(2))).expect("the sender starts");
    let sent = sender.finish().expect("everything is sent");
    let report = receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
    let through = (report.sent - report.lost) as f64;
    println!("{through} of {} packets passed a line of 2 Mbit/s", report.sent);
    assert!((380.0..=640.0).contains(&through), "{report:?}");
}

//! What TCP's own timestamps say about a path whose delay is known.

use std::net::SocketAddr;
use std::time::Duration;

use sdwan_tests::bed::{Bed, Impairment, Provider};
use sdwan_tests::mesh::MeshOptions;
use sdwan_tests::needs_bed;
use sdwan_tests::pace::{is_slow, patience};
use sdwan_tests::traffic::{TcpSink, TcpSource, TcpSpec};

use crate::{host, mesh_on};

/// Each way, on one of the two lines.
const DELAY: Duration = Duration::from_millis(20);

#[test]
fn tcp_sees_the_delay_of_the_path_that_it_takes() {
    needs_bed!();
    let bed = Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Bridge)]);
    let bed = bed.impair("a", "isp1", Impairment::delay(DELAY)).build().expect("the bed is built");
    let mesh = mesh_on(bed, &MeshOptions::default());
    let path = |site: &str| mesh.gateway(site).paths().expect("the paths are listed").remove(0);
    assert_eq!((path("a").tcp_rtt_ms, path("a").tcp_rtt_samples), (None, 0), "no TCP yet");
    let (a, b) = (host(&mesh, "a"), host(&mesh, "b"));
    let mut own = Vec::new();
    for (port, local) in [(8_000, b.v4()), (8_001, b.v6())] {
        let sink = TcpSink::start(b, SocketAddr::new(local, port)).expect("the sink starts");
        for _ in 0..4 {
            // Little at a time: the line's delay is to be seen, not a queue's.
            let spec = TcpSpec { bytes: Some(40_000), ..TcpSpec::new(sink.local(), Duration::from_secs(2)) };
            let report = TcpSource::start(a, spec).expect("the source starts").finish().expect("it ends");
            assert_eq!(report.error, None);
            own.push(report.rtt);
        }
    }
    own.sort_unstable();
    let truth = (DELAY * 2).as_secs_f64() * 1e3;
    // The ends' own work, which takes long on a busy machine, and acknowledgements that wait for a second segment.
    let least = truth..truth + if is_slow() { 60.0 } else { 15.0 };
    let median = truth..truth + if is_slow() { 150.0 } else { 60.0 };
    // At a packets are data, at b the answers to the SYNs.
    for (site, samples) in [("a", 8), ("b", 4)] {
        mesh.gateway(site)
            .wait_for("the measurements are there", patience(Duration::from_secs(5)), |_| {
                let view = path(site);
                Ok(if view.tcp_rtt_samples >= samples { Ok(()) } else { Err(format!("{view:?}")) })
            })
            .expect("TCP is measured");
        let view = path(site);
        let (seen_least, seen_median) = (view.tcp_rtt_min_ms.expect("measured"), view.tcp_rtt_ms.expect("measured"));
        let samples = view.tcp_rtt_samples;
        println!("{site}: least {seen_least}, median {seen_median} of {samples}; the hosts themselves {own:?}");
        assert!(least.contains(&seen_least), "{site}: {seen_least} ms");
        assert!(median.contains(&seen_median), "{site}: {seen_median} ms");
    }
}

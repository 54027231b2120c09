//! The report of a mesh: what was up, what was down and why, and what nobody knows.

use std::time::{Duration, Instant};

use sdwan::api::views::{PathReport, ReportView};
use sdwan_tests::bed::Cut;
use sdwan_tests::failover::QUICK_RETURN;
use sdwan_tests::mesh::{Gateway, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::patience;

use crate::{PATIENCE, host, mesh_on, two_sites};

/// Records come every 10 s, and reach the database a second later.
const RECORDED: Duration = Duration::from_secs(12);

fn report(gateway: &Gateway) -> ReportView {
    gateway.json(&["report", "--since", "10m"]).expect("a report")
}

/// All of a kind together: watched and up, in s.
fn by(paths: &[PathReport], uplink: &str) -> (f64, f64) {
    let of = paths.iter().filter(|path| path.local_uplink == uplink);
    of.fold((0.0, 0.0), |(known, up), path| {
        let of = &path.availability;
        (known + of.up_s + of.down_s, up + of.up_s)
    })
}

#[test]
fn the_report_tells_an_outage_from_a_daemon_that_did_not_run() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &MeshOptions { extra: QUICK_RETURN.into(), ..MeshOptions::default() });
    let (started, gateway) = (Instant::now(), mesh.gateway("a"));
    std::thread::sleep(RECORDED);
    let view = report(gateway);
    assert_eq!((view.site_name.as_deref(), view.paths.len(), view.providers.len()), (Some("a"), 4, 2), "{view:?}");
    for path in &view.paths {
        assert_eq!((path.site_name.as_str(), path.availability.availability_pct), ("b", Some(100.0)), "{path:?}");
        assert!(["isp1", "isp2"].contains(&path.remote_uplink.as_str()), "{path:?}");
        assert!(path.quality.rtt_ms.is_some_and(|rtt| rtt > 0.0) && path.quality.mos.is_some(), "{path:?}");
    }
    assert!(view.classes.iter().all(|class| class.compliance.compliance_pct == Some(100.0)), "{:?}", view.classes);
    assert!(view.classes.iter().any(|class| class.class == "voip-video" && class.sla.contains("loss")));
    assert!(view.failovers.is_empty(), "{:?}", view.failovers);

    let address = |site: &str| host(&mesh, site).v4();
    let (from, to) = (format!("{}:40000", address("a")), format!("{}:5060", address("b")));
    let taken = gateway.explain(&from, &to, "udp").expect("an explanation");
    let taken = &taken.candidates[taken.chosen.expect("a path")].local_uplink;
    let uplink = if taken == "isp1" { "isp1" } else { "isp2" };
    let other = if uplink == "isp1" { "isp2" } else { "isp1" };
    let cut = Instant::now();
    mesh.bed().link("a", uplink).cut(Cut::Silent).expect("the line is cut");
    std::thread::sleep(Duration::from_secs(15));
    mesh.bed().link("a", uplink).restore().expect("the line is back");
    let down = cut.elapsed().as_secs_f64();
    mesh.wait_until_up(patience(PATIENCE)).expect("the paths come back");
    std::thread::sleep(RECORDED);
    let view = report(gateway);
    let (known, up) = by(&view.paths, uplink);
    // Two paths each; a path that answers again is held for a while, and counts as down meanwhile.
    assert!((known - up) / 2.0 >= down - 2.0 && (known - up) / 2.0 <= down + 10.0, "{down} s: {:?}", view.paths);
    let (known, up) = by(&view.paths, other);
    assert_eq!(known, up, "{:?}", view.paths);
    for provider in &view.providers {
        let whole = provider.availability.availability_pct == Some(100.0);
        assert_eq!(whole, provider.name == other, "{provider:?}");
    }
    let falls = view.paths.iter().filter(|path| path.local_uplink == uplink).map(|path| &path.falls);
    assert!(falls.clone().all(|falls| falls.get("no answer to probes") == Some(&1)), "{:?}", falls.collect::<Vec<_>>());
    // The line's two paths need not be found dead at once: on the way a class may go over the other one of them.
    let left =
        view.failovers.iter().find(|failover| failover.from.starts_with(uplink) && failover.to.starts_with(other));
    let failover = left.unwrap_or_else(|| panic!("no class left the line: {:?}", view.failovers));
    assert!(
        ["no answer to probes", "the data path found it silent"].contains(&failover.cause.as_str()),
        "{failover:?}"
    );

    // What happens while the daemon is away is unknown, and not an outage.
    let before = by(&view.paths, other);
    gateway.kill().expect("the daemon is killed");
    let away = Instant::now();
    mesh.bed().link("a", other).cut(Cut::Silent).expect("the line is cut");
    let text = gateway.text(&["report", "--since", "10m"]).expect("a report from the database");
    assert!(text.starts_with("report of a: ") && text.lines().all(|line| line.chars().count() <= 80), "{text}");
    std::thread::sleep(Duration::from_secs(12));
    mesh.bed().link("a", other).restore().expect("the line is back");
    let away = away.elapsed();
    gateway.start().expect("the daemon starts");
    mesh.wait_until_up(patience(PATIENCE)).expect("the paths come back");
    std::thread::sleep(RECORDED);
    let view = report(gateway);
    let (known, up) = by(&view.paths, other);
    assert!((known - up) < 4.0, "{:?}", view.paths);
    let watched = (started.elapsed() - away).as_secs_f64() + 5.0;
    assert!(known > before.0 && known / 2.0 <= watched, "{known} s of {watched}: {:?}", view.paths);
    let page = gateway.text(&["report", "--since", "10m", "-o", "html"]).expect("a page");
    assert!(page.contains("<svg") && !page.contains("http"));
}

#[test]
fn a_site_that_fell_silent_is_down_and_not_forgotten() {
    needs_bed!();
    let extra = "[discovery]\ninterval = \"1s\"\ninactive_after = \"4s\"\n";
    let mesh = mesh_on(two_sites(), &MeshOptions { extra: extra.into(), ..MeshOptions::default() });
    std::thread::sleep(RECORDED);
    mesh.gateway("b").kill().expect("the other daemon is killed");
    for uplink in ["isp1", "isp2"] {
        mesh.bed().link("b", uplink).cut(Cut::Silent).expect("the line is cut");
    }
    std::thread::sleep(Duration::from_secs(30));
    let view = report(mesh.gateway("a"));
    assert_eq!(mesh.gateway("a").paths().expect("the paths").len(), 0, "the site is inactive");
    assert_eq!(view.paths.len(), 4);
    for path in &view.paths {
        let down = path.availability.down_s;
        assert!((15.0..=32.0).contains(&down), "{path:?}");
    }
    let without = view.classes.iter().map(|class| class.compliance.without_path_s);
    assert!(without.clone().all(|seconds| (15.0..=32.0).contains(&seconds)), "{:?}", without.collect::<Vec<_>>());
}

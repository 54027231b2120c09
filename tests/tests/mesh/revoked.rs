//! What the authority revokes is out: a certificate that was never used, and a site in the midst of the mesh.

use sdwan::engine::events::EventKind;
use sdwan_tests::bed::Bed;
use sdwan_tests::mesh::{Gateway, Mesh, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{PingSpec, ping};

use crate::attacker::{Attacker, events, picture, refused, wait_for_refusal, wait_until_told};
use crate::{PATIENCE, first_ping, host, mesh_on};

/// Revokes, and brings the list to site a, which tells the others.
fn revoke(mesh: &Mesh, what: &str) {
    mesh.authority(&["revoke", what]).expect("the authority revokes");
    let gateway = mesh.gateway("a");
    gateway.install(&mesh.authority_directory().join("revocations")).expect("the list is installed");
    gateway.reload().expect("the daemon takes it in");
}

/// Waits until a gateway tells that the list has so many entries.
fn wait_for_list(gateway: &Gateway, entries: usize) {
    let text = format!("{entries} entries in all");
    gateway
        .wait_for(&format!("{} knows {entries} revocations", gateway.name()), PATIENCE, |gateway| {
            let events = events(gateway, EventKind::SiteRemoved)?;
            let told = events.iter().any(|event| event.message.contains(&text));
            Ok(if told { Ok(()) } else { Err(format!("{events:?}")) })
        })
        .expect("the list arrives");
}

/// Waits until nothing of site c is left at a gateway: no path, no route, no peer, no prefix in the maps.
fn wait_until_gone(gateway: &Gateway) {
    gateway
        .wait_for(&format!("{} drops c", gateway.name()), PATIENCE, |gateway| {
            let active: Vec<String> =
                gateway.sites()?.into_iter().filter(|site| site.state == "active").map(|site| site.name).collect();
            let paths = gateway.paths()?.into_iter().filter(|path| path.site_name == "c").count();
            let picture = picture(gateway);
            let left: Vec<&str> = picture.lines().filter(|line| shows_site_3(line)).collect();
            let gone = active.len() == 1 && paths == 0 && left.is_empty();
            Ok(if gone { Ok(()) } else { Err(format!("active {active:?}, {paths} paths to c, {left:?}")) })
        })
        .expect("c is dropped");
    let explained = gateway.explain("10.1.0.2:40000", "10.3.0.2:9", "udp").expect("the flow is explained");
    assert_eq!((explained.site, explained.chosen), (None, None), "{explained:?}");
    gateway
        .wait_for("the reason is told", PATIENCE, |gateway| {
            let events = events(gateway, EventKind::SiteRemoved)?;
            let told =
                events.iter().any(|event| event.message.contains("site c was removed: its certificate is revoked"));
            Ok(if told { Ok(()) } else { Err(format!("{events:?}")) })
        })
        .expect("the reason is told");
}

/// Routes and allowed IPs have the prefixes of site number 3 as text.
fn shows_site_3(line: &str) -> bool {
    line.contains("10.3.0.0") || line.contains("fd00:3:")
}

#[test]
fn a_revoked_certificate_and_a_revoked_member_are_refused_and_dropped_everywhere() {
    needs_bed!();
    let mesh = mesh_on(Bed::new().expect("the bed is built"), &MeshOptions::default());
    let [a, b, c] = ["a", "b", "c"].map(|site| mesh.gateway(site));
    assert!(picture(b).lines().any(shows_site_3), "{}", picture(b));

    // A certificate that the authority signed and took back before it was used.
    let attacker = Attacker::new(&mesh);
    revoke(&mesh, &attacker.certificate_file().to_string_lossy());
    wait_for_list(b, 1);
    let before = picture(a);
    attacker.expect_refusal("a revoked certificate", &attacker.good(), "revoked");
    wait_until_told(a, &["revoked"]);
    assert_eq!(before, picture(a), "nothing changed");

    // A member.
    revoke(&mesh, "c");
    wait_until_gone(a);
    wait_until_gone(b);
    c.wait_for("c knows", PATIENCE, |gateway| {
        let events = events(gateway, EventKind::SiteRemoved)?;
        let told = events.iter().any(|event| event.message.contains("own certificate is revoked"));
        Ok(if told { Ok(()) } else { Err(format!("{events:?}")) })
    })
    .expect("c is told");
    let from_c = ping(host(&mesh, "c"), &PingSpec::new(host(&mesh, "b").v4(), 3)).expect("pings are sent");
    assert_eq!(from_c.answered, 0, "c is cut off");

    // It doesn't come back by a restart, neither its own nor that of another site.
    let refusals = refused(b, "revoked");
    c.kill().expect("the daemon of c is killed");
    c.start().expect("the daemon of c starts again");
    wait_for_refusal(b, "c after its restart", "revoked", refusals);
    b.kill().expect("the daemon of b is killed");
    b.start().expect("the daemon of b starts again");
    wait_for_refusal(b, "c after the restart of b", "revoked", 0);
    wait_until_gone(b);
    first_ping(host(&mesh, "a"), host(&mesh, "b").v4(), PATIENCE);
}

//! What must not be believed is refused, counted and told, and changes nothing.

use sdwan::trust::certificate::CertificateContent;
use sdwan::trust::keys::AuthorityKey;
use sdwan_tests::mesh::MeshOptions;
use sdwan_tests::needs_bed;

use crate::attacker::{Attacker, picture, wait_until_told};
use crate::{PATIENCE, mesh_on, two_sites};

#[test]
fn forged_and_foreign_announcements_are_refused_counted_told_and_change_nothing() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &MeshOptions::default());
    let attacker = Attacker::new(&mesh);
    let before = picture(mesh.gateway("a"));

    let stranger = AuthorityKey::generate();
    let foreign = CertificateContent { mesh: stranger.mesh(), ..attacker.content() };
    attacker.expect_refusal("another mesh", &attacker.announce(foreign, &stranger), "wrong-mesh");

    let forged = attacker.announce(attacker.content(), &stranger);
    attacker.expect_refusal("a certificate of another authority", &forged, "bad-certificate-signature");

    let mut flipped = attacker.good();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    attacker.expect_refusal("a flipped bit", &flipped, "bad-signature");

    let mut unsigned = attacker.good();
    let signature = unsigned.len() - 64;
    unsigned[signature..].fill(0);
    attacker.expect_refusal("an empty signature", &unsigned, "bad-signature");

    let good = attacker.good();
    attacker.expect_refusal("half an announcement", &good[..good.len() / 2], "truncated");
    attacker.expect_refusal("a large datagram", &vec![0x5d; 1_400], "oversized");

    let expired =
        CertificateContent { not_before: attacker.now - 7_200, not_after: attacker.now - 3_600, ..attacker.content() };
    attacker.expect_refusal("an expired certificate", &attacker.announce(expired, &attacker.authority), "expired");

    // Of the whole internet, of another site, and of a wider net than is allowed.
    for prefix in ["0.0.0.0/0", "10.2.0.0/16", "10.64.0.0/12", "fd00:2::/48"] {
        let outside = attacker.announce_outside(prefix);
        attacker.expect_refusal(&format!("{prefix}, not certified"), &outside, "prefix-outside-certificate");
    }

    let reasons = [
        "wrong-mesh",
        "bad-certificate-signature",
        "bad-signature",
        "truncated",
        "oversized",
        "expired",
        "prefix-outside-certificate",
    ];
    wait_until_told(mesh.gateway("a"), &reasons);
    assert_eq!(before, picture(mesh.gateway("a")), "nothing changed");

    // A site that is admitted comes in, and its older words are refused after.
    attacker.send(&attacker.announce_as(5, attacker.content(), &attacker.authority));
    let joined = mesh.gateway("a").wait_for("the admitted site is active", PATIENCE, |gateway| {
        let known = gateway.sites()?.iter().any(|site| site.name == "mallory" && site.state == "active");
        Ok(if known { Ok(()) } else { Err("it is not".into()) })
    });
    joined.expect("an announcement that is right is believed");
    attacker.expect_refusal("an old announcement", &good, "replayed");
    wait_until_told(mesh.gateway("a"), &["replayed"]);
}

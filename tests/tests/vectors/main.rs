//! The test vectors in `docs/PROTOCOL.md` are what the product writes, reads and believes.
//!
//! `SDWAN_WRITE_VECTORS=1 cargo test -p sdwan-tests --test vectors every_block` writes the blocks anew after a change
//! of a format.

mod document;
mod samples;

use std::collections::BTreeMap;
use std::time::Duration;

use sdwan::engine::types::SiteId;
use sdwan::trust::announcement::SiteMessage;
use sdwan::trust::certificate::{Certificate, SiteRequest};
use sdwan::trust::mesh::Mesh;
use sdwan::trust::revocation::{RevocationList, RevocationPage};
use sdwan::trust::verifier::limits::VerifierLimits;
use sdwan::trust::verifier::{Now, Refusal, Verdict, Verifier};
use sdwan::trust::wire::{Header, Kind, Reader};
use sdwan_common::stamp::direct::DirectMeasurement;
use sdwan_common::stamp::{Extension, ReflectorPacket, SenderPacket, Timestamp, Tlvs, tlv_flag};

use samples::{COUNTED, DETECTION_NS, MADE, NOT_AFTER, ON_ITS_WAY_NS, SENT_NS, SEQUENCE, Samples};

/// Asks for the blocks to be written anew.
const WRITE: &str = "SDWAN_WRITE_VECTORS";

/// What the document shows.
struct Shown(BTreeMap<String, String>);

impl Shown {
    fn read() -> Self {
        let text = std::fs::read_to_string(document::path()).expect("the document can be read");
        Self(document::blocks(&text).into_iter().collect())
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("docs/PROTOCOL.md has no block `text vector={name}`"))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        document::bytes(name, self.text(name))
    }
}

fn site_message(datagram: &[u8]) -> SiteMessage {
    let mut reader = Reader::new(datagram);
    let header = Header::decode(&mut reader).expect("a header");
    SiteMessage::decode(header, reader).expect("a site's message")
}

#[test]
fn every_block_of_the_document_is_what_the_code_makes_of_the_seeds() {
    let made: BTreeMap<&str, String> = Samples::new().blocks().into_iter().collect();
    let text = std::fs::read_to_string(document::path()).expect("the document can be read");
    let text = if std::env::var_os(WRITE).is_some_and(|value| value == "1") {
        let text = document::rewritten(&text, |name| made.get(name).cloned());
        std::fs::write(document::path(), &text).expect("the document can be written");
        text
    } else {
        text
    };
    let shown = document::blocks(&text);
    for (name, content) in &shown {
        let made = made.get(name.as_str());
        let made = made.unwrap_or_else(|| panic!("block {name}: nothing makes it; take it out, or mend its name"));
        assert!(content == made, "block {name} shows\n{content}\n\nand the code makes\n{made}\n\n{WRITE}=1 writes it");
    }
    for name in made.keys() {
        let times = shown.iter().filter(|(shown, _)| shown == name).count();
        assert_eq!(times, 1, "docs/PROTOCOL.md has {times} blocks `text vector={name}` instead of one");
    }
}

#[test]
fn what_is_written_anew_reads_back_and_leaves_the_rest_alone() {
    let text = "a\n```text vector=x\nold\nlines\n```\nb\n```sh\nc\n```\n```text vector=y\nkept\n```\n";
    let new = document::rewritten(text, |name| (name == "x").then(|| "new".into()));
    assert_eq!(new, text.replace("old\nlines", "new"));
    assert_eq!(document::blocks(&new), [("x".into(), "new".into()), ("y".into(), "kept".into())]);
}

#[test]
fn the_description_of_the_mesh_is_signed_by_its_authority() {
    let (shown, samples) = (Shown::read(), Samples::new());
    let mesh = Mesh::from_toml(shown.text("mesh.toml"), "docs/PROTOCOL.md").expect("vector mesh.toml is authentic");
    assert_eq!(mesh, samples.mesh);
    assert_eq!(mesh.authority, samples.authority.public());
    assert!(shown.text("derived").contains(&mesh.overlay_address(samples.identity.site()).to_string()));
}

#[test]
fn the_request_and_the_certificate_read_back_and_their_signatures_hold() {
    let (shown, samples) = (Shown::read(), Samples::new());
    let request = SiteRequest::open(&shown.bytes("site-request")).expect("vector site-request is authentic");
    assert_eq!((request.name.as_str(), request.made_unix, request.site()), ("berlin", MADE, samples.identity.site()));

    let bytes = shown.bytes("certificate");
    let certificate = Certificate::decode(&bytes).expect("vector certificate reads");
    certificate.verify(&samples.authority.public()).expect("vector certificate is authentic");
    assert_eq!(certificate, samples.certificate);
    assert_eq!((certificate.content.not_before, certificate.content.not_after), (MADE, NOT_AFTER));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let believed = Certificate::decode(&flipped).is_ok_and(|one| one.verify(&samples.authority.public()).is_ok());
        assert!(!believed, "vector certificate is believed with bit {bit} flipped");
    }
}

#[test]
fn the_messages_of_the_site_read_back_and_their_signatures_hold() {
    let (shown, samples) = (Shown::read(), Samples::new());
    for (name, kind, content, sequence, later_ms) in [
        ("announcement", Kind::Announcement, Some(samples.local.clone()), SEQUENCE, 0),
        ("leave", Kind::Leave, None, SEQUENCE + 1, 60_000),
    ] {
        let datagram = shown.bytes(name);
        let header =
            Header::decode(&mut Reader::new(&datagram)).unwrap_or_else(|error| panic!("vector {name}: {error}"));
        assert_eq!((header.kind, header.mesh), (kind, samples.mesh.id), "vector {name}");
        let message = site_message(&datagram);
        let identity = message.certificate.identity_key().expect("a key");
        message.verify(&datagram, &identity).unwrap_or_else(|error| panic!("vector {name}: {error}"));
        assert_eq!((message.sequence, message.made_unix_ms), (sequence, MADE * 1_000 + later_ms), "vector {name}");
        assert_eq!(message.certificate, samples.certificate, "vector {name}");
        assert_eq!(message.content, content, "vector {name}");
    }
}

#[test]
fn a_gateway_believes_the_messages_in_their_order_and_none_of_a_revoked_certificate() {
    let (shown, samples) = (Shown::read(), Samples::new());
    let now = Now { monotonic: Duration::from_secs(1), unix_ms: MADE * 1_000 };
    let source = "192.0.2.10".parse().expect("an address");
    let new = || {
        let mesh = samples.mesh.clone();
        Verifier::new(mesh, SiteId([9; 16]), RevocationList::default(), VerifierLimits::default())
    };
    let (announcement, leave, page) = (shown.bytes("announcement"), shown.bytes("leave"), shown.bytes("revocations"));

    let mut verifier = new();
    let Ok(Verdict::Announcement(verified)) = verifier.judge(now, source, false, &announcement) else {
        panic!("vector announcement is not believed")
    };
    assert_eq!((verified.site.name.as_str(), verified.site.id), ("berlin", samples.identity.site()));
    assert_eq!(verified.site.overlay, samples.mesh.overlay_address(samples.identity.site()));
    let left = verifier.judge(now, source, false, &leave);
    assert!(matches!(left, Ok(Verdict::Leave { was_active: true, .. })), "vector leave: {left:?}");
    let again = verifier.judge(now, source, false, &announcement).expect_err("it is older than the leave message");
    assert_eq!(again.reason, Refusal::Replayed);

    let mut verifier = new();
    let revoked = verifier.judge(now, source, false, &page);
    assert!(matches!(revoked, Ok(Verdict::Revocations { .. })), "vector revocations: {revoked:?}");
    let refused = verifier.judge(now, source, false, &announcement).expect_err("its certificate is revoked");
    assert_eq!(refused.reason, Refusal::Revoked);
}

#[test]
fn the_page_of_revocations_reads_back_and_its_signature_holds() {
    let (shown, samples) = (Shown::read(), Samples::new());
    let page = RevocationPage::decode_datagram(&shown.bytes("revocations")).expect("vector revocations reads");
    page.verify(&samples.authority.public()).expect("vector revocations is authentic");
    assert_eq!((page.page, page.number, page.made_unix, page.entries.len()), (0, 2, MADE, 2));
    let mut list = RevocationList::default();
    assert!(list.insert(page));
    assert!(list.revokes(&samples.certificate));
}

#[test]
fn the_probe_and_its_reply_read_back() {
    let shown = Shown::read();
    let (probe, reply) = (shown.bytes("stamp-probe"), shown.bytes("stamp-reply"));
    let question = SenderPacket::decode(&probe).expect("vector stamp-probe reads");
    let answer = ReflectorPacket::decode(&reply).expect("vector stamp-reply reads");
    assert_eq!((question.sequence, question.session), (7, 0x5d01));
    assert_eq!(question.timestamp.as_unix_ns(), SENT_NS);
    assert_eq!((answer.sequence, answer.sender_sequence, answer.sender_ttl), (41, 7, 64));
    assert_eq!((answer.session, answer.sender_timestamp), (question.session, question.timestamp));
    assert_eq!([answer.received, answer.timestamp], ON_ITS_WAY_NS.map(|ns| Timestamp::from_unix_ns(SENT_NS + ns)));
    assert_eq!(probe.len(), reply.len(), "the answer is as long as the question");
    assert_eq!(DirectMeasurement::answered(&probe), None, "a question");
    let [sender_transmitted, reflector_received, reflector_transmitted] = COUNTED;
    let counted = DirectMeasurement { sender_transmitted, reflector_received, reflector_transmitted };
    assert_eq!(DirectMeasurement::answered(&reply), Some(counted));
    for (name, payload, flags) in [("stamp-probe", &probe, tlv_flag::UNRECOGNIZED), ("stamp-reply", &reply, 0)] {
        assert_eq!(Extension::decode(payload), Some(Extension::new(1, DETECTION_NS)), "vector {name}");
        assert_eq!(Tlvs::of(payload).map(|tlv| tlv.flags).collect::<Vec<_>>(), [flags, flags], "vector {name}");
    }
}

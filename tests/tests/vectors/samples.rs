//! The messages of the vectors, made from the seeds and values that the document names.

use std::net::IpAddr;

use ipnet::IpNet;
use sdwan::engine::types::{RemoteUplink, TunnelKey, UplinkIndex};
use sdwan::trust::announcement::{LocalAnnouncement, sign_announcement, sign_leave};
use sdwan::trust::certificate::{Certificate, CertificateContent, SiteRequest};
use sdwan::trust::keys::{AuthorityKey, IdentityKey, Secret, WireGuardKey};
use sdwan::trust::mesh::Mesh;
use sdwan::trust::revocation::{RevocationList, Revoked};
use sdwan_common::abi::peer_flag;
use sdwan_common::stamp::direct::{self, DirectMeasurement};
use sdwan_common::stamp::{
    self, BASE_LENGTH, ErrorEstimate, Extension, ReflectorPacket, SenderPacket, Timestamp, tlv_flag,
};

use crate::document::{fields, hex};

/// What the probe says about how long its sender's silence is to be borne.
pub const DETECTION_NS: u64 = 150_000_000;
/// What the probe and its answer count of the data: sent, received by the peer, sent by the peer.
pub const COUNTED: [u32; 3] = [1_000, 998, 500];

/// When everything is made: 2027-01-15 08:00 UTC, Unix s.
pub const MADE: u64 = 1_800_000_000;
/// End of the certificate: 365 days later.
pub const NOT_AFTER: u64 = MADE + 365 * 86_400;
/// Sequence number of the announcement; the leave message has the next one.
pub const SEQUENCE: u64 = 65_537;
/// When the probe is sent, Unix ns.
pub const SENT_NS: u64 = MADE * 1_000_000_000 + 123_456_789;
/// When the reflector gets it, and when it answers, ns later.
pub const ON_ITS_WAY_NS: [u64; 2] = [5_000_000, 5_020_000];

/// Everything that the vectors show.
pub struct Samples {
    pub authority: AuthorityKey,
    pub identity: IdentityKey,
    pub mesh: Mesh,
    pub request: SiteRequest,
    pub certificate: Certificate,
    pub local: LocalAnnouncement,
    pub announcement: Vec<u8>,
    pub leave: Vec<u8>,
    /// Another site, which is revoked.
    pub revoked: IdentityKey,
    pub revocations: RevocationList,
    pub probe: [u8; stamp::PROBE_LENGTH],
    pub reply: [u8; stamp::PROBE_LENGTH],
}

impl Samples {
    pub fn new() -> Self {
        let authority = AuthorityKey::from_secret(&Secret::new([1; 32]));
        let identity = IdentityKey::from_secret(&Secret::new([2; 32]));
        let revoked = IdentityKey::from_secret(&Secret::new([5; 32]));
        let mesh = Mesh::new("acme", None, &authority).expect("a mesh");
        let request = SiteRequest::sign(mesh.id, "berlin", MADE, &identity).expect("a request");
        let content = CertificateContent {
            mesh: mesh.id,
            identity: identity.public().to_bytes(),
            name: "berlin".into(),
            not_before: MADE,
            not_after: NOT_AFTER,
            prefixes: prefixes(),
        };
        let certificate = Certificate::sign(content, &authority).expect("a certificate");
        let local = local();
        let announcement =
            sign_announcement(&certificate, SEQUENCE, MADE * 1_000, &local, &identity).expect("an announcement");
        let leave = sign_leave(&certificate, SEQUENCE + 1, MADE * 1_000 + 60_000, &identity);
        let mut revocations = RevocationList::default();
        for entry in [Revoked::Site(revoked.site()), Revoked::Certificate(certificate.fingerprint())] {
            revocations.revoke(entry, MADE, &authority).expect("there is room");
        }
        let (probe, reply) = (probe(), reply());
        Self {
            authority,
            identity,
            mesh,
            request,
            certificate,
            local,
            announcement,
            leave,
            revoked,
            revocations,
            probe,
            reply,
        }
    }

    /// The content of every block, by name.
    pub fn blocks(&self) -> Vec<(&'static str, String)> {
        let page = self.revocations.page(0).expect("it has a page");
        vec![
            ("derived", self.derived()),
            ("mesh.toml", self.mesh.to_toml().trim_end().to_owned()),
            ("site-request", hex(self.request.bytes())),
            ("certificate", hex(self.certificate.bytes())),
            ("certificate-fields", certificate_fields(self.certificate.bytes())),
            ("announcement", hex(&self.announcement)),
            ("announcement-fields", announcement_fields(&self.announcement, self.certificate.bytes().len())),
            ("leave", hex(&self.leave)),
            ("revocations", hex(page.bytes())),
            ("stamp-probe", hex(&self.probe)),
            ("stamp-reply", hex(&self.reply)),
        ]
    }

    fn derived(&self) -> String {
        let site = self.identity.site();
        let lines = [
            ("authority public key", hex(self.authority.public().as_bytes())),
            ("mesh id", self.mesh.id.to_string()),
            ("overlay prefix", self.mesh.overlay.to_string()),
            ("identity public key", hex(self.identity.public().as_bytes())),
            ("site id", site.to_string()),
            ("overlay address", self.mesh.overlay_address(site).to_string()),
            ("certificate fingerprint", hex(&self.certificate.fingerprint())),
            ("WireGuard public key", hex(&self.local.wireguard_key)),
            ("next WireGuard key", hex(&self.local.next_wireguard_key.expect("there is one"))),
            ("revoked site id", self.revoked.site().to_string()),
        ];
        lines.map(|(name, value)| format!("{name:24} {value}")).join("\n")
    }
}

fn prefixes() -> Vec<IpNet> {
    ["10.1.0.0/16", "fd00:1::/48"].map(|text| text.parse().expect("a prefix")).to_vec()
}

fn local() -> LocalAnnouncement {
    let public = |seed| WireGuardKey::from_secret(&Secret::new([seed; 32])).public();
    let uplink = |index, name: &str, address: &str, mtu, rate_down_kbps| RemoteUplink {
        index: UplinkIndex::new(index).expect("an index"),
        name: name.into(),
        addresses: vec![address.parse::<IpAddr>().expect("an address")],
        mtu,
        rate_down_kbps,
    };
    LocalAnnouncement {
        wireguard_key: public(3),
        next_wireguard_key: Some(public(4)),
        base_port: 51_820,
        uplinks: vec![
            uplink(0, "fibre", "192.0.2.10", 1_500, Some(500_000)),
            uplink(1, "lte", "2001:db8::10", 1_428, None),
        ],
        prefixes: prefixes(),
    }
}

fn question() -> SenderPacket {
    let index = |number| UplinkIndex::new(number).expect("an index");
    let tunnel = TunnelKey { local: index(0), remote: index(1) };
    SenderPacket {
        sequence: 7,
        timestamp: Timestamp::from_unix_ns(SENT_NS),
        error_estimate: ErrorEstimate::OURS,
        session: 0x5d00 | u16::from(tunnel.code()),
    }
}

fn probe() -> [u8; stamp::PROBE_LENGTH] {
    let mut bytes = stamp::encode_probe(&question(), Extension::new(peer_flag::HEARS as u8, DETECTION_NS));
    bytes[direct::OFFSET..].copy_from_slice(&counted([COUNTED[0], 0, 0]).encode());
    bytes
}

fn reply() -> [u8; stamp::PROBE_LENGTH] {
    let [received, sent] = ON_ITS_WAY_NS.map(|later| Timestamp::from_unix_ns(SENT_NS + later));
    let mut bytes = probe();
    bytes[..BASE_LENGTH].copy_from_slice(&ReflectorPacket::answer(&question(), 41, received, sent, 64).encode());
    // A reflector that knows the TLV says so.
    bytes[BASE_LENGTH] &= !tlv_flag::UNRECOGNIZED;
    bytes[direct::OFFSET..].copy_from_slice(&counted(COUNTED).encode_answer());
    bytes
}

fn counted([sender_transmitted, reflector_received, reflector_transmitted]: [u32; 3]) -> DirectMeasurement {
    DirectMeasurement { sender_transmitted, reflector_received, reflector_transmitted }
}

fn certificate_fields(bytes: &[u8]) -> String {
    let list = [
        (4, "\"SDWC\""),
        (1, "version"),
        (16, "mesh id"),
        (32, "identity: public key of the site"),
        (1, "length of the name"),
        (6, "name \"berlin\""),
        (8, "not-before, Unix s"),
        (8, "not-after, Unix s"),
        (1, "number of prefixes"),
        (2, "IPv4, 16 bits"),
        (2, "10.1.0.0/16"),
        (2, "IPv6, 48 bits"),
        (6, "fd00:1::/48"),
        (64, "signature of the authority"),
    ];
    fields(bytes, 0, &list)
}

fn announcement_fields(bytes: &[u8], certificate: usize) -> String {
    let list = [
        (8, "sequence number"),
        (8, "time, Unix ms"),
        (1, "flags: a next key follows"),
        (32, "WireGuard key"),
        (32, "next WireGuard key"),
        (2, "base port"),
        (1, "number of uplinks"),
        (1, "index of the first"),
        (6, "its name, \"fibre\""),
        (2, "its MTU"),
        (4, "its downstream rate, kbit/s"),
        (1, "number of its addresses"),
        (5, "IPv4, 192.0.2.10"),
        (1, "index of the second"),
        (4, "its name, \"lte\""),
        (2, "its MTU"),
        (4, "its downstream rate: not declared"),
        (1, "number of its addresses"),
        (17, "IPv6, 2001:db8::10"),
        (1, "number of prefixes"),
        (4, "10.1.0.0/16"),
        (8, "fd00:1::/48"),
        (64, "signature of the site"),
    ];
    fields(bytes, 22 + 2 + certificate, &list)
}

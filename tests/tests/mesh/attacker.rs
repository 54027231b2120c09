//! Somebody on a provider's segment who sends what must not be believed. It has the authority's key, so that it can also
//! send what is wrong in one thing alone.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;

use sdwan::api::views::{EventView, Listing};
use sdwan::engine::events::{EngineEvent, EventKind};
use sdwan::trust::announcement::{LocalAnnouncement, sign_announcement};
use sdwan::trust::certificate::{Certificate, CertificateContent};
use sdwan::trust::files::{self, FileKind};
use sdwan::trust::keys::{AuthorityKey, IdentityKey};
use sdwan::trust::mesh::Mesh as MeshDescription;
use sdwan_tests::mesh::{Gateway, Mesh};

use crate::PATIENCE;

/// Everything that an announcement could change. By which tunnel a route leads is left out: that follows measurements.
const PICTURE: &str = "{ ip route show table all; ip -6 route show table all; } | grep 'proto 93' | cut -d' ' -f1 | \
                       sort -u; ip rule; \
                       bpftool map dump pinned /sys/fs/bpf/sdwan/v*/maps/prefixes; \
                       bpftool map dump pinned /sys/fs/bpf/sdwan/v*/maps/site_ids | grep -v '00 00 00 00 00 00 00 00 00'; \
                       for i in $(wg show interfaces); do wg show $i allowed-ips; done";

/// Everything at a gateway that an announcement could change.
pub fn picture(gateway: &Gateway) -> String {
    gateway.namespace().shell(PICTURE).expect("the picture is taken")
}

/// The events of a kind at a gateway.
pub fn events(gateway: &Gateway, kind: EventKind) -> sdwan_tests::bed::Result<Vec<EngineEvent>> {
    let listing: Listing<EventView> = gateway.json(&["events", "--kind", kind.name(), "--limit", "1000"])?;
    Ok(listing.items.into_iter().map(|view| view.event).collect())
}

/// The attacker, by the name of mallory.
pub struct Attacker<'a> {
    mesh: &'a Mesh,
    description: MeshDescription,
    /// The mesh's own authority.
    pub authority: AuthorityKey,
    identity: IdentityKey,
    target: IpAddr,
    /// Unix time, s.
    pub now: u64,
}

impl<'a> Attacker<'a> {
    /// An attacker who speaks to site a.
    pub fn new(mesh: &'a Mesh) -> Self {
        let directory = mesh.authority_directory();
        let secret = files::read_secret(&directory.join("authority.key"), FileKind::AuthorityKey).expect("it is there");
        let link = mesh.bed().link("a", "isp1");
        Self {
            mesh,
            description: MeshDescription::read(&directory.join("mesh.toml")).expect("it is there"),
            authority: AuthorityKey::from_secret(&secret),
            identity: IdentityKey::generate(),
            target: link.attachments()[0].address.addr(),
            now: std::time::UNIX_EPOCH.elapsed().expect("it is past 1970").as_secs(),
        }
    }

    /// A certificate's content that is right in everything.
    pub fn content(&self) -> CertificateContent {
        CertificateContent {
            mesh: self.description.id,
            identity: self.identity.public().to_bytes(),
            name: "mallory".into(),
            not_before: self.now - 3_600,
            not_after: self.now + 3_600,
            prefixes: vec!["10.66.0.0/16".parse().expect("a prefix")],
        }
    }

    /// An announcement with a certificate of this content.
    pub fn announce(&self, content: CertificateContent, authority: &AuthorityKey) -> Vec<u8> {
        self.announce_as(1, content, authority)
    }

    /// The same with a sequence number.
    pub fn announce_as(&self, sequence: u64, content: CertificateContent, authority: &AuthorityKey) -> Vec<u8> {
        self.sign(sequence, &Certificate::sign(content, authority).expect("it can be signed"))
    }

    /// An announcement of a prefix that the certificate doesn't allow.
    pub fn announce_outside(&self, prefix: &str) -> Vec<u8> {
        let mut certificate = Certificate::sign(self.content(), &self.authority).expect("it can be signed");
        // What is sent are the bytes that the authority signed; only the sender's own check is led astray.
        certificate.content.prefixes = vec![prefix.parse().expect("a prefix")];
        self.sign(1, &certificate)
    }

    /// An announcement that is right in everything.
    pub fn good(&self) -> Vec<u8> {
        self.announce(self.content(), &self.authority)
    }

    /// Writes mallory's certificate to a file, as the authority's tool does.
    pub fn certificate_file(&self) -> PathBuf {
        let certificate = Certificate::sign(self.content(), &self.authority).expect("it can be signed");
        let path = self.mesh.bed().directory().join("mallory.cert");
        files::replace(&path, FileKind::Certificate, "mallory", certificate.bytes()).expect("it is written");
        path
    }

    /// Sends a datagram from the provider's segment.
    pub fn send(&self, datagram: &[u8]) {
        let target = SocketAddr::new(self.target, sdwan::discovery::PORT);
        let provider = self.mesh.bed().provider("isp1");
        let sent = provider.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(datagram, target));
        sent.expect("the namespace is entered").expect("the datagram is sent");
    }

    /// Sends a datagram and waits until it is refused for this reason and counted.
    pub fn expect_refusal(&self, what: &str, datagram: &[u8], reason: &str) {
        let gateway = self.mesh.gateway("a");
        let before = refused(gateway, reason);
        self.send(datagram);
        wait_for_refusal(gateway, what, reason, before);
    }

    fn sign(&self, sequence: u64, certificate: &Certificate) -> Vec<u8> {
        let local = LocalAnnouncement {
            wireguard_key: [9; 32],
            next_wireguard_key: None,
            base_port: 51_820,
            uplinks: Vec::new(),
            prefixes: certificate.content.prefixes.clone(),
        };
        sign_announcement(certificate, sequence, self.now * 1_000, &local, &self.identity).expect("it can be signed")
    }
}

/// Datagrams that a gateway refused for a reason so far.
pub fn refused(gateway: &Gateway, reason: &str) -> u64 {
    let status = gateway.status().expect("the status is shown");
    status.refused_announcements.get(reason).copied().unwrap_or(0)
}

/// Waits until a gateway has refused more for a reason than before.
pub fn wait_for_refusal(gateway: &Gateway, what: &str, reason: &str, before: u64) {
    gateway
        .wait_for(&format!("{what} is refused as {reason}"), PATIENCE, |gateway| {
            let status = gateway.status()?;
            let count = status.refused_announcements.get(reason).copied().unwrap_or(0);
            Ok(if count > before { Ok(()) } else { Err(format!("{:?}", status.refused_announcements)) })
        })
        .expect("the refusal is counted");
}

/// Waits until `sdwan events` tells of every datagram that a gateway refused for these reasons.
pub fn wait_until_told(gateway: &Gateway, reasons: &[&str]) {
    gateway
        .wait_for("every refusal is told", PATIENCE, |gateway| {
            let events = events(gateway, EventKind::AnnouncementRefused)?;
            let refused = gateway.status()?.refused_announcements;
            let missing = reasons.iter().find_map(|reason| {
                let of_reason = events.iter().filter(|event| event.details["reason"] == *reason);
                let told: u64 = of_reason.filter_map(|event| event.details["count"].as_u64()).sum();
                let counted = refused.get(*reason).copied().unwrap_or(0);
                (told == 0 || told != counted).then(|| format!("{told} of {counted} {reason}"))
            });
            Ok(missing.map_or(Ok(()), Err))
        })
        .expect("the refusals are told");
}

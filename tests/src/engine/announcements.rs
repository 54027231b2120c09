//! How fast announcements are believed.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sdwan::discovery::DiscoveryLimits;
use sdwan::engine::types::SiteId;
use sdwan::trust::announcement::{LocalAnnouncement, sign_announcement};
use sdwan::trust::certificate::{Certificate, CertificateContent};
use sdwan::trust::keys::{AuthorityKey, IdentityKey};
use sdwan::trust::mesh::Mesh;
use sdwan::trust::revocation::RevocationList;
use sdwan::trust::verifier::{Now, Verdict, Verifier};

use super::world::remote;

/// A fixed date: Unix seconds.
const DATE: u64 = 1_800_000_000;

/// Sites with something to announce, and a gateway that hears it.
pub struct Announcements {
    sites: Vec<(IdentityKey, Certificate, LocalAnnouncement)>,
    authority: AuthorityKey,
    verifier: Verifier,
    sequence: u64,
}

impl Announcements {
    /// Of so many sites; the gateway has heard none of them.
    ///
    /// # Errors
    /// When a certificate can't be made.
    pub fn new(sites: u32) -> Result<Self> {
        let authority = AuthorityKey::generate();
        let site = |number| {
            let (identity, remote) = (IdentityKey::generate(), remote(number));
            let content = CertificateContent {
                mesh: authority.mesh(),
                identity: identity.public().to_bytes(),
                name: remote.name,
                not_before: DATE - 3_600,
                not_after: DATE + 86_400,
                prefixes: remote.prefixes.clone(),
            };
            let announcement = LocalAnnouncement {
                wireguard_key: remote.wireguard_key,
                next_wireguard_key: None,
                base_port: remote.base_port,
                uplinks: remote.uplinks,
                prefixes: remote.prefixes,
            };
            Ok((identity, Certificate::sign(content, &authority)?, announcement))
        };
        let sites = (0..sites).map(site).collect::<Result<_>>()?;
        let verifier = verifier(&authority)?;
        Ok(Self { sites, authority, verifier, sequence: 0 })
    }

    /// Every site announces itself once, signed beforehand. Returns how long it took to believe all of them.
    ///
    /// # Errors
    /// When one isn't believed.
    pub fn round(&mut self) -> Result<Duration> {
        self.sequence += 1;
        let made = DATE * 1_000 + self.sequence * 10_000;
        let sign = |(identity, certificate, content): &(IdentityKey, Certificate, LocalAnnouncement)| {
            sign_announcement(certificate, self.sequence, made, content, identity)
        };
        let datagrams = self.sites.iter().map(sign).collect::<Result<Vec<_>, _>>()?;
        let now = Now { monotonic: Duration::from_secs(self.sequence * 10), unix_ms: made };
        let began = Instant::now();
        for (number, datagram) in (0_u32..).zip(&datagrams) {
            let source = IpAddr::from((0xac10_0000 + number).to_be_bytes());
            let verdict = self.verifier.judge(now, source, false, datagram);
            ensure!(matches!(verdict, Ok(Verdict::Announcement(_))), "site {number} isn't believed: {verdict:?}");
        }
        Ok(began.elapsed())
    }

    /// The gateway forgets everybody.
    ///
    /// # Errors
    /// When the mesh can't be described.
    pub fn forget(&mut self) -> Result<()> {
        self.verifier = verifier(&self.authority)?;
        Ok(())
    }
}

/// One that takes as many from one source as come.
fn verifier(authority: &AuthorityKey) -> Result<Verifier> {
    let mut limits = DiscoveryLimits::default().verifier;
    for rate in [&mut limits.source, &mut limits.neighbour, &mut limits.strangers, &mut limits.acquaintances] {
        (rate.per_second, rate.burst) = (1e9, 1e9);
    }
    let mesh = Mesh::new("bench", None, authority)?;
    Ok(Verifier::new(mesh, SiteId([1; 16]), RevocationList::default(), limits))
}

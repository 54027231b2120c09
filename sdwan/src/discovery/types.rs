//! What discovery is told, and what it tells.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::Serialize;

use crate::engine::types::{RemoteSite, SiteId};
use crate::trust::clock::ClockChange;
use crate::trust::verifier::Refusal;
use crate::trust::verifier::limits::{Rate, VerifierLimits};

/// UDP port of discovery.
///
/// Not among the tunnels' ports, which are 64 from 51820 on.
pub const PORT: u16 = 51_819;
/// Multicast group on IPv4: administratively scoped (RFC 2365).
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 42, 1);
/// Multicast group on IPv6: link-local scope (RFC 4291 section 2.7).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0x5d, 0x57);

/// Where and how often discovery speaks.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// IPv4 group; default [`GROUP_V4`].
    pub group_v4: Ipv4Addr,
    /// IPv6 group, of link-local scope; default [`GROUP_V6`].
    pub group_v6: Ipv6Addr,
    /// UDP port of all sites of the mesh; default [`PORT`].
    pub port: u16,
    /// Timers.
    pub timers: Timers,
    /// Bounds.
    pub limits: DiscoveryLimits,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            group_v4: GROUP_V4,
            group_v6: GROUP_V6,
            port: PORT,
            timers: Timers::default(),
            limits: DiscoveryLimits::default(),
        }
    }
}

/// Timers of discovery.
#[derive(Clone, Copy, Debug)]
pub struct Timers {
    /// A new announcement at least this often; 30 s. Up to a fifth sooner, so that sites don't fall into step.
    pub announce: Duration,
    /// A site not heard for this long is inactive; 120 s.
    pub silent: Duration,
    /// Changes within this time go out as one announcement; 50 ms.
    pub debounce: Duration,
    /// How often a few known announcements are passed on unasked; 30 s.
    pub anti_entropy: Duration,
    /// How long a source that sent a fresh announcement is sent what is new; 120 s.
    pub proven: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            announce: Duration::from_secs(30),
            silent: Duration::from_secs(120),
            debounce: Duration::from_millis(50),
            anti_entropy: Duration::from_secs(30),
            proven: Duration::from_secs(120),
        }
    }
}

/// Bounds of discovery.
#[derive(Clone, Copy, Debug)]
pub struct DiscoveryLimits {
    /// Bounds of the verifier.
    pub verifier: VerifierLimits,
    /// Most sources on the underlay that are answered.
    pub proven_sources: usize,
    /// Most datagrams waiting to be sent.
    pub transmit_queue: usize,
    /// Most announcements waiting to be passed on to newcomers and by anti-entropy.
    pub sync_queue: usize,
    /// Pace of that queue.
    pub sync: Rate,
    /// Pace of news passed on at once.
    pub gossip: Rate,
    /// Targets of news that changed something.
    pub fanout_changed: usize,
    /// Targets of news that only says "still here".
    pub fanout_unchanged: usize,
}

impl Default for DiscoveryLimits {
    fn default() -> Self {
        Self {
            verifier: VerifierLimits::default(),
            proven_sources: 1_024,
            transmit_queue: 8_192,
            sync_queue: 8_192,
            sync: Rate { per_second: 500.0, burst: 100.0 },
            gossip: Rate { per_second: 1_000.0, burst: 2_000.0 },
            fanout_changed: 32,
            fanout_unchanged: 3,
        }
    }
}

/// An interface that discovery uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryInterface {
    /// Its name.
    pub name: String,
    /// Its index. A recreated interface has another, and gets new sockets.
    pub ifindex: u32,
    /// `SO_MARK` of everything sent, which leads it into the uplink's routing table.
    pub mark: Option<u32>,
    /// Send to the multicast groups and listen to them.
    pub multicast: bool,
    /// Send to seeds and to remembered sites: the interface leads to the underlay.
    pub seeds: bool,
}

/// What discovery tells.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum DiscoveryEvent {
    /// A site is active, or it changed. Also for each site remembered from before a restart.
    Site {
        /// The site.
        site: Box<RemoteSite>,
        /// About its announcement.
        announcement: AnnouncementInfo,
    },
    /// A site that was remembered from before a restart isn't believed any more.
    NotRecalled {
        /// The site.
        site: SiteId,
        /// Its name.
        name: String,
        /// Why.
        why: Removal,
    },
    /// A site announced itself again and nothing about it changed.
    Heard {
        /// The site.
        site: SiteId,
    },
    /// A site said goodbye.
    Left {
        /// The site.
        site: SiteId,
    },
    /// A site was not heard for too long.
    Inactive {
        /// The site.
        site: SiteId,
    },
    /// A site may not be part of the mesh any more.
    Removed {
        /// The site.
        site: SiteId,
        /// Why.
        why: Removal,
    },
    /// Datagrams were refused: at most one event per reason, source and second.
    Refused {
        /// Why.
        reason: Refusal,
        /// Where they came from; the unspecified address stands for many sources.
        source: IpAddr,
        /// The site that the last one claimed to come from. Not proven.
        claimed: Option<SiteId>,
        /// How many.
        count: u64,
    },
    /// A newer page of the revocation list arrived.
    RevocationsUpdated {
        /// Index of the page.
        page: u8,
        /// Its number.
        number: u64,
        /// Entries of the whole list.
        entries: usize,
    },
    /// This site's own certificate is revoked: the others drop it.
    OwnCertificateRevoked,
    /// Somebody announces with this site's identity and a larger sequence number. Normal once after its state was
    /// lost; otherwise another machine has a copy of the identity key.
    OwnIdentityElsewhere {
        /// Where the announcement came from last.
        source: IpAddr,
        /// Its sequence number.
        sequence: u64,
    },
    /// The wall clock was set by more than an hour, or is where it should be again.
    Clock(ClockChange),
    /// The store failed; discovery goes on without it.
    StoreFailed {
        /// Why.
        error: String,
    },
    /// An interface can't be used; it is tried again.
    InterfaceFailed {
        /// Its name.
        interface: String,
        /// Why.
        error: String,
    },
    /// A seed's name can't be resolved; it is tried again.
    SeedFailed {
        /// The seed as configured.
        seed: String,
        /// Why.
        error: String,
    },
}

impl DiscoveryEvent {
    /// The site whose state this event sets; such events are never dropped, only replaced by newer ones.
    pub fn sets_state_of(&self) -> Option<SiteId> {
        match self {
            Self::Site { site, .. } => Some(site.id),
            Self::Left { site } | Self::Inactive { site } | Self::Removed { site, .. } => Some(*site),
            _ => None,
        }
    }
}

/// Why a site was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removal {
    /// Its certificate, or the site, is revoked.
    Revoked,
    /// Its certificate ended.
    Expired,
    /// Another site with an earlier certificate has the same overlay address.
    OverlayCollision,
}

impl Removal {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Revoked => "its certificate is revoked",
            Self::Expired => "its certificate has expired",
            Self::OverlayCollision => "another site with an earlier certificate has the same overlay address",
        }
    }
}

/// About an accepted announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AnnouncementInfo {
    /// Its sequence number.
    pub sequence: u64,
    /// When it was made by the sender's clock, Unix time in ms.
    pub made_unix_ms: u64,
    /// End of the certificate, Unix time in s.
    pub not_after: u64,
    /// Where it came from; `None`: remembered from before a restart.
    pub source: Option<IpAddr>,
    /// It came through a tunnel of the mesh.
    pub by_tunnel: bool,
}

/// What discovery did so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiscoveryCounters {
    /// Datagrams received.
    pub received: u64,
    /// News accepted: announcements, leave messages, revocations.
    pub accepted: u64,
    /// Datagrams that said what was known.
    pub known: u64,
    /// Own messages that came back.
    pub own: u64,
    /// Datagrams refused, by reason in the order of [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Datagrams handed to a socket.
    pub sent: u64,
    /// Datagrams that a socket didn't take.
    pub send_failed: u64,
    /// Datagrams not sent because a queue or a rate was full.
    pub transmit_dropped: u64,
    /// Received datagrams dropped because the task was behind.
    pub receive_dropped: u64,
    /// Events dropped because nobody took them. Events that set a site's state are never dropped.
    pub events_dropped: u64,
    /// Announcements of this site that had to be put off because no sequence number was reserved.
    pub announcements_delayed: u64,
    /// Ed25519 verifications.
    pub verifications: u64,
    /// Certificates found in the cache.
    pub certificate_hits: u64,
    /// Entries that had to leave a full table: certificates, sources, sites, proven sources.
    pub evicted: u64,
}

impl DiscoveryCounters {
    /// Datagrams refused for this reason.
    pub fn refused_for(&self, reason: Refusal) -> u64 {
        Refusal::ALL.iter().position(|known| *known == reason).map_or(0, |index| self.refused[index])
    }
}

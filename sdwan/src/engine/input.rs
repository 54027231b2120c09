//! What goes into the engine and what comes out. Both are serialisable, so that a field problem can be recorded and
//! replayed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::capacity::{Direction, Estimate};
use super::estimate::{Counters, ProbeReply};
use super::events::EngineEvent;
use super::mtu::Known;
use super::types::{LocalUplink, PathKey, RemoteSite, SiteId, TunnelKey, UplinkIndex};

/// Something that the engine should know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Input {
    /// A verified announcement: the site is new, or changed.
    Site(RemoteSite),
    /// A site is gone; `kind` says how.
    SiteGone {
        /// The site.
        site: SiteId,
        /// In what way.
        gone: Gone,
    },
    /// The paths that the classes, by number, took before this daemon started. Comes before the sites' paths answer.
    Taken(Vec<(PathKey, u16)>),
    /// The state of all local uplinks.
    Uplinks(Vec<LocalUplink>),
    /// The tunnels whose interface exists.
    Tunnels(BTreeSet<TunnelKey>),
    /// An answer to a probe.
    ProbeReply {
        /// The path that it came by.
        path: PathKey,
        /// What it says.
        reply: ProbeReply,
    },
    /// What both ends of a path had counted of the data at a probe; comes right behind its answer.
    Counted {
        /// The path.
        path: PathKey,
        /// Sequence number of the probe.
        sequence: u32,
        /// The counters; `None` when one of the ends doesn't count.
        counters: Option<Counters>,
    },
    /// The data path found a path silent and left it by itself.
    Silent {
        /// The path.
        path: PathKey,
    },
    /// A site says by another path that it lost uplinks just now.
    UplinksLost {
        /// The site.
        site: SiteId,
        /// Its uplinks.
        uplinks: BTreeSet<UplinkIndex>,
        /// The same for all copies of one notice.
        number: u64,
    },
    /// The sites that user packets went to or came from since the last such input; comes about once a second.
    Traffic(BTreeSet<SiteId>),
    /// What paths carried towards the peer since the last such input, bit/s on the line; comes about once a second where a
    /// class is in duplicate mode.
    Load(BTreeMap<PathKey, u64>),
    /// The capacity of a path was found.
    Capacity {
        /// The path.
        path: PathKey,
        /// Towards the peer or from it.
        direction: Direction,
        /// What it is.
        estimate: Estimate,
    },
    /// What is known of the MTU of a path's underlay.
    PathMtu {
        /// The path.
        path: PathKey,
        /// Size of IP packets on the underlay, and how it is known.
        known: Known,
    },
}

/// How a site went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gone {
    /// It said goodbye.
    Left,
    /// It was silent for too long.
    Inactive,
    /// Its certificate was revoked or expired; the text says which.
    Removed(String),
}

/// A probe to send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// By which path.
    pub path: PathKey,
    /// Its sequence number.
    pub sequence: u32,
    /// Whether we hear the peer on this path.
    pub hears: bool,
    /// After how long without a probe of ours the peer may take this path for silent: what we give the peer, which
    /// covers the time to the next probes.
    pub detection: Duration,
}

/// What a peer is to be told at once: by this path, that these uplinks of this site are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// By which path.
    pub path: PathKey,
    /// The uplinks.
    pub lost: BTreeSet<UplinkIndex>,
    /// The same for all copies of one notice.
    pub number: u64,
}

/// What changed since the engine was last asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Paths whose state changed: these are urgent.
    pub states: BTreeSet<PathKey>,
    /// Paths whose detection time changed: before the probes slow down, the data path must know.
    pub detections: BTreeSet<PathKey>,
    /// (site, class) whose set changed.
    pub sets: BTreeSet<(SiteId, u16)>,
    /// Sites, uplinks, paths or prefixes came, went or changed: tunnels, routes and all maps follow.
    pub topology: bool,
    /// The policies changed.
    pub rules: bool,
    /// For operators.
    pub events: Vec<EngineEvent>,
    /// Peers are to be told.
    pub notices: Vec<Notice>,
}

impl Changes {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

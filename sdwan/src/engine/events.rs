//! What happened, for operators: the records of `sdwan events`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::types::{PathKey, SiteId};

/// The kinds of events and their names.
macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// Kind of an [`EngineEvent`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum EventKind { $($(#[$doc])* #[serde(rename = $text)] $variant,)* }

        impl EventKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name, as shown and stored.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

kinds! {
    /// The daemon started.
    DaemonStarted = "daemon-started",
    /// The daemon stops.
    DaemonStopped = "daemon-stopped",
    /// A site was discovered or came back.
    SiteUp = "site-up",
    /// A site was silent for too long.
    SiteInactive = "site-inactive",
    /// A site said goodbye.
    SiteLeft = "site-left",
    /// A site was removed: its certificate was revoked or expired.
    SiteRemoved = "site-removed",
    /// A path is up.
    PathUp = "path-up",
    /// A path is down.
    PathDown = "path-down",
    /// A path answers again and is held.
    PathRecovering = "path-recovering",
    /// A path's score fell below what is good enough.
    PathDegraded = "path-degraded",
    /// A path's score is good enough again.
    PathImproved = "path-improved",
    /// The MTU of a path's underlay changed.
    PathMtuChanged = "path-mtu-changed",
    /// The data path left a silent path by itself.
    PathSilent = "path-silent",
    /// A class of traffic to a site moved to another path.
    ClassMoved = "class-moved",
    /// Flows of a class moved to another path: how many.
    FlowsMoved = "flows-moved",
    /// A local uplink came up.
    UplinkUp = "uplink-up",
    /// A local uplink went down.
    UplinkDown = "uplink-down",
    /// A local uplink's address or gateway changed.
    UplinkChanged = "uplink-changed",
    /// A tunnel could not be made or was lost.
    TunnelTrouble = "tunnel-trouble",
    /// An announcement was refused.
    AnnouncementRefused = "announcement-refused",
    /// The wall clock was set by more than an hour, or is right again.
    ClockSet = "clock-set",
    /// The daemon was told to take its files anew.
    Reload = "reload",
    /// The policies changed.
    PoliciesChanged = "policies-changed",
    /// The data path could not be set up as wanted.
    DataplaneTrouble = "dataplane-trouble",
    /// The store has trouble: full disk, corrupt database.
    StoreTrouble = "store-trouble",
}

impl utoipa::PartialSchema for EventKind {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{Object, Type};
        let names = Self::ALL.iter().map(|kind| kind.name());
        let object = Object::builder().schema_type(Type::String).enum_values(Some(names));
        object.description(Some("Kind of an event")).into()
    }
}

impl utoipa::ToSchema for EventKind {}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no kind of event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of event; there are: {all}", all = EventKind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", "))]
pub struct UnknownKind(String);

impl FromStr for EventKind {
    type Err = UnknownKind;
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.iter().copied().find(|kind| kind.name() == text).ok_or_else(|| UnknownKind(text.into()))
    }
}

/// Something that happened. The driver adds the wall-clock time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EngineEvent {
    /// What.
    pub kind: EventKind,
    /// One sentence: what changed, why, from what to what.
    pub message: String,
    /// The remote site, if one is concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteId>,
    /// The path now, if one is concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathKey>,
    /// The path before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_path: Option<PathKey>,
    /// Name of the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Further facts; the keys depend on the kind.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub details: serde_json::Value,
}

impl EngineEvent {
    /// An event about nothing in particular.
    pub fn new(kind: EventKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            site: None,
            path: None,
            from_path: None,
            class: None,
            details: serde_json::Value::Null,
        }
    }

    /// Concerns a site.
    pub fn with_site(mut self, site: SiteId) -> Self {
        self.site = Some(site);
        self
    }

    /// Concerns a path, hence its site.
    pub fn with_path(mut self, path: PathKey) -> Self {
        self.site = Some(path.site);
        self.path = Some(path);
        self
    }
}

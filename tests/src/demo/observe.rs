//! Which class uses which path, from what the gateway's own commands say.

use std::collections::BTreeMap;
use std::fmt;

use sdwan::api::views::FlowView;

/// Destination port of voice.
pub const VOICE_PORT: u16 = 16_400;
/// Destination port of the bulk transfer (rsync's).
pub const BULK_PORT: u16 = 873;
/// Destination port of the web server.
pub const WEB_PORT: u16 = 80;

/// The kinds of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// RTP-like UDP.
    Voice,
    /// One long TCP transfer.
    Bulk,
    /// HTTP.
    Web,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Voice, Self::Bulk, Self::Web];

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Voice => "voice",
            Self::Bulk => "bulk",
            Self::Web => "web",
        }
    }

    /// The one whose packets go to this port.
    pub const fn of_port(port: u16) -> Option<Self> {
        match port {
            VOICE_PORT => Some(Self::Voice),
            BULK_PORT => Some(Self::Bulk),
            WEB_PORT => Some(Self::Web),
            _ => None,
        }
    }
}

/// A path by the names of its uplinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathName {
    /// Uplink of this site.
    pub local: String,
    /// Uplink of the other site.
    pub remote: String,
}

impl fmt::Display for PathName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}→{}", self.local, self.remote)
    }
}

/// The path of each class at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    paths: BTreeMap<Class, PathName>,
}

impl Observation {
    /// From the flows of a gateway: of each class the flow whose last packet is the latest.
    pub fn of(flows: &[FlowView]) -> Self {
        let mut latest: BTreeMap<Class, (f64, PathName)> = BTreeMap::new();
        for flow in flows {
            let Some(class) = Class::of_port(flow.destination_port) else { continue };
            let Some((local, remote)) = flow.path.uplinks.split_once('→') else { continue };
            let path = PathName { local: local.trim().into(), remote: remote.trim().into() };
            if latest.get(&class).is_none_or(|(idle, _)| flow.idle_s < *idle) {
                latest.insert(class, (flow.idle_s, path));
            }
        }
        Self { paths: latest.into_iter().map(|(class, (_, path))| (class, path)).collect() }
    }

    /// The path of a class.
    pub fn path(&self, class: Class) -> Option<&PathName> {
        self.paths.get(&class)
    }

    /// The path of a class in words.
    pub fn path_text(&self, class: Class) -> String {
        self.path(class).map_or_else(|| "no path".into(), ToString::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16, uplinks: &str, idle_s: f64) -> FlowView {
        let text = serde_json::json!({
            "source": "10.1.0.2", "source_port": 40_000, "destination": "10.2.0.2", "destination_port": port,
            "protocol": "udp", "class": "voip-video", "policy": null,
            "path": { "number": 1, "site_name": "b", "tunnel": null, "uplinks": uplinks },
            "packets": 1, "bytes": 1, "age_s": 9.0, "idle_s": idle_s, "moves": 0,
        });
        serde_json::from_value(text).expect("a flow")
    }

    #[test]
    fn each_class_has_the_path_of_its_latest_flow() {
        let flows = [
            flow(WEB_PORT, "isp1 → isp1", 3.0),
            flow(WEB_PORT, "isp2 → isp1", 0.1),
            flow(VOICE_PORT, "isp1 → isp2", 0.0),
            flow(9, "isp1 → isp2", 0.0),
        ];
        let seen = Observation::of(&flows);
        assert_eq!(seen.path_text(Class::Web), "isp2→isp1");
        assert_eq!(seen.path_text(Class::Voice), "isp1→isp2");
        assert_eq!(seen.path_text(Class::Bulk), "no path");
    }
}

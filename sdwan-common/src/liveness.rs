//! Is a path usable right now? Decided at each packet, so that a broken path is left even when the daemon is dead.

use crate::abi::{Config, Path, PathLive, SiteLive, path_state, peer_flag};
use crate::select::CandidateState;

/// Why a path is usable, or isn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// The daemon says so and its probes are answered.
    Alive,
    /// The daemon is silent; the peer's probes come in and say that it hears us.
    AliveByPeer,
    /// The daemon and the peer's are both silent: the last written state stands.
    FailStatic,
    /// The daemon wrote that it is down.
    Down,
    /// The operator switched it off, or the slot is free.
    Disabled,
    /// The daemon is alive, went on probing, and its probes on this path are not answered.
    Silent,
    /// The daemon is silent, and the peer's probes come in on other paths only, or say that they don't hear us here.
    SilentByPeer,
}

impl Liveness {
    /// May a flow use the path?
    #[inline(always)]
    pub const fn usable(self) -> bool {
        matches!(self, Self::Alive | Self::AliveByPeer | Self::FailStatic)
    }
}

/// The bounds of what a peer may say about its own detection time, ns: it can't make a silent path live for ever, nor
/// have it flicker between any two probes.
pub const PEER_DETECTION_NS: core::ops::RangeInclusive<u64> = 10_000_000..=300_000_000_000;

/// After how long without a probe of the peer the path is silent, ns: what the peer said, within
/// [`PEER_DETECTION_NS`]; of one that doesn't say, what the daemon wrote. 0: the check is off.
#[inline(always)]
pub const fn peer_detection_ns(path: &Path, live: &PathLive) -> u64 {
    let (least, most) = (*PEER_DETECTION_NS.start(), *PEER_DETECTION_NS.end());
    match live.peer_detection_ns {
        _ if path.peer_detection_ns == 0 => 0,
        0 => path.peer_detection_ns,
        said if said < least => least,
        said if said > most => most,
        said => said,
    }
}

/// Does the local daemon probe? `site` of [`path_liveness`] counts only while it doesn't.
#[inline(always)]
pub const fn daemon_alive(config: &Config, now_ns: u64) -> bool {
    now_ns.saturating_sub(config.heartbeat_ns) <= config.heartbeat_stale_ns
}

/// What [`crate::select::select`] asks about a path: `None` when it is [`Liveness::Disabled`], which is no candidate even
/// when every other path is down. A path on which the peer doesn't hear us was last heard when it last answered: on a line
/// that works inbound only, its probes come in all the time.
#[inline(always)]
pub fn candidate_state(live: &PathLive, liveness: Liveness) -> Option<CandidateState> {
    if matches!(liveness, Liveness::Disabled) {
        return None;
    }
    let by_peer_ns = if live.peer_flags & peer_flag::HEARS != 0 { live.last_peer_probe_ns } else { 0 };
    let heard_ns = if live.last_reply_ns > by_peer_ns { live.last_reply_ns } else { by_peer_ns };
    Some(CandidateState { usable: liveness.usable(), heard_ns })
}

/// Decides about one path.
///
/// `site` is when the path's site probed us on any path; `now_ns` is the time of `CLOCK_MONOTONIC`. A coarse clock may lag
/// behind the stamps: differences saturate at zero.
#[inline(always)]
pub fn path_liveness(path: &Path, live: &PathLive, site: &SiteLive, config: &Config, now_ns: u64) -> Liveness {
    if path.state != path_state::UP && path.state != path_state::DOWN {
        return Liveness::Disabled;
    }
    if daemon_alive(config, now_ns) {
        if path.state == path_state::DOWN {
            return Liveness::Down;
        }
        let fresh = path.detection_ns == 0 || now_ns.saturating_sub(live.last_reply_ns) <= path.detection_ns;
        return if fresh || !missed(config.heartbeat_ns, live.last_reply_ns, path.detection_ns) {
            Liveness::Alive
        } else {
            Liveness::Silent
        };
    }
    let peer_detection = peer_detection_ns(path, live);
    let written = if path.state == path_state::UP { Liveness::FailStatic } else { Liveness::Down };
    if peer_detection == 0 {
        return written;
    }
    // A peer that goes on after a pause probes one path a little earlier than another: the pause counts against none that
    // was probed until then.
    let paused =
        site.resumed_ns > live.last_peer_probe_ns && !missed(site.paused_ns, live.last_peer_probe_ns, peer_detection);
    let heard_ns = if paused { site.resumed_ns } else { live.last_peer_probe_ns };
    let here = now_ns.saturating_sub(heard_ns) <= peer_detection;
    let elsewhere = now_ns.saturating_sub(site.last_peer_probe_ns) <= peer_detection;
    // A peer that stopped probed one path a little later than another: nothing is missed on that one.
    if here || elsewhere && !missed(site.last_peer_probe_ns, heard_ns, peer_detection) {
        let heard = live.peer_flags & peer_flag::HEARS != 0;
        return if heard { Liveness::AliveByPeer } else { Liveness::SilentByPeer };
    }
    if elsewhere { Liveness::SilentByPeer } else { written }
}

impl SiteLive {
    /// A probe of the site came in on some path at `now_ns`. `said_ns` is how long it wants to be waited for, 0 when it
    /// doesn't say; a probe that is later than that makes the time before a pause.
    #[inline(always)]
    pub const fn probed(&mut self, said_ns: u64, now_ns: u64) {
        if said_ns != 0 && missed(now_ns, self.last_peer_probe_ns, said_ns) {
            self.paused_ns = self.last_peer_probe_ns;
            self.resumed_ns = now_ns;
        }
        self.last_peer_probe_ns = now_ns;
    }
}

/// Is anything missed on a path that was heard last at `heard_ns`, by somebody who gave a sign at `sign_ns`? Only if they
/// went on for two thirds of the detection time: who stopped soon after the path was heard, and isn't known to have stopped
/// yet, did not send what would be missed.
#[inline(always)]
const fn missed(sign_ns: u64, heard_ns: u64, detection_ns: u64) -> bool {
    sign_ns.saturating_sub(heard_ns) >= detection_ns / 3 * 2
}

#[cfg(test)]
mod tests;

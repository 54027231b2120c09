//! One question → its answer (RFC 8762 section 4.3, RFC 8972 section 4). Pure: no clock, no socket, no state.
//!
//! An answer is exactly as long as its question.

mod location;
#[cfg(test)]
mod tests;
mod tlvs;

use std::net::{IpAddr, SocketAddr};

use sdwan_common::stamp::{BASE_LENGTH, ErrorEstimate, ReflectorPacket, SenderPacket, Timestamp, authenticated};

use super::counters::Refusal;
use super::key::Key;
pub use tlvs::{Marked, Marks};

/// The two modes of STAMP (RFC 8762 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Base packets of 44 bytes. With a key, HMAC TLVs are verified and answered.
    Unauthenticated,
    /// Base packets of 112 bytes with a hash.
    Authenticated,
}

impl Mode {
    /// Bytes of a base packet.
    pub const fn base_length(self) -> usize {
        match self {
            Self::Unauthenticated => BASE_LENGTH,
            Self::Authenticated => authenticated::LENGTH,
        }
    }
}

/// Which DSCP a question may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedDscp(u64);

impl AllowedDscp {
    /// Any.
    pub const ANY: Self = Self(u64::MAX);

    /// These values, each 0..=63; others are left out.
    pub fn only(values: impl IntoIterator<Item = u8>) -> Self {
        Self(values.into_iter().filter(|value| *value < 64).fold(0, |bits, value| bits | 1 << value))
    }

    /// Whether a value is among them.
    pub const fn allows(self, dscp: u8) -> bool {
        dscp < 64 && self.0 & 1 << dscp != 0
    }
}

/// What was observed of a question.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Who sent it.
    pub source: SocketAddr,
    /// Where to, if the kernel said.
    pub destination: Option<IpAddr>,
    /// The reflector's port.
    pub port: u16,
    /// TTL or hop limit as it arrived, 0 if the kernel didn't say.
    pub ttl: u8,
    /// DSCP and ECN as they arrived.
    pub traffic_class: u8,
    /// T2, ns since 1970 UTC.
    pub received_unix_ns: u64,
}

/// What the session gives to its answer.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// Sequence number of the answer.
    pub sequence: u32,
    /// For the Direct Measurement TLV: packets received from the sender and sent to it. `None`: not supported.
    pub direct: Option<(u32, u32)>,
    /// For the Follow-Up Telemetry TLV: number and time of the answer before; `None`: there is none, or the reflector
    /// keeps no state.
    pub last_sent: Option<(u32, u64)>,
}

/// What is known of this machine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockQuality {
    /// An external source keeps it in step with UTC.
    pub synchronized: bool,
    /// How far it may be off, ns.
    pub error_ns: u64,
}

impl ClockQuality {
    /// As an error estimate.
    pub fn estimate(self, ptp: bool) -> ErrorEstimate {
        ErrorEstimate::of(self.error_ns, self.synchronized, ptp)
    }
}

/// What the operator set.
#[derive(Clone, Debug)]
pub struct Manner {
    /// The mode.
    pub mode: Mode,
    /// The key; the authenticated mode needs one.
    pub key: Option<Key>,
    /// Which DSCP a question may ask for.
    pub dscp: AllowedDscp,
}

/// An answer to be sent back to where the question came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The DSCP that it shall have.
    pub dscp: u8,
    /// What was said of its TLVs.
    pub marks: Marks,
}

/// The base packet of a question, verified as early as possible (RFC 8762 section 4.4).
///
/// # Errors
/// [`Refusal::Truncated`], [`Refusal::BadHmac`].
pub fn verify(payload: &[u8], manner: &Manner) -> Result<SenderPacket, Refusal> {
    match manner.mode {
        Mode::Unauthenticated => SenderPacket::decode(payload).map_err(|_| Refusal::Truncated),
        Mode::Authenticated => {
            let packet = SenderPacket::decode_authenticated(payload).map_err(|_| Refusal::Truncated)?;
            let good = manner.key.as_ref().is_some_and(|key| key.verifies_base(payload));
            if good { Ok(packet) } else { Err(Refusal::BadHmac) }
        }
    }
}

/// Everything that an answer rests on besides the question's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// What the operator set.
    pub manner: &'a Manner,
    /// What was observed of the question.
    pub seen: &'a Seen,
    /// What its session gives.
    pub numbers: &'a Numbers,
    /// This machine's clock.
    pub clock: ClockQuality,
}

/// Writes the answer to a verified question into `out`. `now_unix_ns` is asked for T3 last of all.
pub fn answer(
    payload: &[u8],
    question: &SenderPacket,
    circumstances: Circumstances<'_>,
    now_unix_ns: impl FnOnce() -> u64,
    out: &mut Vec<u8>,
) -> Outcome {
    let Circumstances { manner, seen, numbers, clock } = circumstances;
    let base_length = manner.mode.base_length();
    out.clear();
    out.extend_from_slice(payload);
    // Timestamps in the sender's format: it understands that one for sure, also when it is an old TWAMP sender that
    // knows no other than NTP's (RFC 8762 section 4.6).
    let ptp = question.error_estimate.ptp;
    let mut marked = Marked::new(&mut out[base_length.min(payload.len())..], question, circumstances);
    let outcome = marked.process();
    let sent = now_unix_ns().max(seen.received_unix_ns);
    let packet = ReflectorPacket {
        error_estimate: clock.estimate(ptp),
        ..ReflectorPacket::answer(
            question,
            numbers.sequence,
            Timestamp::in_format(seen.received_unix_ns, ptp),
            Timestamp::in_format(sent, ptp),
            seen.ttl,
        )
    };
    match (manner.mode, &manner.key) {
        (Mode::Authenticated, Some(key)) => {
            let mut base = packet.encode_authenticated();
            key.sign_base(&mut base);
            out[..base_length].copy_from_slice(&base);
        }
        _ => out[..BASE_LENGTH].copy_from_slice(&packet.encode()),
    }
    outcome
}

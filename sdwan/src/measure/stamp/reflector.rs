//! The session reflector without its sockets: who is answered, and with which number.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sdwan_common::stamp::PORT;

use super::MAXIMUM_PAYLOAD;
use super::answer::{Circumstances, ClockQuality, Manner, Mode, Numbers, Seen, answer, verify};
use super::counters::{ReflectorCounters, Refusal};
use super::limits::{Limits, Rates};
use super::sessions::{Arrival, SessionKey, Sessions};

/// Sessions whose numbers are kept; the one used longest ago makes room.
pub const SESSIONS: usize = 16_384;

/// What a reflector is set to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Mode, key and allowed DSCP.
    pub manner: Manner,
    /// Sources that are answered; empty: all.
    pub allowed: Vec<IpNet>,
    /// How often they are answered.
    pub rates: Rates,
    /// Answers carry the question's number, and nothing is remembered (RFC 8762 section 4).
    pub stateless: bool,
    /// Whether packets from a reflector's port are refused. Off only where the port of the sender is known to be another.
    pub refuse_reflectors: bool,
    /// Whether the Direct Measurement TLV is answered, with the counts of the session's test packets.
    pub direct_measurement: bool,
}

/// An answer to send.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// UDP payload.
    pub payload: &'a [u8],
    /// DSCP to send it with.
    pub dscp: u8,
    /// To be told to [`Reflector::sent`].
    pub token: Option<Token>,
}

/// Which answer was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    key: SessionKey,
    sequence: u32,
}

/// A reflector of one listening socket, or of one tunnel.
#[derive(Debug)]
pub struct Reflector {
    settings: Settings,
    sessions: Sessions,
    counters: Arc<ReflectorCounters>,
    buffer: Vec<u8>,
}

impl Reflector {
    /// One that keeps `sessions` sessions.
    pub fn new(settings: Settings, sessions: usize, counters: Arc<ReflectorCounters>) -> Self {
        Self { settings, sessions: Sessions::new(sessions), counters, buffer: Vec::new() }
    }

    /// Its counters.
    pub fn counters(&self) -> &ReflectorCounters {
        &self.counters
    }

    /// Answers a packet or refuses it; counts either. `limits` may be shared with other reflectors; `now_ns` is monotonic
    /// and `now_unix_ns` is asked for the send time.
    ///
    /// # Errors
    /// The reason why there is no answer. Nothing has changed then, but for the counters and the limits.
    pub fn handle(
        &mut self,
        payload: &[u8],
        seen: &Seen,
        limits: &mut Limits,
        clock: ClockQuality,
        now_ns: u64,
        now_unix_ns: impl FnOnce() -> u64,
    ) -> Result<Reply<'_>, Refusal> {
        let counters = self.counters.clone();
        let refused = |refusal| {
            counters.refuse(refusal);
            Err(refusal)
        };
        if let Err(refusal) = self.admit(payload, seen).and_then(|()| limits.take(seen.source.ip(), now_ns)) {
            return refused(refusal);
        }
        let manner = &self.settings.manner;
        let question = match verify(payload, manner) {
            Ok(question) => question,
            Err(refusal) => return refused(refusal),
        };
        let key = SessionKey { source: seen.source, session: question.session, ptp: question.error_estimate.ptp };
        let mut token = None;
        let numbers = if self.settings.stateless {
            Numbers { sequence: question.sequence, direct: None, last_sent: None }
        } else {
            if self.sessions.arrival(&key, &question) == Arrival::Repeated {
                if manner.mode == Mode::Authenticated {
                    return refused(Refusal::Replayed);
                }
                // The network may have doubled it; then the sender wants to know.
                ReflectorCounters::count(&counters.repeated);
            }
            let evicted = self.sessions.evicted;
            let session = self.sessions.take(key, &question);
            let sequence = session.next;
            session.next = sequence.wrapping_add(1);
            token = Some(Token { key, sequence });
            let direct = self.settings.direct_measurement.then_some((session.received, session.next));
            let numbers = Numbers { sequence, direct, last_sent: session.last_sent };
            if self.sessions.evicted > evicted {
                ReflectorCounters::count(&counters.sessions_evicted);
            }
            numbers
        };
        let out = &mut self.buffer;
        let circumstances = Circumstances { manner, seen, numbers: &numbers, clock };
        let outcome = answer(payload, &question, circumstances, now_unix_ns, out);
        for (mark, counter) in [
            (outcome.marks.unrecognized, &counters.tlv_unrecognized),
            (outcome.marks.malformed, &counters.tlv_malformed),
            (outcome.marks.integrity, &counters.tlv_integrity),
        ] {
            if mark {
                ReflectorCounters::count(counter);
            }
        }
        Ok(Reply { payload: out, dscp: outcome.dscp, token })
    }

    /// An answer has left at this time, ns since 1970 UTC: the session's next one may say so (RFC 8972 section 4.7).
    pub fn sent(&mut self, token: Option<Token>, unix_ns: u64) {
        if let Some(token) = token
            && let Some(session) = self.sessions.get_mut(&token.key)
        {
            session.last_sent = Some((token.sequence, unix_ns));
        }
    }

    /// What is cheap to see.
    fn admit(&self, payload: &[u8], seen: &Seen) -> Result<(), Refusal> {
        let source = seen.source.ip().to_canonical();
        let allowed = &self.settings.allowed;
        if !allowed.is_empty() && !allowed.iter().any(|prefix| prefix.contains(&source)) {
            return Err(Refusal::SourceNotAllowed);
        }
        let port = seen.source.port();
        if self.settings.refuse_reflectors && (port == PORT || port == seen.port) || port == 0 {
            return Err(Refusal::ReflectorPort);
        }
        if seen.destination.is_some_and(|destination| !is_unicast(destination)) {
            return Err(Refusal::NotUnicast);
        }
        if payload.len() > MAXIMUM_PAYLOAD {
            return Err(Refusal::Oversized);
        }
        if payload.len() < self.settings.manner.mode.base_length() {
            return Err(Refusal::Truncated);
        }
        Ok(())
    }
}

fn is_unicast(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !address.is_multicast() && !address.is_broadcast(),
        IpAddr::V6(address) => !address.is_multicast(),
    }
}

#[cfg(test)]
mod tests;

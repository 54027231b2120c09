//! What a reflector did with the packets that came in: one counter per reason.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a packet got no answer. Nothing else came of it either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Shorter than a test packet of the mode; an answer would be longer than the question.
    Truncated,
    /// Longer than [`super::MAXIMUM_PAYLOAD`].
    Oversized,
    /// From a source outside the allowed prefixes.
    SourceNotAllowed,
    /// From a reflector's port: two reflectors would answer each other for ever.
    ReflectorPort,
    /// Not sent to a unicast address.
    NotUnicast,
    /// The source asks too often.
    SourceRateLimited,
    /// All sources together ask too often.
    RateLimited,
    /// The hash of the base packet is wrong: another key, forged, or changed on the way.
    BadHmac,
    /// An authenticated packet that came before.
    Replayed,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Truncated,
        Self::Oversized,
        Self::SourceNotAllowed,
        Self::ReflectorPort,
        Self::NotUnicast,
        Self::SourceRateLimited,
        Self::RateLimited,
        Self::BadHmac,
        Self::Replayed,
    ];

    /// Name of its counter.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Oversized => "oversized",
            Self::SourceNotAllowed => "source-not-allowed",
            Self::ReflectorPort => "reflector-port",
            Self::NotUnicast => "not-unicast",
            Self::SourceRateLimited => "source-rate-limited",
            Self::RateLimited => "rate-limited",
            Self::BadHmac => "bad-hmac",
            Self::Replayed => "replayed",
        }
    }
}

/// Counters since the start. Readers and the writer share them.
#[derive(Debug, Default)]
pub struct ReflectorCounters {
    /// Answers handed to the kernel.
    pub answered: AtomicU64,
    /// Answers that the kernel refused.
    pub send_failed: AtomicU64,
    /// Answered packets whose sequence number had been seen before in their session.
    pub repeated: AtomicU64,
    /// Answered packets with a TLV that isn't understood.
    pub tlv_unrecognized: AtomicU64,
    /// Answered packets with a TLV that is malformed.
    pub tlv_malformed: AtomicU64,
    /// Answered packets whose TLVs could not be authenticated.
    pub tlv_integrity: AtomicU64,
    /// Sessions that were forgotten to make room for new ones.
    pub sessions_evicted: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
}

impl ReflectorCounters {
    /// One more.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// One more packet without an answer.
    pub fn refuse(&self, refusal: Refusal) {
        Self::count(&self.refused[refusal as usize]);
    }

    /// Packets without an answer for this reason.
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.refused[refusal as usize].load(Ordering::Relaxed)
    }

    /// All counters by name; `answered` is there always, the others when they aren't zero.
    pub fn snapshot(&self) -> BTreeMap<String, u64> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut all = BTreeMap::from([("answered".to_owned(), load(&self.answered))]);
        let named = [
            ("send-failed", load(&self.send_failed)),
            ("repeated", load(&self.repeated)),
            ("tlv-unrecognized", load(&self.tlv_unrecognized)),
            ("tlv-malformed", load(&self.tlv_malformed)),
            ("tlv-integrity", load(&self.tlv_integrity)),
            ("sessions-evicted", load(&self.sessions_evicted)),
        ];
        let refused = Refusal::ALL.map(|refusal| (refusal.name(), self.refused(refusal)));
        all.extend(
            named.into_iter().chain(refused).filter(|(_, count)| *count > 0).map(|(name, count)| (name.into(), count)),
        );
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_a_counter_and_a_name_of_its_own() {
        let counters = ReflectorCounters::default();
        for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, index);
            (0..=index).for_each(|_| counters.refuse(refusal));
        }
        let shown = counters.snapshot();
        assert_eq!(shown.len(), Refusal::ALL.len() + 1, "{shown:?}");
        for refusal in Refusal::ALL {
            assert_eq!(shown[refusal.name()], refusal as u64 + 1);
        }
    }
}

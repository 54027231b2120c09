//! The TLVs of an answer: those of the question, in place, with their flags and values as RFC 8972 section 4 asks for.

use sdwan_common::stamp::direct::DirectMeasurement;
use sdwan_common::stamp::tlv::{
    AccessReport, ClassOfService, FollowUp, HMAC_LENGTH, LOCATION_PORTS_LENGTH, TimestampInformation, clock_source,
    kind, timestamping,
};
use sdwan_common::stamp::{SenderPacket, TLV_HEADER_LENGTH, Timestamp, direct, tlv_flag};

use super::{Circumstances, Mode, Outcome, location};

/// What was said of the TLVs of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// One isn't understood (flag U).
    pub unrecognized: bool,
    /// One is malformed (flag M).
    pub malformed: bool,
    /// They could not be authenticated (flag I).
    pub integrity: bool,
}

/// The TLVs while they are made those of the answer.
pub struct Marked<'a> {
    bytes: &'a mut [u8],
    question: &'a SenderPacket,
    by: Circumstances<'a>,
    class: Option<ClassOfService>,
    marks: Marks,
}

/// Where a TLV is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    at: usize,
    kind: u8,
    /// End of its value, beyond the end of the packet when it is cut.
    end: usize,
}

impl Place {
    fn value(self) -> std::ops::Range<usize> {
        self.at + TLV_HEADER_LENGTH..self.end
    }
}

/// The TLV that begins at an offset; `None` where there is no room for a header.
fn place(bytes: &[u8], at: usize) -> Option<Place> {
    let &[_, kind, high, low] = bytes.get(at..)?.first_chunk()?;
    Some(Place { at, kind, end: at + TLV_HEADER_LENGTH + usize::from(u16::from_be_bytes([high, low])) })
}

/// The outcome of looking for the HMAC TLV.
enum Authentication {
    /// Nothing to verify.
    NotNeeded,
    /// Verified: the HMAC TLV to sign anew.
    Verified(Place),
    Failed,
}

impl<'a> Marked<'a> {
    /// `bytes` are all TLVs of the packet, as they came.
    pub fn new(bytes: &'a mut [u8], question: &'a SenderPacket, by: Circumstances<'a>) -> Self {
        Self { bytes, question, by, class: None, marks: Marks::default() }
    }

    /// Makes them those of the answer.
    pub fn process(&mut self) -> Outcome {
        match self.authenticate() {
            Authentication::Failed => self.mark_all_unverified(),
            Authentication::NotNeeded => self.process_each(),
            Authentication::Verified(hmac) => {
                self.process_each();
                self.sign(hmac);
            }
        }
        // Without a wish the answer has the class of the question, as with TWAMP (RFC 5357 section 4.2.1).
        let seen = self.by.seen.traffic_class >> 2;
        let dscp = self.class.filter(|class| !class.refused).map_or(seen, |class| class.wanted);
        Outcome { dscp, marks: self.marks }
    }

    /// RFC 8972 section 4.8: the HMAC TLV comes after all others but padding, and is verified before any of them is used.
    fn authenticate(&self) -> Authentication {
        let (mut at, mut count, mut padding) = (0, 0, 0);
        let mut hmac = None;
        while let Some(found) = place(self.bytes, at) {
            count += 1;
            padding += usize::from(found.kind == kind::EXTRA_PADDING);
            match (hmac, found.kind) {
                (None, kind::HMAC) => hmac = Some(found),
                (Some(_), other) if other != kind::EXTRA_PADDING => return Authentication::Failed,
                _ => {}
            }
            if found.end > self.bytes.len() {
                break;
            }
            at = found.end;
        }
        let Some(found) = hmac else {
            let only_padding = count == 0 || (count == 1 && padding == 1);
            return match self.by.manner.mode {
                Mode::Authenticated if !only_padding => Authentication::Failed,
                _ => Authentication::NotNeeded,
            };
        };
        let hash = self.bytes.get(found.value()).unwrap_or_default();
        let verified = self
            .by
            .manner
            .key
            .as_ref()
            .is_some_and(|key| key.verifies_tlvs(self.question.sequence, &self.bytes[..found.at], hash));
        if verified { Authentication::Verified(found) } else { Authentication::Failed }
    }

    /// They go back as they came, each with the flag I.
    fn mark_all_unverified(&mut self) {
        self.marks.integrity = true;
        let mut at = 0;
        while let Some(found) = place(self.bytes, at) {
            let cut = found.end > self.bytes.len();
            let unknown = if is_known(found.kind) { 0 } else { tlv_flag::UNRECOGNIZED };
            self.bytes[at] = tlv_flag::INTEGRITY | unknown | if cut { tlv_flag::MALFORMED } else { 0 };
            at = found.end;
        }
    }

    /// Up to the first malformed one; the rest goes back as it came.
    fn process_each(&mut self) {
        let mut at = 0;
        while let Some(found) = place(self.bytes, at) {
            let flags = if found.end > self.bytes.len() {
                let unknown = if is_known(found.kind) { 0 } else { tlv_flag::UNRECOGNIZED };
                tlv_flag::MALFORMED | unknown
            } else {
                self.fill(found)
            };
            self.bytes[at] = flags;
            self.marks.unrecognized |= flags & tlv_flag::UNRECOGNIZED != 0;
            if flags & tlv_flag::MALFORMED != 0 {
                self.marks.malformed = true;
                return;
            }
            at = found.end;
        }
    }

    /// Fills in the value of a whole TLV; returns its flags.
    fn fill(&mut self, found: Place) -> u8 {
        const GOOD: u8 = 0;
        let value = &mut self.bytes[found.value()];
        match found.kind {
            kind::EXTRA_PADDING => GOOD,
            kind::LOCATION if value.len() >= LOCATION_PORTS_LENGTH => location::fill(value, self.by.seen),
            kind::TIMESTAMP_INFORMATION => match value.first_chunk_mut() {
                Some(front) => {
                    let source =
                        if self.by.clock.synchronized { clock_source::NTP } else { clock_source::FREE_RUNNING };
                    let method = timestamping::SOFTWARE;
                    *front = TimestampInformation {
                        source_in: source,
                        method_in: method,
                        source_out: source,
                        method_out: method,
                    }
                    .encode();
                    GOOD
                }
                None => tlv_flag::MALFORMED,
            },
            kind::CLASS_OF_SERVICE => match exact(value) {
                Some(value) => {
                    let wanted = ClassOfService::decode(value).wanted;
                    let class = ClassOfService {
                        wanted,
                        seen: self.by.seen.traffic_class >> 2,
                        ecn: self.by.seen.traffic_class & 3,
                        refused: !self.by.manner.dscp.allows(wanted),
                    };
                    *value = class.encode();
                    self.class = self.class.or(Some(class));
                    GOOD
                }
                None => tlv_flag::MALFORMED,
            },
            kind::DIRECT_MEASUREMENT if value.len() != direct::VALUE_LENGTH => tlv_flag::MALFORMED,
            kind::DIRECT_MEASUREMENT => match self.by.numbers.direct {
                Some((reflector_received, reflector_transmitted)) => {
                    let sender_transmitted =
                        value.first_chunk().map_or(0, |counter: &[u8; 4]| u32::from_be_bytes(*counter));
                    let counters = DirectMeasurement { sender_transmitted, reflector_received, reflector_transmitted };
                    value.copy_from_slice(&counters.encode()[TLV_HEADER_LENGTH..]);
                    GOOD
                }
                None => tlv_flag::UNRECOGNIZED,
            },
            kind::ACCESS_REPORT => match exact(value).map(|value| AccessReport::decode(value)) {
                Some(Some(_)) => GOOD,
                // About no access network: not to be used (section 4.6).
                Some(None) => tlv_flag::UNRECOGNIZED,
                None => tlv_flag::MALFORMED,
            },
            kind::FOLLOW_UP => match exact(value) {
                Some(value) => {
                    let ptp = self.question.error_estimate.ptp;
                    let follow_up = |(sequence, unix_ns)| FollowUp {
                        sequence,
                        timestamp: Timestamp::in_format(unix_ns, ptp),
                        method: timestamping::SOFTWARE,
                    };
                    *value = self.by.numbers.last_sent.map(follow_up).unwrap_or_default().encode();
                    GOOD
                }
                None => {
                    // Erratum 8339.
                    value.fill(0);
                    tlv_flag::MALFORMED
                }
            },
            // Verified by now, or it would not have come here.
            kind::HMAC => GOOD,
            kind::LOCATION => tlv_flag::MALFORMED,
            _ => tlv_flag::UNRECOGNIZED,
        }
    }

    /// The hash over what the TLVs are now.
    fn sign(&mut self, hmac: Place) {
        let Some(key) = &self.by.manner.key else { return };
        let hash: [u8; HMAC_LENGTH] = key.sign_tlvs(self.by.numbers.sequence, &self.bytes[..hmac.at]);
        self.bytes[hmac.value()].copy_from_slice(&hash);
        // It may stand behind a malformed one, where it was not reached.
        self.bytes[hmac.at] = 0;
    }
}

fn exact<const N: usize>(value: &mut [u8]) -> Option<&mut [u8; N]> {
    value.try_into().ok()
}

const fn is_known(kind: u8) -> bool {
    matches!(kind, kind::EXTRA_PADDING..=kind::HMAC)
}

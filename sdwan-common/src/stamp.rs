//! The STAMP wire format: RFC 8762 (both modes) and the session identifier and TLVs of RFC 8972.
//!
//! Timestamps are in the truncated PTPv2 format (RFC 8762 section 4.2.1, RFC 8186): 32 bits of seconds, 32 bits of
//! nanoseconds. The seconds count from 1970-01-01 00:00:00 **UTC** without leap seconds, like `CLOCK_REALTIME`; PTP's
//! own scale, TAI, is 37 s ahead at present. Both ends of our paths use the same scale, and the error estimate
//! ([`ErrorEstimate`]) doesn't claim synchronisation unless the daemon knows of it.
//!
//! The sender's packet is as long as the reflector's, so a reflector never amplifies. Right behind the 44 bytes, always
//! first and therefore at a fixed offset, our sender puts one TLV of type 251, for experimental use, [`Extension`], and behind
//! that the Direct Measurement TLV, [`direct`]. The types for private use (252 to 254) begin their value with an
//! enterprise number (RFC 8972 section 4), and we have none.

pub mod authenticated;
pub mod clock;
pub mod direct;
pub mod tlv;

/// UDP port of the reflector.
pub const PORT: u16 = 862;
/// Bytes of a test packet without TLVs, of the sender and of the reflector alike.
pub const BASE_LENGTH: usize = 44;
/// Bytes of a TLV's header: flags, type, length.
pub const TLV_HEADER_LENGTH: usize = 4;
/// Type of our TLV, of the range for experimental use (RFC 8972 section 5.1).
pub const EXTENSION_TYPE: u8 = 251;
/// Bytes of our TLV's value: magic, flags, a zero, the sender's detection time, and four bytes that the sender's own data
/// path writes when the answer comes back ([`direct::received`]).
pub const EXTENSION_VALUE_LENGTH: usize = 12;
/// Bytes of our TLV.
pub const EXTENSION_LENGTH: usize = TLV_HEADER_LENGTH + EXTENSION_VALUE_LENGTH;
/// Bytes of a probe of ours: the base, our TLV and the Direct Measurement TLV, without padding.
pub const PROBE_LENGTH: usize = BASE_LENGTH + EXTENSION_LENGTH + direct::LENGTH;
/// The first bytes of our TLV's value; the last one is the version.
pub const EXTENSION_MAGIC: [u8; 4] = *b"SDW\x02";

/// The flags byte of a TLV (RFC 8972 section 4).
pub mod tlv_flag {
    /// Unrecognized: a sender sets it, and a reflector that understands the TLV clears it.
    pub const UNRECOGNIZED: u8 = 0x80;
    /// Malformed: the reflector found a length that can't be.
    pub const MALFORMED: u8 = 0x40;
    /// Integrity: the reflector could not verify the HMAC.
    pub const INTEGRITY: u8 = 0x20;
}

/// A truncated PTPv2 timestamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970 UTC, modulo 2³² (wraps in 2106).
    pub seconds: u32,
    /// Nanoseconds, 0..1,000,000,000.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// From nanoseconds since 1970 UTC.
    #[inline(always)]
    pub const fn from_unix_ns(nanoseconds: u64) -> Self {
        Self { seconds: (nanoseconds / 1_000_000_000) as u32, nanoseconds: (nanoseconds % 1_000_000_000) as u32 }
    }

    /// Nanoseconds since 1970 UTC, in the first 2³² seconds.
    #[inline(always)]
    pub const fn as_unix_ns(self) -> u64 {
        self.seconds as u64 * 1_000_000_000 + self.nanoseconds as u64
    }
}

/// The error estimate of a timestamp (RFC 4656 section 4.1.2, RFC 8186 section 2.3):
/// `multiplier · 2^(scale − 32)` seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorEstimate {
    /// S: the clock is synchronised to UTC by an external source.
    pub synchronized: bool,
    /// Z: the timestamp is in PTPv2 format; NTP otherwise. Ours always are.
    pub ptp: bool,
    /// Scale, 0..=63.
    pub scale: u8,
    /// Multiplier, 1..=255; 0 is not allowed by the RFC.
    pub multiplier: u8,
}

impl ErrorEstimate {
    /// Of a clock that nothing keeps: PTPv2, no claim of synchronisation, 2⁻¹⁰ s ≈ 1 ms (the daemon renews the offset
    /// between the clocks with its heartbeat).
    pub const OURS: Self = Self { synchronized: false, ptp: true, scale: 22, multiplier: 1 };

    /// Of a clock that is kept within 2^(`scale` − 32) s of UTC; of one that nothing keeps if that is 0.
    #[inline(always)]
    pub const fn of_scale(scale: u8) -> Self {
        if scale == 0 { Self::OURS } else { Self { synchronized: true, ptp: true, scale: scale & 0x3f, multiplier: 1 } }
    }

    /// As on the wire, host byte order.
    #[inline(always)]
    pub const fn to_bits(self) -> u16 {
        (self.synchronized as u16) << 15
            | (self.ptp as u16) << 14
            | ((self.scale & 0x3f) as u16) << 8
            | self.multiplier as u16
    }

    /// From the wire's 16 bits, host byte order.
    #[inline(always)]
    pub const fn from_bits(bits: u16) -> Self {
        Self {
            synchronized: bits & 0x8000 != 0,
            ptp: bits & 0x4000 != 0,
            scale: (bits >> 8) as u8 & 0x3f,
            multiplier: bits as u8,
        }
    }
}

/// A session sender's test packet (RFC 8762 section 4.2.1, RFC 8972 section 3), without TLVs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderPacket {
    /// Sequence number, from 0, plus 1 for each packet of the session.
    pub sequence: u32,
    /// T1: when it was sent.
    pub timestamp: Timestamp,
    /// Error estimate of `timestamp`.
    pub error_estimate: ErrorEstimate,
    /// Session identifier (SSID), not 0.
    pub session: u16,
}

impl SenderPacket {
    /// The bytes on the wire.
    #[inline(always)]
    pub const fn encode(&self) -> [u8; BASE_LENGTH] {
        let mut bytes = [0; BASE_LENGTH];
        put_u32(&mut bytes, 0, self.sequence);
        put_timestamp(&mut bytes, 4, self.timestamp);
        put_u16(&mut bytes, 12, self.error_estimate.to_bits());
        put_u16(&mut bytes, 14, self.session);
        bytes
    }

    /// From the bytes on the wire; the bytes that must be zero are not looked at.
    #[inline(always)]
    pub const fn from_bytes(bytes: &[u8; BASE_LENGTH]) -> Self {
        Self {
            sequence: get_u32(bytes, 0),
            timestamp: get_timestamp(bytes, 4),
            error_estimate: ErrorEstimate::from_bits(get_u16(bytes, 12)),
            session: get_u16(bytes, 14),
        }
    }

    /// From a UDP payload: what follows the 44 bytes are [`Tlvs`].
    pub fn decode(payload: &[u8]) -> Result<Self, Truncated> {
        Ok(Self::from_bytes(base(payload)?))
    }
}

/// A session reflector's test packet (RFC 8762 section 4.3.1, RFC 8972 section 3), without TLVs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReflectorPacket {
    /// Sequence number of the stateful reflector.
    pub sequence: u32,
    /// T3: when the reflector sent it.
    pub timestamp: Timestamp,
    /// Error estimate of `timestamp` and `received`.
    pub error_estimate: ErrorEstimate,
    /// Session identifier, copied from the sender.
    pub session: u16,
    /// T2: when the reflector received the sender's packet.
    pub received: Timestamp,
    /// The sender's sequence number.
    pub sender_sequence: u32,
    /// T1, copied from the sender.
    pub sender_timestamp: Timestamp,
    /// The sender's error estimate.
    pub sender_error_estimate: ErrorEstimate,
    /// TTL or hop limit of the sender's packet as it arrived.
    pub sender_ttl: u8,
}

impl ReflectorPacket {
    /// The answer to a sender's packet.
    #[inline(always)]
    pub const fn answer(
        question: &SenderPacket,
        sequence: u32,
        received: Timestamp,
        sent: Timestamp,
        sender_ttl: u8,
    ) -> Self {
        Self {
            sequence,
            timestamp: sent,
            error_estimate: ErrorEstimate::OURS,
            session: question.session,
            received,
            sender_sequence: question.sequence,
            sender_timestamp: question.timestamp,
            sender_error_estimate: question.error_estimate,
            sender_ttl,
        }
    }

    /// The bytes on the wire.
    #[inline(always)]
    pub const fn encode(&self) -> [u8; BASE_LENGTH] {
        let mut bytes = [0; BASE_LENGTH];
        put_u32(&mut bytes, 0, self.sequence);
        put_timestamp(&mut bytes, 4, self.timestamp);
        put_u16(&mut bytes, 12, self.error_estimate.to_bits());
        put_u16(&mut bytes, 14, self.session);
        put_timestamp(&mut bytes, 16, self.received);
        put_u32(&mut bytes, 24, self.sender_sequence);
        put_timestamp(&mut bytes, 28, self.sender_timestamp);
        put_u16(&mut bytes, 36, self.sender_error_estimate.to_bits());
        bytes[40] = self.sender_ttl;
        bytes
    }

    /// From the bytes on the wire; the bytes that must be zero are not looked at.
    #[inline(always)]
    pub const fn from_bytes(bytes: &[u8; BASE_LENGTH]) -> Self {
        Self {
            sequence: get_u32(bytes, 0),
            timestamp: get_timestamp(bytes, 4),
            error_estimate: ErrorEstimate::from_bits(get_u16(bytes, 12)),
            session: get_u16(bytes, 14),
            received: get_timestamp(bytes, 16),
            sender_sequence: get_u32(bytes, 24),
            sender_timestamp: get_timestamp(bytes, 28),
            sender_error_estimate: ErrorEstimate::from_bits(get_u16(bytes, 36)),
            sender_ttl: bytes[40],
        }
    }

    /// From a UDP payload: what follows the 44 bytes are [`Tlvs`].
    pub fn decode(payload: &[u8]) -> Result<Self, Truncated> {
        Ok(Self::from_bytes(base(payload)?))
    }
}

/// Our TLV: what a sender tells the other end's data path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extension {
    /// Bits of [`crate::abi::peer_flag`], the low 8.
    pub flags: u8,
    /// After how long without a probe of this sender the path may be taken for silent: its own detection time, which
    /// follows its pace; in units of [`Self::DETECTION_UNIT_NS`]. 0: it doesn't say.
    pub detection: u16,
}

impl Extension {
    /// Unit of [`Self::detection`]: 10 ms, so that it reaches to 655 s.
    pub const DETECTION_UNIT_NS: u64 = 10_000_000;

    /// With this detection time, ns, rounded up; what is more than the field holds is said as the most that it does.
    #[inline(always)]
    pub const fn new(flags: u8, detection_ns: u64) -> Self {
        let units = detection_ns.div_ceil(Self::DETECTION_UNIT_NS);
        Self { flags, detection: if units > u16::MAX as u64 { u16::MAX } else { units as u16 } }
    }

    /// The detection time, ns; 0: the sender doesn't say.
    #[inline(always)]
    pub const fn detection_ns(self) -> u64 {
        self.detection as u64 * Self::DETECTION_UNIT_NS
    }

    /// The whole TLV as a sender sends it.
    #[inline(always)]
    pub const fn encode(self) -> [u8; EXTENSION_LENGTH] {
        let [a, b, c, d] = EXTENSION_MAGIC;
        let length = EXTENSION_VALUE_LENGTH as u8;
        let [high, low] = self.detection.to_be_bytes();
        [tlv_flag::UNRECOGNIZED, EXTENSION_TYPE, 0, length, a, b, c, d, self.flags, 0, high, low, 0, 0, 0, 0]
    }

    /// From the bytes of the whole TLV; `None` when it is another one, or another version. The TLV's flags byte, which
    /// the reflector changes, is not looked at.
    #[inline(always)]
    pub const fn from_bytes(bytes: &[u8; EXTENSION_LENGTH]) -> Option<Self> {
        let [a, b, c, d] = EXTENSION_MAGIC;
        let ours = bytes[1] == EXTENSION_TYPE
            && get_u16(bytes, 2) == EXTENSION_VALUE_LENGTH as u16
            && bytes[4] == a
            && bytes[5] == b
            && bytes[6] == c
            && bytes[7] == d;
        if ours { Some(Self { flags: bytes[8], detection: get_u16(bytes, 10) }) } else { None }
    }

    /// From a UDP payload: our TLV comes right behind the base.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        Self::from_bytes(payload.get(BASE_LENGTH..)?.first_chunk()?)
    }
}

/// A probe of ours: the sender's packet, our TLV, and the Direct Measurement TLV, which the data path fills in.
#[inline(always)]
pub fn encode_probe(packet: &SenderPacket, extension: Extension) -> [u8; PROBE_LENGTH] {
    let mut bytes = [0; PROBE_LENGTH];
    let (front, back) = bytes.split_at_mut(BASE_LENGTH);
    let (ours, counters) = back.split_at_mut(EXTENSION_LENGTH);
    front.copy_from_slice(&packet.encode());
    ours.copy_from_slice(&extension.encode());
    counters.copy_from_slice(&direct::DirectMeasurement::default().encode());
    bytes
}

/// A payload that is shorter than the packet of its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// Bytes that were there.
    pub length: usize,
    /// Bytes that are needed.
    pub needed: usize,
}

impl core::fmt::Display for Truncated {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "a STAMP packet of {} bytes: at least {} are needed", self.length, self.needed)
    }
}

impl core::error::Error for Truncated {}

/// One TLV (RFC 8972 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// Bits of [`tlv_flag`].
    pub flags: u8,
    /// Type.
    pub kind: u8,
    /// Value.
    pub value: &'a [u8],
}

impl Tlv<'_> {
    /// Writes the TLV to the front of `out` and returns its length; `None` when it doesn't fit there or its value is
    /// longer than 65,535 bytes.
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let length = u16::try_from(self.value.len()).ok()?;
        let total = TLV_HEADER_LENGTH + self.value.len();
        let (header, value) = out.get_mut(..total)?.split_at_mut(TLV_HEADER_LENGTH);
        let [high, low] = length.to_be_bytes();
        header.copy_from_slice(&[self.flags, self.kind, high, low]);
        value.copy_from_slice(self.value);
        Some(total)
    }
}

/// The TLVs of a test packet, in order. Ends at the first one that is longer than what is left; [`Tlvs::rest`] tells
/// whether that happened.
#[derive(Clone, Copy, Debug)]
pub struct Tlvs<'a> {
    rest: &'a [u8],
}

impl<'a> Tlvs<'a> {
    /// The TLVs in the UDP payload of a test packet.
    pub fn of(payload: &'a [u8]) -> Self {
        Self::in_bytes(payload.get(BASE_LENGTH..).unwrap_or_default())
    }

    /// The TLVs in bytes that hold nothing else.
    pub fn in_bytes(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not consumed: empty after the last TLV of a well-formed packet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Tlv<'a>;

    fn next(&mut self) -> Option<Tlv<'a>> {
        let (&[flags, kind, high, low], behind) = self.rest.split_first_chunk()?;
        let (value, rest) = behind.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        self.rest = rest;
        Some(Tlv { flags, kind, value })
    }
}

fn base<const N: usize>(payload: &[u8]) -> Result<&[u8; N], Truncated> {
    payload.first_chunk().ok_or(Truncated { length: payload.len(), needed: N })
}

// The offsets below are constants at every call, so the bounds checks disappear: the programs must not contain code
// that panics.

#[inline(always)]
const fn put_u16<const N: usize>(bytes: &mut [u8; N], at: usize, value: u16) {
    let [a, b] = value.to_be_bytes();
    bytes[at] = a;
    bytes[at + 1] = b;
}

#[inline(always)]
const fn put_u32<const N: usize>(bytes: &mut [u8; N], at: usize, value: u32) {
    put_u16(bytes, at, (value >> 16) as u16);
    put_u16(bytes, at + 2, value as u16);
}

#[inline(always)]
const fn put_timestamp<const N: usize>(bytes: &mut [u8; N], at: usize, value: Timestamp) {
    put_u32(bytes, at, value.seconds);
    put_u32(bytes, at + 4, value.nanoseconds);
}

#[inline(always)]
const fn get_u16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline(always)]
const fn get_u32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline(always)]
const fn get_timestamp<const N: usize>(bytes: &[u8; N], at: usize) -> Timestamp {
    Timestamp { seconds: get_u32(bytes, at), nanoseconds: get_u32(bytes, at + 4) }
}

#[cfg(test)]
mod tests;

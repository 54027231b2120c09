//! The base packets of the authenticated mode (RFC 8762 sections 4.2.2 and 4.3.2): the same fields as in the
//! unauthenticated mode, each in a block of 16 bytes, and a hash over the first six blocks at the end.
//!
//! The hash (HMAC-SHA-256 truncated to 16 bytes, RFC 8762 section 4.4) is the caller's: nothing here knows a key.

use super::{
    ErrorEstimate, ReflectorPacket, SenderPacket, Truncated, base, get_timestamp, get_u16, get_u32, put_timestamp,
    put_u16, put_u32,
};

/// Bytes of a test packet without TLVs, of the sender and of the reflector alike.
pub const LENGTH: usize = 112;
/// Bytes that the hash covers, from the first one on.
pub const COVERED: usize = 96;
/// Bytes of the hash, which follows them.
pub const HASH_LENGTH: usize = 16;

const TIMESTAMP: usize = 16;
const ERROR_ESTIMATE: usize = 24;
const SESSION: usize = 26;
const RECEIVED: usize = 32;
const SENDER_SEQUENCE: usize = 48;
const SENDER_TIMESTAMP: usize = 64;
const SENDER_ERROR_ESTIMATE: usize = 72;
const SENDER_TTL: usize = 80;

impl SenderPacket {
    /// The bytes on the wire in the authenticated mode, with zeros in place of the hash.
    #[inline]
    pub fn encode_authenticated(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        put_u32(&mut bytes, 0, self.sequence);
        put_timestamp(&mut bytes, TIMESTAMP, self.timestamp);
        put_u16(&mut bytes, ERROR_ESTIMATE, self.error_estimate.to_bits());
        put_u16(&mut bytes, SESSION, self.session);
        bytes
    }

    /// From the UDP payload of an authenticated packet, whose hash the caller has verified.
    ///
    /// # Errors
    /// When the payload has fewer than [`LENGTH`] bytes.
    #[inline]
    pub fn decode_authenticated(payload: &[u8]) -> Result<Self, Truncated> {
        let bytes: &[u8; LENGTH] = base(payload)?;
        Ok(Self {
            sequence: get_u32(bytes, 0),
            timestamp: get_timestamp(bytes, TIMESTAMP),
            error_estimate: ErrorEstimate::from_bits(get_u16(bytes, ERROR_ESTIMATE)),
            session: get_u16(bytes, SESSION),
        })
    }
}

impl ReflectorPacket {
    /// The bytes on the wire in the authenticated mode, with zeros in place of the hash.
    #[inline]
    pub fn encode_authenticated(&self) -> [u8; LENGTH] {
        let Self { sequence, timestamp, error_estimate, session, .. } = *self;
        // Both packets begin alike.
        let mut bytes = SenderPacket { sequence, timestamp, error_estimate, session }.encode_authenticated();
        put_timestamp(&mut bytes, RECEIVED, self.received);
        put_u32(&mut bytes, SENDER_SEQUENCE, self.sender_sequence);
        put_timestamp(&mut bytes, SENDER_TIMESTAMP, self.sender_timestamp);
        put_u16(&mut bytes, SENDER_ERROR_ESTIMATE, self.sender_error_estimate.to_bits());
        bytes[SENDER_TTL] = self.sender_ttl;
        bytes
    }

    /// From the UDP payload of an authenticated packet, whose hash the caller has verified.
    ///
    /// # Errors
    /// When the payload has fewer than [`LENGTH`] bytes.
    #[inline]
    pub fn decode_authenticated(payload: &[u8]) -> Result<Self, Truncated> {
        let SenderPacket { sequence, timestamp, error_estimate, session } =
            SenderPacket::decode_authenticated(payload)?;
        let bytes: &[u8; LENGTH] = base(payload)?;
        Ok(Self {
            sequence,
            timestamp,
            error_estimate,
            session,
            received: get_timestamp(bytes, RECEIVED),
            sender_sequence: get_u32(bytes, SENDER_SEQUENCE),
            sender_timestamp: get_timestamp(bytes, SENDER_TIMESTAMP),
            sender_error_estimate: ErrorEstimate::from_bits(get_u16(bytes, SENDER_ERROR_ESTIMATE)),
            sender_ttl: bytes[SENDER_TTL],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stamp::Timestamp;

    fn stamp(seconds: u32) -> Timestamp {
        Timestamp { seconds, nanoseconds: seconds + 1 }
    }

    #[test]
    fn the_packets_look_as_the_rfc_draws_them() {
        let question =
            SenderPacket { sequence: 1, timestamp: stamp(2), error_estimate: ErrorEstimate::from_bits(4), session: 5 };
        let mut expected = [0; LENGTH];
        expected[3] = 1;
        expected[16..28].copy_from_slice(&[0, 0, 0, 2, 0, 0, 0, 3, 0, 4, 0, 5]);
        assert_eq!(question.encode_authenticated(), expected);

        let answer = ReflectorPacket {
            sequence: 6,
            timestamp: stamp(7),
            error_estimate: ErrorEstimate::from_bits(9),
            session: 5,
            received: stamp(10),
            sender_sequence: 1,
            sender_timestamp: stamp(2),
            sender_error_estimate: ErrorEstimate::from_bits(4),
            sender_ttl: 12,
        };
        let mut expected = [0; LENGTH];
        expected[3] = 6;
        expected[16..28].copy_from_slice(&[0, 0, 0, 7, 0, 0, 0, 8, 0, 9, 0, 5]);
        expected[32..40].copy_from_slice(&[0, 0, 0, 10, 0, 0, 0, 11]);
        expected[51] = 1;
        expected[64..74].copy_from_slice(&[0, 0, 0, 2, 0, 0, 0, 3, 0, 4]);
        expected[80] = 12;
        assert_eq!(answer.encode_authenticated(), expected);
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(sequence: u32, seconds: u32, nanoseconds: u32, bits: u16, session: u16, ttl: u8) {
            let timestamp = Timestamp { seconds, nanoseconds };
            let error_estimate = ErrorEstimate::from_bits(bits);
            let question = SenderPacket { sequence, timestamp, error_estimate, session };
            prop_assert_eq!(SenderPacket::decode_authenticated(&question.encode_authenticated()), Ok(question));
            let answer = ReflectorPacket::answer(&question, !sequence, timestamp, timestamp, ttl);
            prop_assert_eq!(ReflectorPacket::decode_authenticated(&answer.encode_authenticated()), Ok(answer));
        }

        #[test]
        fn a_short_payload_is_refused(length in 0..LENGTH) {
            let refused = Truncated { length, needed: LENGTH };
            prop_assert_eq!(SenderPacket::decode_authenticated(&[0; LENGTH][..length]), Err(refused));
            prop_assert_eq!(ReflectorPacket::decode_authenticated(&[0; LENGTH][..length]), Err(refused));
        }
    }
}

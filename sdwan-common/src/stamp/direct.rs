//! The Direct Measurement TLV (RFC 8972 section 4.5): counters of the packets of the data itself.
//!
//! What counts is every packet that goes by the path, probes and their answers apart: the data path of the sender counts
//! it when it enters the tunnel, that of the receiver when it leaves it. The sender's data path writes `S_TxC` into each
//! probe as it enters the tunnel, the reflector's writes the other two into the answer, and when the answer comes out of
//! the tunnel the sender's writes what it has received itself into our own TLV ([`received`]): the numbers stand where
//! the probe stands among the data, however long a daemon takes to read them.
//!
//! 0 stands for a number that nobody wrote; a count of 0 packets says nothing about loss anyway.

use super::{BASE_LENGTH, EXTENSION_LENGTH, Extension, TLV_HEADER_LENGTH, get_u16, get_u32, tlv_flag};

/// Offset of the TLV in the payload of a probe of ours: right behind our own TLV.
pub const OFFSET: usize = BASE_LENGTH + EXTENSION_LENGTH;
/// Offset of `S_TxC` in the payload of a probe of ours.
pub const SENT_OFFSET: usize = OFFSET + TLV_HEADER_LENGTH;
/// Offset, in the payload of an answer to us, of what our own data path had received when the answer came in.
pub const RECEIVED_OFFSET: usize = OFFSET - 4;

/// Type of the TLV (RFC 8972 section 5.1).
pub const TYPE: u8 = 5;
/// Bytes of the TLV's value.
pub const VALUE_LENGTH: usize = 12;
/// Bytes of the TLV.
pub const LENGTH: usize = TLV_HEADER_LENGTH + VALUE_LENGTH;

/// What both ends count of one path; packets, modulo 2³².
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectMeasurement {
    /// `S_TxC`: packets that the sender had sent to the reflector when it sent the test packet.
    pub sender_transmitted: u32,
    /// `R_RxC`: packets of the sender that the reflector had received when the test packet came in; 0 in a question.
    pub reflector_received: u32,
    /// `R_TxC`: packets that the reflector had sent to the sender when it sent the answer; 0 in a question.
    pub reflector_transmitted: u32,
}

impl DirectMeasurement {
    /// The whole TLV as a sender sends it.
    #[inline(always)]
    pub const fn encode(self) -> [u8; LENGTH] {
        let [a, b, c, d] = self.sender_transmitted.to_be_bytes();
        let [e, f, g, h] = self.reflector_received.to_be_bytes();
        let [i, j, k, l] = self.reflector_transmitted.to_be_bytes();
        [tlv_flag::UNRECOGNIZED, TYPE, 0, VALUE_LENGTH as u8, a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// From the bytes of the whole TLV; `None` when it is another one. Its flags byte is not looked at.
    #[inline(always)]
    pub const fn from_bytes(bytes: &[u8; LENGTH]) -> Option<Self> {
        if bytes[1] != TYPE || get_u16(bytes, 2) != VALUE_LENGTH as u16 {
            return None;
        }
        Some(Self {
            sender_transmitted: get_u32(bytes, 4),
            reflector_received: get_u32(bytes, 8),
            reflector_transmitted: get_u32(bytes, 12),
        })
    }
}

impl DirectMeasurement {
    /// The whole TLV as a reflector that understands it answers.
    #[inline(always)]
    pub const fn encode_answer(self) -> [u8; LENGTH] {
        let mut bytes = self.encode();
        bytes[0] = 0;
        bytes
    }

    /// From the UDP payload of an answer to a probe of ours; `None` when the reflector didn't fill it in.
    pub fn answered(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = payload.get(OFFSET..)?.first_chunk()?;
        if bytes[0] != 0 { None } else { Self::from_bytes(bytes) }
    }
}

/// Packets of the path that this site had received when an answer to a probe of its own came in, modulo 2³², from the
/// answer's UDP payload: written by the data path that the answer came through.
pub fn received(payload: &[u8]) -> Option<u32> {
    Extension::decode(payload)?;
    payload.get(RECEIVED_OFFSET..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_measurement_reads_as_it_was_written_and_another_tlv_is_none() {
        let counters = DirectMeasurement {
            sender_transmitted: 0x0102_0304,
            reflector_received: 5,
            reflector_transmitted: u32::MAX,
        };
        let mut bytes = counters.encode();
        assert_eq!(bytes, [0x80, 5, 0, 12, 1, 2, 3, 4, 0, 0, 0, 5, 255, 255, 255, 255]);
        assert_eq!(DirectMeasurement::from_bytes(&bytes), Some(counters));
        bytes[3] = 8;
        assert_eq!(DirectMeasurement::from_bytes(&bytes), None);
        bytes[1..4].copy_from_slice(&[1, 0, 12]);
        assert_eq!(DirectMeasurement::from_bytes(&bytes), None);
    }

    #[test]
    fn an_answer_tells_its_counters_only_when_the_reflector_understood_them() {
        let mut payload = [0; super::super::PROBE_LENGTH];
        payload[BASE_LENGTH..OFFSET].copy_from_slice(&Extension::default().encode());
        payload[RECEIVED_OFFSET..OFFSET].copy_from_slice(&77_u32.to_be_bytes());
        let counters = DirectMeasurement { sender_transmitted: 9, reflector_received: 8, reflector_transmitted: 7 };
        payload[OFFSET..].copy_from_slice(&counters.encode());
        assert_eq!((DirectMeasurement::answered(&payload), received(&payload)), (None, Some(77)));
        payload[OFFSET..].copy_from_slice(&counters.encode_answer());
        assert_eq!(DirectMeasurement::answered(&payload), Some(counters));
        assert_eq!(DirectMeasurement::answered(&payload[..OFFSET + LENGTH - 1]), None, "cut short");
        assert_eq!(payload[SENT_OFFSET..][..4], 9_u32.to_be_bytes());
        payload[BASE_LENGTH + 1] ^= 1;
        assert_eq!(received(&payload), None, "another TLV is in the place of ours");
    }
}

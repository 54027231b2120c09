//! The values of the TLVs of RFC 8972 sections 4.1 to 4.8, but for [`super::direct`].

use super::{Timestamp, get_timestamp, get_u32, put_timestamp, put_u32};

/// Types of TLVs (RFC 8972 section 5.1).
pub mod kind {
    /// Extra Padding (section 4.1).
    pub const EXTRA_PADDING: u8 = 1;
    /// Location (section 4.2).
    pub const LOCATION: u8 = 2;
    /// Timestamp Information (section 4.3).
    pub const TIMESTAMP_INFORMATION: u8 = 3;
    /// Class of Service (section 4.4).
    pub const CLASS_OF_SERVICE: u8 = 4;
    /// Direct Measurement (section 4.5).
    pub const DIRECT_MEASUREMENT: u8 = crate::stamp::direct::TYPE;
    /// Access Report (section 4.6).
    pub const ACCESS_REPORT: u8 = 6;
    /// Follow-Up Telemetry (section 4.7).
    pub const FOLLOW_UP: u8 = 7;
    /// HMAC (section 4.8).
    pub const HMAC: u8 = 8;
}

/// Types of the Location TLV's own TLVs (RFC 8972 section 5.3).
pub mod location_kind {
    /// A question for the source's hardware address.
    pub const SOURCE_MAC: u8 = 1;
    /// The source's hardware address of 64 bits, zero where it isn't known.
    pub const SOURCE_EUI_64: u8 = 3;
    /// A question for the destination address.
    pub const DESTINATION: u8 = 4;
    /// The destination address, IPv4.
    pub const DESTINATION_V4: u8 = 5;
    /// The destination address, IPv6.
    pub const DESTINATION_V6: u8 = 6;
    /// A question for the source address.
    pub const SOURCE: u8 = 7;
    /// The source address, IPv4.
    pub const SOURCE_V4: u8 = 8;
    /// The source address, IPv6.
    pub const SOURCE_V6: u8 = 9;
}

/// Bytes of the HMAC TLV's value.
pub const HMAC_LENGTH: usize = 16;
/// Bytes of the ports at the front of the Location TLV's value.
pub const LOCATION_PORTS_LENGTH: usize = 4;

/// Where a clock has its time from (RFC 8972 section 5.4).
pub mod clock_source {
    /// NTP.
    pub const NTP: u8 = 1;
    /// Nothing: it runs free.
    pub const FREE_RUNNING: u8 = 5;
}

/// Who takes a timestamp (RFC 8972 section 5.5).
pub mod timestamping {
    /// Software of the system that the packet passes.
    pub const SOFTWARE: u8 = 2;
}

/// Timestamp Information (RFC 8972 section 4.3): all zero in a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimestampInformation {
    /// Where the clock has its time from that T2 was taken by.
    pub source_in: u8,
    /// How T2 was taken.
    pub method_in: u8,
    /// Where the clock has its time from that T3 was taken by.
    pub source_out: u8,
    /// How T3 was taken.
    pub method_out: u8,
}

impl TimestampInformation {
    /// Bytes of its value, without TLVs within it.
    pub const LENGTH: usize = 4;

    /// The value.
    #[inline]
    pub const fn encode(self) -> [u8; Self::LENGTH] {
        [self.source_in, self.method_in, self.source_out, self.method_out]
    }

    /// From the value.
    #[inline]
    pub const fn decode(value: &[u8; Self::LENGTH]) -> Self {
        let [source_in, method_in, source_out, method_out] = *value;
        Self { source_in, method_in, source_out, method_out }
    }
}

/// Class of Service (RFC 8972 section 4.4 with erratum 8199).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassOfService {
    /// DSCP1: the DSCP that the answer shall have, 0..=63.
    pub wanted: u8,
    /// DSCP2: the DSCP that the question had when it reached the reflector, 0..=63; 0 in a question.
    pub seen: u8,
    /// The ECN field that the question had when it reached the reflector, 0..=3; 0 in a question.
    pub ecn: u8,
    /// RP is 1: the reflector does not allow DSCP1, and answers with DSCP2. False in a question.
    pub refused: bool,
}

impl ClassOfService {
    /// Bytes of its value.
    pub const LENGTH: usize = 4;

    /// The value.
    #[inline]
    pub const fn encode(self) -> [u8; Self::LENGTH] {
        let bits = (self.wanted as u16 & 63) << 10
            | (self.seen as u16 & 63) << 4
            | (self.ecn as u16 & 3) << 2
            | self.refused as u16;
        let [high, low] = bits.to_be_bytes();
        [high, low, 0, 0]
    }

    /// From the value; the reserved bits are not looked at.
    #[inline]
    pub const fn decode(value: &[u8; Self::LENGTH]) -> Self {
        let bits = u16::from_be_bytes([value[0], value[1]]);
        Self {
            wanted: (bits >> 10) as u8,
            seen: (bits >> 4) as u8 & 63,
            ecn: (bits >> 2) as u8 & 3,
            refused: bits & 3 == 1,
        }
    }
}

/// Access Report (RFC 8972 section 4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessReport {
    /// Which access network: 1 of 3GPP, 2 another.
    pub network: u8,
    /// 1: it is available; 2: it is not.
    pub code: u8,
}

impl AccessReport {
    /// Bytes of its value.
    pub const LENGTH: usize = 4;

    /// The value.
    #[inline]
    pub const fn encode(self) -> [u8; Self::LENGTH] {
        [self.network << 4, self.code, 0, 0]
    }

    /// From the value; `None` when it is about no access network, and the TLV must be discarded. The reserved bits are
    /// not looked at.
    #[inline]
    pub const fn decode(value: &[u8; Self::LENGTH]) -> Option<Self> {
        let network = value[0] >> 4;
        if network == 1 || network == 2 { Some(Self { network, code: value[1] }) } else { None }
    }
}

/// Follow-Up Telemetry (RFC 8972 section 4.7): when the answer before this one really left. All zero in a question, and
/// in the answers of a stateless reflector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FollowUp {
    /// The reflector's sequence number of the answer before.
    pub sequence: u32,
    /// When that was sent, in the format of the answer's timestamps.
    pub timestamp: Timestamp,
    /// How that was found out ([`timestamping`]).
    pub method: u8,
}

impl FollowUp {
    /// Bytes of its value.
    pub const LENGTH: usize = 16;

    /// The value.
    #[inline]
    pub fn encode(self) -> [u8; Self::LENGTH] {
        let mut value = [0; Self::LENGTH];
        put_u32(&mut value, 0, self.sequence);
        put_timestamp(&mut value, 4, self.timestamp);
        value[12] = self.method;
        value
    }

    /// From the value; the reserved bytes are not looked at.
    #[inline]
    pub fn decode(value: &[u8; Self::LENGTH]) -> Self {
        Self { sequence: get_u32(value, 0), timestamp: get_timestamp(value, 4), method: value[12] }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_class_of_service_looks_as_the_rfc_draws_it() {
        let asked = ClassOfService { wanted: 46, ..ClassOfService::default() };
        assert_eq!(asked.encode(), [0b1011_1000, 0, 0, 0]);
        let answered = ClassOfService { wanted: 46, seen: 10, ecn: 2, refused: true };
        assert_eq!(answered.encode(), [0b1011_1000, 0b1010_1001, 0, 0]);
    }

    #[test]
    fn an_access_report_about_no_network_is_discarded() {
        assert_eq!(AccessReport::decode(&[0x2f, 7, 9, 9]), Some(AccessReport { network: 2, code: 7 }));
        for network in [0, 3, 15] {
            assert_eq!(AccessReport::decode(&[network << 4, 1, 0, 0]), None);
        }
    }

    proptest! {
        #[test]
        fn values_read_as_they_were_written(
            wanted in 0u8..64, seen in 0u8..64, ecn in 0u8..4, refused: bool,
            sequence: u32, seconds: u32, nanoseconds: u32, method: u8, bytes: [u8; 4],
        ) {
            let class = ClassOfService { wanted, seen, ecn, refused };
            prop_assert_eq!(ClassOfService::decode(&class.encode()), class);
            let follow_up = FollowUp { sequence, timestamp: Timestamp { seconds, nanoseconds }, method };
            prop_assert_eq!(FollowUp::decode(&follow_up.encode()), follow_up);
            prop_assert_eq!(TimestampInformation::decode(&bytes).encode(), bytes);
        }
    }
}

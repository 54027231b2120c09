//! The Location TLV of an answer (RFC 8972 section 4.2): the ports and addresses that the question was seen with.

use std::net::IpAddr;

use sdwan_common::stamp::tlv::{LOCATION_PORTS_LENGTH, location_kind};
use sdwan_common::stamp::{TLV_HEADER_LENGTH, tlv_flag};

use super::Seen;

/// Bytes of an address in the TLVs within it: IPv4 has zeros behind.
const ADDRESS_LENGTH: usize = 16;
/// Bytes of a hardware address.
const HARDWARE_LENGTH: usize = 8;

/// Fills in the value, which has the ports at least; returns the TLV's flags.
pub(super) fn fill(value: &mut [u8], seen: &Seen) -> u8 {
    let (ports, within) = value.split_at_mut(LOCATION_PORTS_LENGTH);
    ports[..2].copy_from_slice(&seen.port.to_be_bytes());
    ports[2..].copy_from_slice(&seen.source.port().to_be_bytes());
    let mut at = 0;
    while let Some(&[_, kind, high, low]) = within.get(at..).and_then(|rest| rest.first_chunk()) {
        let end = at + TLV_HEADER_LENGTH + usize::from(u16::from_be_bytes([high, low]));
        let Some(value) = within.get_mut(at + TLV_HEADER_LENGTH..end) else {
            within[at] = tlv_flag::MALFORMED;
            return tlv_flag::MALFORMED;
        };
        let (flags, kind) = answer(kind, value, seen);
        [within[at], within[at + 1]] = [flags, kind];
        if flags & tlv_flag::MALFORMED != 0 {
            return tlv_flag::MALFORMED;
        }
        at = end;
    }
    // Bytes left over are no TLV.
    if at == within.len() { 0 } else { tlv_flag::MALFORMED }
}

/// Flags and type of the answer to one question within it.
fn answer(kind: u8, value: &mut [u8], seen: &Seen) -> (u8, u8) {
    let (address, v4, v6) = match kind {
        location_kind::SOURCE_MAC if value.len() == HARDWARE_LENGTH => {
            // A UDP socket doesn't see hardware addresses.
            value.fill(0);
            return (0, location_kind::SOURCE_EUI_64);
        }
        location_kind::DESTINATION => (seen.destination, location_kind::DESTINATION_V4, location_kind::DESTINATION_V6),
        location_kind::SOURCE => (Some(seen.source.ip()), location_kind::SOURCE_V4, location_kind::SOURCE_V6),
        location_kind::SOURCE_MAC => return (tlv_flag::MALFORMED, kind),
        _ => return (tlv_flag::UNRECOGNIZED, kind),
    };
    if value.len() != ADDRESS_LENGTH {
        return (tlv_flag::MALFORMED, kind);
    }
    value.fill(0);
    match address.map(|address| address.to_canonical()) {
        Some(IpAddr::V4(address)) => {
            value[..4].copy_from_slice(&address.octets());
            (0, v4)
        }
        Some(IpAddr::V6(address)) => {
            value.copy_from_slice(&address.octets());
            (0, v6)
        }
        None => (tlv_flag::UNRECOGNIZED, kind),
    }
}

//! A site that loses an uplink tells its peers by the other ones, so that they don't have to miss its probes first.
//!
//! A notice is a UDP datagram between overlay addresses inside a tunnel, so it comes from the site that it says. It says
//! what the peer will find out anyway, only sooner; nobody answers, and one that is lost costs the detection time.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tokio::sync::mpsc;

use super::socket::Datagram;
use crate::engine::types::UplinkIndex;

/// UDP port, at both ends.
pub const PORT: u16 = 864;
/// Bytes of a notice.
const LENGTH: usize = 16;
/// The last byte is the version.
const MAGIC: [u8; 5] = *b"SDWU\x01";

/// A notice as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noticed {
    /// Overlay address of the site that lost uplinks.
    pub source: IpAddr,
    /// Those uplinks.
    pub lost: BTreeSet<UplinkIndex>,
    /// The same for all copies of one notice.
    pub number: u64,
}

/// Where notices go. Bounded: what doesn't fit is counted and lost, like a packet.
pub type Notices = mpsc::Sender<Noticed>;

/// The bytes of a notice.
pub(super) fn encode(lost: &BTreeSet<UplinkIndex>, number: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..5].copy_from_slice(&MAGIC);
    bytes[5] = lost.iter().fold(0, |bits, uplink| bits | 1 << uplink.get());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// A notice out of a datagram; `None` for anything else, one without an uplink included.
pub(super) fn decode(datagram: &Datagram<'_>) -> Option<Noticed> {
    let bytes: &[u8; LENGTH] = datagram.payload.try_into().ok()?;
    let (front, number) = bytes.split_at(8);
    if front[..5] != MAGIC || front[5] == 0 || front[6..] != [0, 0] || datagram.source.port() != PORT {
        return None;
    }
    let lost = (0..UplinkIndex::COUNT).filter(|number| front[5] >> number & 1 == 1).filter_map(UplinkIndex::new);
    let number = u64::from_be_bytes(number.try_into().ok()?);
    Some(Noticed { source: datagram.source.ip(), lost: lost.collect(), number })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn datagram(payload: &[u8], port: u16) -> Datagram<'_> {
        Datagram {
            source: SocketAddr::new(IpAddr::from([100, 64, 0, 2]), port),
            destination: None,
            payload,
            received_unix_ns: None,
            ttl: None,
            traffic_class: None,
        }
    }

    fn uplinks(numbers: &[u8]) -> BTreeSet<UplinkIndex> {
        numbers.iter().copied().filter_map(UplinkIndex::new).collect()
    }

    #[test]
    fn a_notice_reads_as_it_was_written() {
        for lost in [&[0][..], &[7], &[1, 3, 6], &[0, 1, 2, 3, 4, 5, 6, 7]] {
            let bytes = encode(&uplinks(lost), 0x0102_0304_0506_0708);
            let noticed = decode(&datagram(&bytes, PORT)).expect("a notice");
            assert_eq!((noticed.lost, noticed.number), (uplinks(lost), 0x0102_0304_0506_0708));
        }
        assert_eq!(encode(&uplinks(&[1, 3]), 258), *b"SDWU\x01\x0a\0\0\0\0\0\0\0\0\x01\x02");
    }

    #[test]
    fn what_is_cut_short_stretched_changed_or_from_another_port_is_none() {
        let good = encode(&uplinks(&[1]), 1);
        for length in 0..LENGTH {
            assert!(decode(&datagram(&good[..length], PORT)).is_none(), "{length} bytes");
        }
        assert!(decode(&datagram(&[&good[..], &[0]].concat(), PORT)).is_none());
        assert!(decode(&datagram(&good, PORT + 1)).is_none());
        // The number may be any; everything else is fixed, or says which uplinks.
        for byte in [0, 1, 2, 3, 4, 6, 7] {
            let mut changed = good;
            changed[byte] ^= 0x20;
            assert!(decode(&datagram(&changed, PORT)).is_none(), "byte {byte}");
        }
        assert!(decode(&datagram(&encode(&uplinks(&[]), 1), PORT)).is_none());
    }
}

//! The sessions that a reflector keeps: their numbers (RFC 8762 section 4.3), in bounded memory.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use sdwan_common::stamp::SenderPacket;

/// Packets behind the newest one whose repetition is noticed.
const WINDOW: u32 = 64;

/// What tells a session from others (RFC 8972 section 3): the sender's address and port and its session identifier. A
/// table belongs to one listening socket or one tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The sender.
    pub source: SocketAddr,
    /// SSID.
    pub session: u16,
    /// Format of its timestamps: those of one session can be compared.
    pub ptp: bool,
}

/// The state of one session.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// Number of the next answer; also how many there were.
    pub next: u32,
    /// Packets that came in.
    pub received: u32,
    /// The last answer: its number, and when it was sent, ns since 1970 UTC.
    pub last_sent: Option<(u32, u64)>,
    newest: u32,
    /// Bit n: the packet n before the newest one came in.
    seen: u64,
    first_timestamp: u64,
    newest_timestamp: u64,
    tick: u64,
}

/// How a packet relates to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The first of its session, or of the sender's new start under the same key.
    First,
    /// Ahead of all before.
    Newer,
    /// Overtaken by others, and not seen before.
    Late,
    /// Seen before, or so far behind that nobody can tell.
    Repeated,
}

impl Session {
    fn new(packet: &SenderPacket, tick: u64) -> Self {
        Self {
            next: 0,
            received: 0,
            last_sent: None,
            newest: packet.sequence,
            seen: 1,
            first_timestamp: packet.timestamp.to_bits(),
            newest_timestamp: packet.timestamp.to_bits(),
            tick,
        }
    }

    fn arrival(&self, packet: &SenderPacket) -> Arrival {
        let ahead = packet.sequence.wrapping_sub(self.newest) as i32;
        if ahead > 0 {
            // Sent before this session began: a recording from before the sender's last start.
            let recorded = packet.timestamp.to_bits() < self.first_timestamp;
            return if recorded { Arrival::Repeated } else { Arrival::Newer };
        }
        if packet.timestamp.to_bits() > self.newest_timestamp {
            // Numbered lower and sent later: the sender began again at zero.
            return Arrival::First;
        }
        let behind = ahead.unsigned_abs();
        if behind < WINDOW && self.seen & (1 << behind) == 0 { Arrival::Late } else { Arrival::Repeated }
    }

    fn note(&mut self, packet: &SenderPacket) {
        let ahead = packet.sequence.wrapping_sub(self.newest) as i32;
        if ahead > 0 {
            self.seen = if ahead.unsigned_abs() < WINDOW { self.seen << ahead | 1 } else { 1 };
            self.newest = packet.sequence;
        } else if ahead.unsigned_abs() < WINDOW {
            self.seen |= 1 << ahead.unsigned_abs();
        }
        self.newest_timestamp = self.newest_timestamp.max(packet.timestamp.to_bits());
    }
}

/// Sessions, at most so many: the one used longest ago makes room.
#[derive(Debug)]
pub struct Sessions {
    capacity: usize,
    table: HashMap<SessionKey, Session>,
    /// By their last use.
    order: BTreeMap<u64, SessionKey>,
    ticks: u64,
    /// Sessions that made room.
    pub evicted: u64,
}

impl Sessions {
    /// Room for `capacity` sessions, at least one.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), table: HashMap::new(), order: BTreeMap::new(), ticks: 0, evicted: 0 }
    }

    /// How a packet would relate to those before it; changes nothing.
    pub fn arrival(&self, key: &SessionKey, packet: &SenderPacket) -> Arrival {
        self.table.get(key).map_or(Arrival::First, |session| session.arrival(packet))
    }

    /// Takes a packet in; returns its session.
    pub fn take(&mut self, key: SessionKey, packet: &SenderPacket) -> &mut Session {
        if self.arrival(&key, packet) == Arrival::First {
            self.forget(&key);
            if self.table.len() >= self.capacity
                && let Some((_, oldest)) = self.order.pop_first()
            {
                self.table.remove(&oldest);
                self.evicted += 1;
            }
        }
        self.ticks += 1;
        let tick = self.ticks;
        let session = self.table.entry(key).or_insert_with(|| Session::new(packet, tick));
        self.order.remove(&session.tick);
        self.order.insert(tick, key);
        session.tick = tick;
        session.note(packet);
        session.received = session.received.wrapping_add(1);
        session
    }

    /// A session that is there.
    pub fn get_mut(&mut self, key: &SessionKey) -> Option<&mut Session> {
        self.table.get_mut(key)
    }

    fn forget(&mut self, key: &SessionKey) {
        if let Some(session) = self.table.remove(key) {
            self.order.remove(&session.tick);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sdwan_common::stamp::{ErrorEstimate, Timestamp};

    use super::*;

    fn key(port: u16) -> SessionKey {
        SessionKey { source: SocketAddr::from(([192, 0, 2, 1], port)), session: 7, ptp: true }
    }

    fn packet(sequence: u32, seconds: u32) -> SenderPacket {
        let timestamp = Timestamp { seconds, nanoseconds: 0 };
        SenderPacket { sequence, timestamp, error_estimate: ErrorEstimate::OURS, session: 7 }
    }

    #[test]
    fn packets_are_told_apart_as_new_late_and_repeated() {
        let mut sessions = Sessions::new(4);
        for (sequence, seconds, expected) in [
            (0, 100, Arrival::First),
            (1, 101, Arrival::Newer),
            (1, 101, Arrival::Repeated),
            (3, 103, Arrival::Newer),
            (2, 102, Arrival::Late),
            (2, 102, Arrival::Repeated),
            (200, 300, Arrival::Newer),
            (3, 103, Arrival::Repeated),
            (0, 301, Arrival::First),
            (0, 301, Arrival::Repeated),
            (200, 300, Arrival::Repeated),
            (201, 302, Arrival::Newer),
        ] {
            let packet = packet(sequence, seconds);
            assert_eq!(sessions.arrival(&key(1), &packet), expected, "{sequence} at {seconds}");
            sessions.take(key(1), &packet);
        }
    }

    #[test]
    fn a_sequence_that_wraps_goes_on() {
        let mut sessions = Sessions::new(4);
        sessions.take(key(1), &packet(u32::MAX, 1));
        assert_eq!(sessions.arrival(&key(1), &packet(0, 2)), Arrival::Newer);
        sessions.take(key(1), &packet(0, 2));
        assert_eq!(sessions.arrival(&key(1), &packet(u32::MAX, 1)), Arrival::Repeated);
    }

    #[test]
    fn the_session_used_longest_ago_makes_room() {
        let mut sessions = Sessions::new(2);
        for port in [1, 2] {
            sessions.take(key(port), &packet(0, 1)).next = 9;
        }
        sessions.take(key(1), &packet(1, 2));
        sessions.take(key(3), &packet(0, 3));
        assert_eq!(sessions.evicted, 1);
        assert!(sessions.get_mut(&key(2)).is_none());
        assert_eq!(sessions.get_mut(&key(1)).map(|session| session.next), Some(9));
    }

    proptest! {
        #[test]
        fn the_table_and_its_order_stay_of_one_size_within_the_capacity(
            packets in prop::collection::vec((0u16..20, any::<u8>(), any::<u8>()), 0..300)
        ) {
            let mut sessions = Sessions::new(8);
            for (port, sequence, seconds) in packets {
                sessions.take(key(port), &packet(u32::from(sequence), u32::from(seconds)));
                prop_assert!(sessions.table.len() <= 8);
                prop_assert_eq!(sessions.table.len(), sessions.order.len());
            }
        }

        #[test]
        fn no_packet_is_new_twice(order in Just((0u32..60).collect::<Vec<_>>()).prop_shuffle()) {
            let mut sessions = Sessions::new(1);
            sessions.take(key(1), &packet(0, 0));
            for sequence in order {
                let packet = packet(sequence, sequence);
                sessions.take(key(1), &packet);
                prop_assert_eq!(sessions.arrival(&key(1), &packet), Arrival::Repeated);
            }
        }
    }
}

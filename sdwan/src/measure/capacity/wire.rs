//! The messages of a capacity measurement (docs/PROTOCOL.md). Every question is at least as long as its answer.

use crate::engine::capacity::schedule::Reason;
use crate::engine::capacity::train::{Bin, MOST_BINS, MOST_PACKETS, TrainReport};

/// UDP port at both ends.
pub const PORT: u16 = 863;
/// What each message begins with.
const MAGIC: [u8; 4] = *b"SDWB";
/// Of the protocol.
const VERSION: u8 = 1;
/// Magic, version, kind, two zeros, session.
const HEADER: usize = 16;
/// Length of messages without fields of their own size.
const SHORT: usize = 40;
/// Bytes of a report before its sections, and of each section.
const REPORT: usize = HEADER + 8;
const BIN: usize = 14;
/// Length of [`Message::Finish`]: that of the longest report.
pub const FINISH: usize = REPORT + BIN * MOST_BINS;
/// Bytes of a train's packet without its padding: no less than the word to stop that may answer it.
pub const TRAIN: usize = SHORT;
/// Longest message that is read.
pub const LONGEST: usize = 9_216;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// May I send you trains?
    Open,
    /// Yes. The largest rate that live traffic came in by this path lately, bit/s; 0 if unknown.
    Accept {
        /// See above.
        passive: u64,
    },
    /// No.
    Refuse(Reason),
    /// A packet of a train.
    Train(Packet),
    /// A train is over: what came in of it?
    Finish {
        /// Its number.
        train: u16,
    },
    /// This came in.
    Report(TrainReport),
    /// End this train now: the delay rises.
    Stop {
        /// Its number.
        train: u16,
    },
    /// The measurement is over.
    Close(Verdict),
    /// I know.
    Closed,
    /// Please measure towards me, and tell me with this session number what you found.
    Solicit,
}

/// A packet of a train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Number of the train.
    pub train: u16,
    /// Number in the train, from 0.
    pub index: u16,
    /// Packets of the train.
    pub count: u16,
    /// When it was sent, ns since 1970 UTC by the sender's clock.
    pub sent_ns: u64,
}

/// What a measurement found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Bits of outer IP packets per second; 0: nothing.
    pub capacity: u64,
    /// The bottleneck was filled; else it is a lower bound.
    pub found: bool,
    /// Session of the solicitation that this answers; 0: none.
    pub solicited: u64,
}

/// A datagram that is no message of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Too short for what it says that it is.
    #[error("truncated")]
    Truncated,
    /// Longer than any message.
    #[error("too long")]
    Oversized,
    /// Another protocol.
    #[error("not a capacity message")]
    Foreign,
    /// Another version.
    #[error("unknown version")]
    Version,
    /// Values that no sender writes.
    #[error("impossible values")]
    Malformed,
}

impl Message {
    /// The bytes. A train's packet and others of fixed length are complete; pad a train's packet to its size.
    pub fn encode(&self, session: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FINISH);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, self.kind(), 0, 0]);
        bytes.extend_from_slice(&session.to_be_bytes());
        match self {
            Self::Accept { passive } => bytes.extend_from_slice(&passive.to_be_bytes()),
            Self::Refuse(reason) => bytes.push(*reason as u8),
            Self::Train(packet) => {
                packet.encode(&mut bytes);
            }
            Self::Finish { train } => {
                bytes.extend_from_slice(&train.to_be_bytes());
                bytes.resize(FINISH, 0);
                return bytes;
            }
            Self::Report(report) => {
                encode_report(report, &mut bytes);
                return bytes;
            }
            Self::Stop { train } => bytes.extend_from_slice(&train.to_be_bytes()),
            Self::Close(verdict) => {
                bytes.extend_from_slice(&verdict.capacity.to_be_bytes());
                bytes.extend_from_slice(&verdict.solicited.to_be_bytes());
                bytes.push(u8::from(verdict.found));
            }
            Self::Open | Self::Closed | Self::Solicit => {}
        }
        bytes.resize(SHORT, 0);
        bytes
    }

    /// Session and message.
    pub fn decode(bytes: &[u8]) -> Result<(u64, Self), WireError> {
        if bytes.len() > LONGEST {
            return Err(WireError::Oversized);
        }
        let mut input = Input(bytes);
        if input.take::<4>()? != MAGIC {
            return Err(WireError::Foreign);
        }
        let [version, kind, zero, also_zero] = input.take()?;
        if version != VERSION {
            return Err(WireError::Version);
        }
        if zero != 0 || also_zero != 0 {
            return Err(WireError::Malformed);
        }
        let session = input.u64()?;
        let short = |message| if bytes.len() == SHORT { Ok(message) } else { Err(WireError::Malformed) };
        let message = match kind {
            1 => short(Self::Open),
            2 => short(Self::Accept { passive: input.u64()? }),
            3 => {
                let [code] = input.take()?;
                let reason = Reason::ALL.into_iter().find(|reason| *reason as u8 == code);
                short(Self::Refuse(reason.ok_or(WireError::Malformed)?))
            }
            4 if bytes.len() < TRAIN => Err(WireError::Truncated),
            4 => Packet::decode(&mut input).map(Self::Train),
            5 => {
                let train = input.u16()?;
                if bytes.len() == FINISH { Ok(Self::Finish { train }) } else { Err(WireError::Malformed) }
            }
            6 => decode_report(&mut input).map(Self::Report),
            7 => short(Self::Stop { train: input.u16()? }),
            8 => {
                let (capacity, solicited) = (input.u64()?, input.u64()?);
                let [found] = input.take()?;
                if found > 1 {
                    return Err(WireError::Malformed);
                }
                short(Self::Close(Verdict { capacity, found: found == 1, solicited }))
            }
            9 => short(Self::Closed),
            10 => short(Self::Solicit),
            _ => Err(WireError::Malformed),
        }?;
        Ok((session, message))
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Accept { .. } => 2,
            Self::Refuse(_) => 3,
            Self::Train(_) => 4,
            Self::Finish { .. } => 5,
            Self::Report(_) => 6,
            Self::Stop { .. } => 7,
            Self::Close(_) => 8,
            Self::Closed => 9,
            Self::Solicit => 10,
        }
    }
}

impl Packet {
    /// Place of [`Self::index`] in the encoded message.
    pub const INDEX_AT: usize = HEADER + 2;
    /// Place of [`Self::sent_ns`] in the encoded message.
    pub const SENT_AT: usize = HEADER + 8;

    fn encode(&self, bytes: &mut Vec<u8>) {
        for value in [self.train, self.index, self.count, 0] {
            bytes.extend_from_slice(&value.to_be_bytes());
        }
        bytes.extend_from_slice(&self.sent_ns.to_be_bytes());
    }

    fn decode(input: &mut Input<'_>) -> Result<Self, WireError> {
        let (train, index, count, zero) = (input.u16()?, input.u16()?, input.u16()?, input.u16()?);
        let sent_ns = input.u64()?;
        if zero != 0 || count == 0 || count > MOST_PACKETS || index >= count {
            return Err(WireError::Malformed);
        }
        Ok(Self { train, index, count, sent_ns })
    }
}

fn encode_report(report: &TrainReport, bytes: &mut Vec<u8>) {
    for value in [report.train, report.received, report.surplus] {
        bytes.extend_from_slice(&value.to_be_bytes());
    }
    let bins = &report.bins[..report.bins.len().min(MOST_BINS)];
    bytes.extend_from_slice(&[u8::from(report.stopped), bins.len() as u8]);
    for bin in bins {
        bytes.extend_from_slice(&bin.received.to_be_bytes());
        bytes.extend_from_slice(&bin.at_us.to_be_bytes());
        bytes.extend_from_slice(&bin.delay_us.to_be_bytes());
        bytes.extend_from_slice(&bin.other.to_be_bytes());
    }
}

fn decode_report(input: &mut Input<'_>) -> Result<TrainReport, WireError> {
    let (train, received, surplus) = (input.u16()?, input.u16()?, input.u16()?);
    let [stopped, count] = input.take()?;
    let count = usize::from(count);
    if stopped > 1 || count > MOST_BINS {
        return Err(WireError::Malformed);
    }
    let mut bins = Vec::with_capacity(count);
    for _ in 0..count {
        let received = input.u16()?;
        let (at_us, delay, other) = (input.u32()?, input.u32()?, input.u32()?);
        bins.push(Bin { received, at_us, delay_us: delay as i32, other });
    }
    let sum: u32 = bins.iter().map(|bin| u32::from(bin.received)).sum();
    if !input.0.is_empty() || sum != u32::from(received) || bins.iter().any(|bin| bin.received == 0) {
        return Err(WireError::Malformed);
    }
    Ok(TrainReport { train, received, surplus, stopped: stopped == 1, bins })
}

/// The bytes that are left.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.take().map(u64::from_be_bytes)
    }
}

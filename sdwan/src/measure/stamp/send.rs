//! A session of the sender: a socket and timers around [`Session`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tracing::debug;

use super::answer::ClockQuality;
use super::listen::Clock;
use super::session::question::Questions;
use super::session::reading::{Unreadable, read};
use super::session::{Arrived, Ignored, Sample, Session};
use crate::measure::clock;
use crate::measure::socket::{Binding, Datagram, SocketError, TestSocket, is_passing};

/// How a session runs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The reflector.
    pub target: SocketAddr,
    /// Own address; the kernel chooses without one.
    pub source: Option<IpAddr>,
    /// The only interface to send and receive by.
    pub interface: Option<String>,
    /// Questions to send; `None`: until told to stop.
    pub count: Option<u64>,
    /// Time between them.
    pub interval: Duration,
    /// After how long one without an answer is lost.
    pub timeout: Duration,
    /// DSCP of the questions, 0..=63.
    pub dscp: u8,
}

/// A session that can't run.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The socket.
    #[error("cannot {} a socket to {target}{}: {}", .source.action,
        interface.as_ref().map(|name| format!(" on {name}")).unwrap_or_default(), .source.source)]
    Socket {
        /// The reflector.
        target: SocketAddr,
        /// The interface that was asked for.
        interface: Option<String>,
        /// What failed.
        #[source]
        source: SocketError,
    },
    /// The kernel doesn't send.
    #[error("cannot send to {target}: {source}")]
    Send {
        /// The reflector.
        target: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel doesn't receive.
    #[error("cannot receive from {target}: {source}")]
    Receive {
        /// The reflector.
        target: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What happened to one packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// An answer in time.
    Answer(Sample),
    /// An answer that changes no figure, to the question of this number.
    Ignored(u32, Ignored),
    /// A packet on our port that is no answer of this session.
    Foreign(SocketAddr, Option<Unreadable>),
    /// The kernel didn't take a question: there is no way right now, or the packet is too big for it.
    Refused(u32),
}

/// Counts of what never came to the session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// Packets from another address or port.
    pub foreign: u64,
    /// Packets that were too short.
    pub truncated: u64,
    /// Packets whose hash is wrong.
    pub bad_hmac: u64,
    /// Packets of another session.
    pub other_session: u64,
    /// Questions that the kernel didn't take; they count as sent.
    pub refused: u64,
}

/// A session at its end.
#[derive(Debug)]
pub struct Ended {
    /// What it found.
    pub session: Session,
    /// What never came to it.
    pub outside: Outside,
    /// Own address and port.
    pub local: SocketAddr,
    /// Our clock.
    pub clock: ClockQuality,
    /// How long it ran.
    pub duration: Duration,
}

/// Runs a session to its end: when all questions are sent and answered or lost, or when `stop` is done.
///
/// # Errors
/// When the socket can't be made or fails, or the very first question can't be sent.
pub async fn run(
    plan: &Plan,
    questions: &Questions,
    stop: impl Future<Output = ()>,
    mut tell: impl FnMut(Progress),
) -> Result<Ended, SendError> {
    let target = plan.target;
    let fail = |source| SendError::Socket { target, interface: plan.interface.clone(), source };
    let any = if target.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let local = SocketAddr::new(plan.source.unwrap_or(any), 0);
    let socket = TestSocket::open(Binding { interface: plan.interface.as_deref(), local, mark: None, patient: false })
        .map_err(fail)?;
    let local = socket.local().map_err(|source| fail(SocketError { action: "look at", source }))?;
    let mut clock = Clock::default();
    let mut session = Session::new(plan.timeout);
    let mut outside = Outside::default();
    let mut packet = Vec::new();
    let begin = Instant::now();
    let mut ticks = interval_at(begin, plan.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_sent = begin;
    tokio::pin!(stop);
    loop {
        let sending = plan.count.is_none_or(|count| session.counts().sent + outside.refused < count);
        if !sending && !session.waits() {
            break;
        }
        tokio::select! {
            () = &mut stop => break,
            _ = ticks.tick(), if sending => {
                let sequence = session.next_sequence();
                let quality = clock.quality(clock::now().0);
                let now_unix_ns = clock::unix_ns();
                let transmitted = sequence.wrapping_add(1);
                let timestamp = questions.write(sequence, transmitted, quality, now_unix_ns, &mut packet);
                let now_ns = clock::now().0;
                match send(&socket, &packet, plan) {
                    Ok(()) => session.sent(timestamp, now_ns, now_unix_ns),
                    // Not even one has left.
                    Err(source) if sequence == 0 => return Err(SendError::Send { target, source }),
                    // No packet of the session: the line didn't lose it, and its number is the next one's.
                    Err(source) => {
                        debug!("cannot send to {target}: {source}");
                        outside.refused += 1;
                        tell(Progress::Refused(sequence));
                    }
                }
                last_sent = Instant::now();
            }
            received = socket.receive_some(|datagram| {
                tell(take(&datagram, target, questions, &mut session, &mut outside));
            }) => received.map_err(|source| SendError::Receive { target, source })?,
            () = sleep_until(last_sent + plan.timeout), if !sending => session.expire(u64::MAX),
        }
    }
    // Whoever stops a session early doesn't wait for what may still come: only what is overdue is lost.
    session.expire(clock::now().0);
    let quality = clock.quality(clock::now().0);
    Ok(Ended { session, outside, local, clock: quality, duration: begin.elapsed() })
}

/// Errors about earlier packets show once at the next one: then it goes a second time.
fn send(socket: &TestSocket, packet: &[u8], plan: &Plan) -> io::Result<()> {
    let class = Some(plan.dscp << 2);
    match socket.send_from(packet, plan.target, None, class) {
        Err(error) if is_passing(&error) => socket.send_from(packet, plan.target, None, class),
        other => other,
    }
}

fn take(
    datagram: &Datagram<'_>,
    target: SocketAddr,
    questions: &Questions,
    session: &mut Session,
    outside: &mut Outside,
) -> Progress {
    let source = datagram.source;
    if (source.ip(), source.port()) != (target.ip(), target.port()) {
        outside.foreign += 1;
        return Progress::Foreign(source, None);
    }
    let reading = match read(datagram.payload, questions.form()) {
        Ok(reading) => reading,
        Err(unreadable) => {
            *match unreadable {
                Unreadable::Truncated => &mut outside.truncated,
                Unreadable::BadHmac => &mut outside.bad_hmac,
                Unreadable::OtherSession => &mut outside.other_session,
            } += 1;
            return Progress::Foreign(source, Some(unreadable));
        }
    };
    let now_unix_ns = clock::unix_ns();
    let now_ns = clock::now().0;
    // A receive stamp from the future, or long past, means that the wall clock was set meanwhile.
    let age = datagram.received_unix_ns.and_then(|at| now_unix_ns.checked_sub(at));
    let age = age.filter(|age| *age < 1_000_000_000).unwrap_or(0);
    let arrived = Arrived {
        reading,
        at_ns: now_ns.saturating_sub(age),
        at_unix_ns: now_unix_ns - age,
        ttl: datagram.ttl,
        traffic_class: datagram.traffic_class,
    };
    match session.answered(&arrived) {
        Ok(sample) => Progress::Answer(sample),
        Err(ignored) => Progress::Ignored(reading.packet.sender_sequence, ignored),
    }
}

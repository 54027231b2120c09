//! The thread that carries a line's packets from one interface to the other, at their time.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::packet_socket::{BATCH, Batch, PacketSocket};
use super::{Direction, Impairment, LineStatistics, Pipe};
use crate::bed::error::{Attempt, BedError, Result};
use crate::bed::namespace::Namespace;

/// Below this the thread polls instead of sleeping: waking up takes about as long.
const SPIN: Duration = Duration::from_micros(30);

/// How often a thread without packets looks whether it should end.
const IDLE: Duration = Duration::from_millis(100);

/// Batches read from one side before the other side and the clock get their turn.
const ROUNDS: usize = 4;

/// What a line consists of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LineSpec {
    /// Its name, such as `a-isp1`.
    pub name: String,
    /// Interface whose other end is at the site.
    pub near: String,
    /// Interface whose other end is at the provider.
    pub far: String,
    /// From the site to the provider.
    pub up: Impairment,
    /// From the provider to the site.
    pub down: Impairment,
    /// Its chances follow from this.
    pub seed: u64,
}

/// A running line. It ends when this is dropped.
#[derive(Debug)]
pub struct Line {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<io::Result<()>>>>,
}

#[derive(Debug)]
struct Shared {
    /// By [`Direction`]: `Up`, then `Down`.
    pipes: Mutex<[Pipe; 2]>,
    stop: AtomicBool,
    realtime: AtomicBool,
}

impl Line {
    /// Starts a line between two interfaces of a namespace.
    pub fn start(namespace: &Namespace, spec: LineSpec) -> Result<Self> {
        let (near, far) = (namespace.ifindex(&spec.near)?, namespace.ifindex(&spec.far)?);
        let open = |ifindex| {
            namespace
                .run(move || PacketSocket::open(ifindex, true, false))?
                .attempt(|| format!("open a packet socket for line {}", spec.name))
        };
        let sockets = [open(near)?, open(far)?];
        let pipes = [Pipe::new(spec.up, spec.seed), Pipe::new(spec.down, spec.seed ^ 0x9e37_79b9_7f4a_7c15)];
        let shared = Arc::new(Shared {
            pipes: Mutex::new(pipes),
            stop: AtomicBool::new(false),
            realtime: AtomicBool::new(false),
        });
        let of_thread = shared.clone();
        let thread = namespace.spawn(&spec.name, move || carry(&of_thread, &sockets))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Changes what happens in one direction from now on.
    pub fn set(&self, direction: Direction, impairment: Impairment) -> Result<()> {
        self.check()?;
        self.shared.pipes()[direction as usize].set(impairment);
        Ok(())
    }

    /// What happened so far.
    pub fn statistics(&self) -> Result<LineStatistics> {
        self.check()?;
        let pipes = self.shared.pipes();
        Ok(LineStatistics {
            up: pipes[0].statistics(),
            down: pipes[1].statistics(),
            realtime: self.shared.realtime.load(Ordering::Relaxed),
        })
    }

    fn check(&self) -> Result<()> {
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Ok(());
        }
        Err(BedError::Keeper("the line's thread has ended: one of its interfaces is gone".into()))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its outcome matters to nobody any more.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn pipes(&self) -> MutexGuard<'_, [Pipe; 2]> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `CLOCK_REALTIME - CLOCK_MONOTONIC`, read without being fooled by an interruption between the two.
#[derive(Debug, Default)]
struct ClockOffset {
    ns: i64,
    read_at: u64,
}

impl ClockOffset {
    /// How long an offset is good for, ns: the clocks drift apart by less than 500 ppm.
    const GOOD_FOR: u64 = 1_000_000;
    /// Longest time between two readings that counts as undisturbed, ns.
    const UNDISTURBED: u64 = 1_000;

    fn get(&self) -> i64 {
        self.ns
    }

    fn update(&mut self) {
        if self.read_at != 0 && clock(libc::CLOCK_MONOTONIC).saturating_sub(self.read_at) < Self::GOOD_FOR {
            return;
        }
        let mut best = u64::MAX;
        for _ in 0..5 {
            let before = clock(libc::CLOCK_MONOTONIC);
            let real = clock(libc::CLOCK_REALTIME);
            let after = clock(libc::CLOCK_MONOTONIC);
            if after - before < best {
                best = after - before;
                self.ns = real.cast_signed() - (before + best / 2).cast_signed();
                self.read_at = after;
            }
            if best < Self::UNDISTURBED {
                return;
            }
        }
    }
}

fn carry(shared: &Shared, sockets: &[PacketSocket; 2]) -> io::Result<()> {
    shared.realtime.store(become_realtime(), Ordering::Relaxed);
    let mut batch = Batch::default();
    let mut due: Vec<Box<[u8]>> = Vec::with_capacity(BATCH);
    let mut offset = ClockOffset::default();
    while !shared.stop.load(Ordering::Relaxed) {
        offset.update();
        let next = {
            let mut pipes = shared.pipes();
            for (socket, pipe) in sockets.iter().zip(pipes.iter_mut()) {
                read_into(socket, pipe, &mut batch, &offset)?;
            }
            for (pipe, socket) in pipes.iter_mut().zip(sockets.iter().rev()) {
                let now = clock(libc::CLOCK_MONOTONIC);
                due.clear();
                while due.len() < BATCH {
                    let Some(frame) = pipe.pop_due(now) else { break };
                    due.push(frame);
                }
                let refused = socket.send(&due);
                pipe.count_failed(refused as u64);
            }
            pipes.iter().filter_map(Pipe::next_due).min()
        };
        let now = clock(libc::CLOCK_MONOTONIC);
        let pause = next.map_or(IDLE, |due| Duration::from_nanos(due.saturating_sub(now)).min(IDLE));
        wait(sockets, if pause <= SPIN { Duration::ZERO } else { pause - SPIN })?;
    }
    Ok(())
}

fn read_into(socket: &PacketSocket, pipe: &mut Pipe, batch: &mut Batch, offset: &ClockOffset) -> io::Result<()> {
    for _ in 0..ROUNDS {
        // The kernel stamps in real time; a packet's delay counts from its stamp, not from our waking up.
        let count = socket.receive(batch, |received| {
            let now = clock(libc::CLOCK_MONOTONIC);
            let arrived = received.stamp_ns.map_or(now, |stamp| stamp.wrapping_add_signed(-offset.get()));
            // A stamp that isn't plausible is none: the real-time clock was set.
            pipe.push(received.frame, if now.abs_diff(arrived) < 1_000_000_000 { arrived.min(now) } else { now });
        })?;
        if count < BATCH {
            break;
        }
        pipe.count_failed(socket.take_drops());
    }
    Ok(())
}

fn wait(sockets: &[PacketSocket; 2], pause: Duration) -> io::Result<()> {
    let poll = |socket: &PacketSocket| libc::pollfd { fd: socket.fd(), events: libc::POLLIN, revents: 0 };
    let mut descriptors = [poll(&sockets[0]), poll(&sockets[1])];
    let time = libc::timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
    // SAFETY: descriptors and time live through the call; no signal mask is given.
    let ready = unsafe { libc::ppoll(descriptors.as_mut_ptr(), 2, &time, std::ptr::null()) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // An interface that is down reports an error at each poll; nothing comes of asking again at once.
    if descriptors.iter().any(|one| one.revents & libc::POLLERR != 0) {
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Real-time priority where it is allowed; in any case timers without slack. Returns whether it was.
fn become_realtime() -> bool {
    let parameters = libc::sched_param { sched_priority: 10 };
    // SAFETY: the parameters live through the call; prctl takes numbers only.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0);
        libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) == 0
    }
}

/// Time of a clock, ns.
pub(crate) fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time lives through the call; both clocks used here always exist.
    unsafe { libc::clock_gettime(id, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

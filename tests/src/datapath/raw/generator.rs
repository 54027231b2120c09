//! The generator of packets: live frames through an XDP program, each one aimed by a plan.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use super::{
    ARRAY, Create, EXIT, Instruction, MAP_CREATE, MMAPABLE, Object, REDIRECT, XDP, add, bpf, call, copy, load, object,
    set, value_of,
};

/// Packets of a plan, a power of two.
pub const PLAN: u32 = 524_288;

const LOAD_WORD: u8 = 0x61;
const LOAD_DOUBLE: u8 = 0x79;
const STORE_HALF: u8 = 0x6b;
const STORE_WORD: u8 = 0x63;
const STORE_DOUBLE: u8 = 0x7b;
const STORE_WORD_OF: u8 = 0x62;
const STORE_HALF_OF: u8 = 0x6a;

/// Where one packet goes. As it is in the packet: big-endian.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Aim {
    /// Destination address.
    pub address: [u8; 4],
    /// Source and destination port.
    pub ports: [[u8; 2]; 2],
}

/// The value of the plan's map: how many packets were sent, then the plan.
#[repr(C)]
struct Plan {
    sent: u64,
    aims: [Aim; PLAN as usize],
}

/// Sends packets out of an interface, in the kernel.
pub struct Generator {
    program: Object,
    frame: Vec<u8>,
    plan: NonNull<Plan>,
}

impl Generator {
    /// Loads it. `frame` is Ethernet, IPv4 without options, and UDP without a checksum, or TCP, whose checksum is then
    /// wrong.
    ///
    /// # Errors
    /// When the kernel refuses the program or its map.
    pub fn new(ifindex: u32, frame: &[u8]) -> io::Result<Self> {
        let mut create = Create { kind: ARRAY, key: 4, value: size_of::<Plan>() as u32, entries: 1, flags: MMAPABLE };
        let map = object(bpf(MAP_CREATE, &mut create)?);
        let program = load(XDP, &program(ifindex, map.0.as_raw_fd() as u32, frame))?;
        let (length, access) = (size_of::<Plan>(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: the kernel chooses the place; the value is as long as the mapping, and any bytes are a plan.
        let plan = unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, map.0.as_raw_fd(), 0) };
        if plan == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let plan = NonNull::new(plan.cast()).expect("no mapping is at 0");
        Ok(Self { program, frame: frame.to_vec(), plan })
    }

    /// Sends packets, [`PLAN`] at most, to where `next` says. Returns when all are on their way.
    ///
    /// # Errors
    /// Before Linux 5.18.
    pub fn send(&mut self, packets: u32, mut next: impl FnMut() -> Aim) -> io::Result<()> {
        // SAFETY: the mapping lives as long as `self`, and the program runs only while this function does.
        let plan = unsafe { self.plan.as_mut() };
        for packet in 0..u64::from(packets) {
            plan.aims[((plan.sent + packet) % u64::from(PLAN)) as usize] = next();
        }
        self.program.send(&self.frame, packets)
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, and nothing refers to it any more. It fails for no mapping that exists.
        unsafe { libc::munmap(self.plan.as_ptr().cast(), size_of::<Plan>()) };
    }
}

/// The program. The kernel uses a frame's memory again without writing it anew: what a gateway changes of a packet is
/// put right each time, lest its TTL run out.
fn program(ifindex: u32, map: u32, frame: &[u8]) -> Vec<Instruction> {
    let word = |at: usize| u32::from_ne_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let half = |at: usize| u32::from(u16::from_ne_bytes([frame[at], frame[at + 1]]));
    // The header's checksum but for the destination. One's complement sums don't care for the order of bytes.
    let base: u32 = (14..30).step_by(2).filter(|at| *at != 24).map(half).sum();
    let mut program = vec![
        // r6 = the packet, r2 = its end; a shorter packet is dropped.
        Instruction(LOAD_WORD, 6, 1, 0, 0),
        Instruction(LOAD_WORD, 2, 1, 4, 0),
        copy(3, 6),
        add(3, 42),
        Instruction(0xbd, 3, 2, 2, 0),
        set(0, 1),
        EXIT,
    ];
    program.extend(value_of(7, map));
    program.extend([
        // r7 = the next aim.
        Instruction(LOAD_DOUBLE, 8, 7, 0, 0),
        copy(1, 8),
        add(1, 1),
        Instruction(STORE_DOUBLE, 7, 1, 0, 0),
        Instruction(0x57, 8, 0, 0, PLAN - 1),
        Instruction(0x67, 8, 0, 0, 3),
        Instruction(0x0f, 7, 8, 0, 0),
        Instruction(LOAD_WORD, 1, 7, 8, 0),
        Instruction(LOAD_WORD, 2, 7, 12, 0),
        Instruction(STORE_WORD, 6, 1, 30, 0),
        Instruction(STORE_WORD, 6, 2, 34, 0),
        // r3 = the sum, folded twice.
        copy(3, 1),
        Instruction(0x57, 3, 0, 0, 0xffff),
        Instruction(0x77, 1, 0, 0, 16),
        Instruction(0x0f, 3, 1, 0, 0),
        add(3, base),
    ]);
    for _ in 0..2 {
        program.extend([
            copy(1, 3),
            Instruction(0x57, 3, 0, 0, 0xffff),
            Instruction(0x77, 1, 0, 0, 16),
            Instruction(0x0f, 3, 1, 0, 0),
        ]);
    }
    program.extend([
        Instruction(0xa7, 3, 0, 0, 0xffff),
        Instruction(STORE_HALF, 6, 3, 24, 0),
        // MAC addresses; version, length and DSCP; TTL and protocol.
        Instruction(STORE_WORD_OF, 6, 0, 0, word(0)),
        Instruction(STORE_WORD_OF, 6, 0, 4, word(4)),
        Instruction(STORE_WORD_OF, 6, 0, 8, word(8)),
        Instruction(STORE_WORD_OF, 6, 0, 12, word(12)),
        Instruction(STORE_HALF_OF, 6, 0, 22, half(22)),
        set(1, ifindex),
        set(2, 0),
        call(REDIRECT),
        EXIT,
    ]);
    program
}

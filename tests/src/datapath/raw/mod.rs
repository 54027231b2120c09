//! `bpf(2)` without the library, which knows objects only: programs written by hand, instruction by instruction.

mod generator;
mod yardsticks;

pub use generator::{Aim, Generator, PLAN};
pub use yardsticks::{empty, goes_on_in, lookup_and_redirect, redirect, redirect_counted, redirect_inbound};

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// `bpf(2)` commands.
const MAP_CREATE: i64 = 0;
const MAP_UPDATE: i64 = 2;
const PROG_LOAD: i64 = 5;
const PROG_TEST_RUN: i64 = 10;
const LINK_CREATE: i64 = 28;

const SCHED_CLS: u32 = 3;
pub(crate) const XDP: u32 = 6;
const ARRAY: u32 = 2;
const PROG_ARRAY: u32 = 3;
const LRU_HASH: u32 = 9;
/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_INGRESS`.
const INGRESS: u32 = 1;
const TCX_INGRESS: u32 = 46;
const XDP_HOOK: u32 = 37;
/// `XDP_FLAGS_DRV_MODE`.
const XDP_IN_DRIVER: u32 = 1 << 2;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`.
const LIVE_FRAMES: u32 = 1 << 1;

/// Helpers by number.
const MAP_LOOKUP: u32 = 1;
const TAIL_CALL: u32 = 12;
/// `bpf_get_prandom_u32`.
pub(crate) const PRANDOM: u32 = 7;
pub(crate) const REDIRECT: u32 = 23;

/// An instruction: operation, destination and source register, offset, immediate value.
#[derive(Clone, Copy)]
pub(crate) struct Instruction(pub u8, pub u8, pub u8, pub i16, pub u32);

impl Instruction {
    fn code(self) -> u64 {
        let Self(operation, destination, source, offset, immediate) = self;
        let registers = source << 4 | destination;
        u64::from(operation) | u64::from(registers) << 8 | u64::from(offset as u16) << 16 | u64::from(immediate) << 32
    }
}

pub(crate) const fn set(register: u8, value: u32) -> Instruction {
    Instruction(0xb7, register, 0, 0, value)
}

pub(crate) const fn copy(to: u8, from: u8) -> Instruction {
    Instruction(0xbf, to, from, 0, 0)
}

/// Loads the address of an array's first value: two instructions.
const fn value_of(register: u8, map: u32) -> [Instruction; 2] {
    [Instruction(0x18, register, 2, 0, map), Instruction(0, 0, 0, 0, 0)]
}

pub(crate) const fn add(register: u8, value: u32) -> Instruction {
    Instruction(0x07, register, 0, 0, value)
}

pub(crate) const fn call(helper: u32) -> Instruction {
    Instruction(0x85, 0, 0, 0, helper)
}

pub(crate) const EXIT: Instruction = Instruction(0x95, 0, 0, 0, 0);

/// A kernel object.
pub struct Object(OwnedFd);

fn bpf<T>(command: i64, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: the attributes, and what they point at, outlive the call; callers pass the size of their own struct.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn object(result: i64) -> Object {
    // SAFETY: a new descriptor that nothing else owns.
    Object(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

/// The part of `union bpf_attr` for `BPF_PROG_LOAD` that is needed.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

pub(crate) fn load(kind: u32, instructions: &[Instruction]) -> io::Result<Object> {
    let code: Vec<u64> = instructions.iter().map(|instruction| instruction.code()).collect();
    let mut attributes = Load {
        kind,
        instruction_count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    bpf(PROG_LOAD, &mut attributes).map(object)
}

/// The part of `union bpf_attr` for `BPF_MAP_CREATE` that is needed.
#[repr(C)]
#[derive(Default)]
struct Create {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

/// The same for `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    return_value: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration_ns: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

impl Object {
    /// Runs a tc program on a packet again and again; mean time of one run.
    pub fn time(&self, frame: &[u8], repeat: u32) -> io::Result<Duration> {
        Ok(time(self.0.as_raw_fd(), frame, 0, repeat)?.0)
    }

    /// The same for a packet that came in at an interface; and the verdict of the last run.
    pub fn time_at(&self, frame: &[u8], ifindex: u32, repeat: u32) -> io::Result<(Duration, u32)> {
        time(self.0.as_raw_fd(), frame, ifindex, repeat)
    }

    /// Attaches a tc program to the ingress of an interface, before all others, until the object that is returned goes.
    pub fn attach(&self, ifindex: u32) -> io::Result<Object> {
        self.link(ifindex, TCX_INGRESS, 0)
    }

    /// Attaches an XDP program to an interface, in its driver, until the object that is returned goes.
    pub fn attach_xdp(&self, ifindex: u32) -> io::Result<Object> {
        self.link(ifindex, XDP_HOOK, XDP_IN_DRIVER)
    }

    /// Sends a packet through an XDP program so many times, for real. Returns when all are on their way.
    pub fn send(&self, frame: &[u8], packets: u32) -> io::Result<()> {
        let mut attributes = TestRun {
            program: self.0.as_raw_fd() as u32,
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            repeat: packets,
            flags: LIVE_FRAMES,
            batch_size: 64,
            ..TestRun::default()
        };
        bpf(PROG_TEST_RUN, &mut attributes).map(drop)
    }

    fn link(&self, ifindex: u32, attach_type: u32, flags: u32) -> io::Result<Object> {
        #[repr(C)]
        #[derive(Default)]
        struct Link {
            program: u32,
            ifindex: u32,
            attach_type: u32,
            flags: u32,
            relative: [u64; 2],
        }
        let program = self.0.as_raw_fd() as u32;
        let mut link = Link { program, ifindex, attach_type, flags, ..Link::default() };
        bpf(LINK_CREATE, &mut link).map(object)
    }
}

/// Runs a loaded tc program on a packet that came in at an interface, 0 for the loopback; mean time of one run, and the
/// verdict of the last.
pub fn time(program: i32, frame: &[u8], ifindex: u32, repeat: u32) -> io::Result<(Duration, u32)> {
    /// Bytes of `struct __sk_buff`, and where the interface's index is in it.
    const CONTEXT: usize = 192;
    const IFINDEX: usize = 40;
    let mut context = [0_u8; CONTEXT];
    context[IFINDEX..][..4].copy_from_slice(&ifindex.to_ne_bytes());
    let mut attributes = TestRun {
        program: program as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        context_size_in: if ifindex == 0 { 0 } else { CONTEXT as u32 },
        context_in: if ifindex == 0 { 0 } else { context.as_ptr() as u64 },
        repeat,
        ..TestRun::default()
    };
    bpf(PROG_TEST_RUN, &mut attributes)?;
    Ok((Duration::from_nanos(attributes.duration_ns.into()), attributes.return_value))
}

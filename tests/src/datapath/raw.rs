//! Programs written by hand, instruction by instruction, loaded without the library, which knows objects only: yardsticks
//! that do one thing each, and the generator of packets.

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
const XDP: u32 = 6;
const PROG_ARRAY: u32 = 3;
const LRU_HASH: u32 = 9;
const TCX_INGRESS: u32 = 46;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`.
const LIVE_FRAMES: u32 = 1 << 1;

/// Helpers by number.
const MAP_LOOKUP: u32 = 1;
const PRANDOM: u32 = 7;
const TAIL_CALL: u32 = 12;
const REDIRECT: u32 = 23;

/// An instruction: operation, destination and source register, offset, immediate value.
#[derive(Clone, Copy)]
struct Instruction(u8, u8, u8, i16, u32);

impl Instruction {
    fn code(self) -> u64 {
        let Self(operation, destination, source, offset, immediate) = self;
        let registers = source << 4 | destination;
        u64::from(operation) | u64::from(registers) << 8 | u64::from(offset as u16) << 16 | u64::from(immediate) << 32
    }
}

const fn set(register: u8, value: u32) -> Instruction {
    Instruction(0xb7, register, 0, 0, value)
}

const fn copy(to: u8, from: u8) -> Instruction {
    Instruction(0xbf, to, from, 0, 0)
}

const fn add(register: u8, value: u32) -> Instruction {
    Instruction(0x07, register, 0, 0, value)
}

const fn call(helper: u32) -> Instruction {
    Instruction(0x85, 0, 0, 0, helper)
}

const EXIT: Instruction = Instruction(0x95, 0, 0, 0, 0);

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

fn load(kind: u32, instructions: &[Instruction]) -> io::Result<Object> {
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

/// A tc program that does nothing.
pub fn empty() -> io::Result<Object> {
    load(SCHED_CLS, &[set(0, 0), EXIT])
}

/// A tc program that redirects each packet to an interface.
pub fn redirect(ifindex: u32) -> io::Result<Object> {
    load(SCHED_CLS, &[set(1, ifindex), set(2, 0), call(REDIRECT), EXIT])
}

#[repr(C)]
#[derive(Default)]
struct Create {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

/// A map with one entry.
fn map_with<const KEY: usize, const VALUE: usize>(
    kind: u32,
    entries: u32,
    key: [u8; KEY],
    value: [u8; VALUE],
) -> io::Result<Object> {
    #[repr(C)]
    #[derive(Default)]
    struct Update {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let map = object(bpf(MAP_CREATE, &mut Create { kind, key: KEY as u32, value: VALUE as u32, entries, flags: 0 })?);
    let (key, value) = (key.as_ptr() as u64, value.as_ptr() as u64);
    bpf(MAP_UPDATE, &mut Update { map: map.0.as_raw_fd() as u32, key, value, ..Update::default() })?;
    Ok(map)
}

/// The same after one lookup of a constant key that is there, in an LRU map with the flow table's sizes of key and value.
pub fn lookup_and_redirect(ifindex: u32, entries: u32) -> io::Result<Object> {
    const KEY: usize = size_of::<sdwan_common::abi::FlowKey>();
    const VALUE: usize = size_of::<sdwan_common::abi::Flow>();
    let map = map_with(LRU_HASH, entries, [0; KEY], [0; VALUE])?;
    let mut program = vec![set(1, 0)];
    // The key on the stack.
    program.extend((1..=KEY as i16 / 8).map(|word| Instruction(0x7b, 10, 1, -8 * word, 0)));
    program.extend([copy(2, 10), add(2, (KEY as u32).wrapping_neg())]);
    program.extend(address(1, &map));
    program.extend([call(MAP_LOOKUP), set(1, ifindex), set(2, 0), call(REDIRECT), EXIT]);
    // The program keeps the map.
    load(SCHED_CLS, &program)
}

/// The address of a map in a register, in two instructions.
fn address(register: u8, map: &Object) -> [Instruction; 2] {
    [Instruction(0x18, register, 1, 0, map.0.as_raw_fd() as u32), Instruction(0, 0, 0, 0, 0)]
}

/// A tc program that goes on in another one. `renumbered`: with the next source port, for packets of Ethernet and IPv4 without
/// options, so that each one is of a new flow. The map that is returned, too, must be kept.
pub fn goes_on_in(program: i32, renumbered: bool) -> io::Result<(Object, Object)> {
    let map = map_with(PROG_ARRAY, 1, [0; 4], program.to_ne_bytes())?;
    const SOURCE_PORT: i16 = 14 + 20;
    let mut code = vec![
        // r2 = the packet, r3 = its end; a shorter one is left alone.
        Instruction(0x61, 2, 1, 76, 0),
        Instruction(0x61, 3, 1, 80, 0),
        copy(4, 2),
        add(4, 36),
        Instruction(0x2d, 4, 3, 3, 0),
        Instruction(0x69, 5, 2, SOURCE_PORT, 0),
        add(5, u32::from(renumbered)),
        Instruction(0x6b, 2, 5, SOURCE_PORT, 0),
    ];
    code.extend(address(2, &map));
    code.extend([set(3, 0), call(TAIL_CALL), set(0, 0), EXIT]);
    Ok((load(SCHED_CLS, &code)?, map))
}

/// An XDP program that gives each packet random UDP ports within the masks, and sends it out of an interface. For IPv4
/// without options and without a UDP checksum.
pub fn generator(ifindex: u32, source_ports: u16, destination_ports: u16) -> io::Result<Object> {
    const SOURCE_PORT: i16 = 14 + 20;
    let mut program = vec![
        // r6 = the packet, r2 = its end; a shorter packet is dropped.
        Instruction(0x61, 6, 1, 0, 0),
        Instruction(0x61, 2, 1, 4, 0),
        copy(3, 6),
        add(3, 42),
        Instruction(0xbd, 3, 2, 2, 0),
        set(0, 1),
        EXIT,
    ];
    for (offset, mask, base) in [(SOURCE_PORT, source_ports, 0x4000_u16), (SOURCE_PORT + 2, destination_ports, 0x2000)]
    {
        // Big-endian in the packet: the program works on the swapped value.
        program.extend([
            call(PRANDOM),
            Instruction(0x57, 0, 0, 0, u32::from(mask.to_be())),
            Instruction(0x47, 0, 0, 0, u32::from(base.to_be())),
            Instruction(0x6b, 6, 0, offset, 0),
        ]);
    }
    program.extend([set(1, ifindex), set(2, 0), call(REDIRECT), EXIT]);
    load(XDP, &program)
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
        time(self.0.as_raw_fd(), frame, 0, repeat)
    }

    /// Attaches a tc program to the ingress of an interface, before all others, until the object that is returned goes.
    pub fn attach(&self, ifindex: u32) -> io::Result<Object> {
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
        let mut link = Link { program, ifindex, attach_type: TCX_INGRESS, ..Link::default() };
        bpf(LINK_CREATE, &mut link).map(object)
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
}

/// Runs a loaded tc program on a packet that came in at an interface, 0 for the loopback; mean time of one run.
pub fn time(program: i32, frame: &[u8], ifindex: u32, repeat: u32) -> io::Result<Duration> {
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
    Ok(Duration::from_nanos(attributes.duration_ns.into()))
}

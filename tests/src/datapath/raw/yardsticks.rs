//! Yardsticks: tc programs that do one thing each.

use std::io;
use std::os::fd::AsRawFd;

use sdwan_common::abi::TC_INDEX_COUNTED;

use super::{
    Create, EXIT, INGRESS, Instruction, LRU_HASH, MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, Object, PROG_ARRAY, REDIRECT,
    SCHED_CLS, TAIL_CALL, add, bpf, call, copy, load, object, set,
};

/// A tc program that does nothing.
pub fn empty() -> io::Result<Object> {
    load(SCHED_CLS, &[set(0, 0), EXIT])
}

/// A tc program that redirects each packet to an interface.
pub fn redirect(ifindex: u32) -> io::Result<Object> {
    load(SCHED_CLS, &[set(1, ifindex), set(2, 0), call(REDIRECT), EXIT])
}

/// The same, and each packet says that it was counted, so that our program at the interface has nothing to do.
pub fn redirect_counted(ifindex: u32) -> io::Result<Object> {
    /// Where `tc_index` is in `struct __sk_buff`.
    const TC_INDEX: i16 = 44;
    let (number, note) = (set(2, u32::from(TC_INDEX_COUNTED)), Instruction(0x63, 1, 2, TC_INDEX, 0));
    load(SCHED_CLS, &[number, note, set(1, ifindex), set(2, 0), call(REDIRECT), EXIT])
}

/// A tc program that lets each packet come in at an interface. One without a MAC header gets it bare, as a tunnel's
/// packets come.
pub fn redirect_inbound(ifindex: u32) -> io::Result<Object> {
    load(SCHED_CLS, &[set(1, ifindex), set(2, INGRESS), call(REDIRECT), EXIT])
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

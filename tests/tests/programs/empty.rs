//! A program that does nothing, as the yardstick: loaded and run without the library, which knows objects only.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

const PROG_LOAD: i64 = 5;
const PROG_TEST_RUN: i64 = 10;
const SCHED_CLS: u32 = 3;

/// The part of `union bpf_attr` for `BPF_PROG_LOAD` that is needed.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log: [u32; 4],
    kernel_version: u32,
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
}

/// Loads `r0 = 0; exit`.
pub fn empty_program() -> OwnedFd {
    let instructions: [u64; 2] = [0xb7, 0x95];
    let attributes = Load {
        kind: SCHED_CLS,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the attributes and what they point at outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of::<Load>()) };
    assert!(fd >= 0, "the empty program can't be loaded: {}", std::io::Error::last_os_error());
    // SAFETY: a new descriptor that nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Mean time of one run.
pub fn time(program: &OwnedFd, data: &[u8], repeat: u32) -> Duration {
    let mut attributes = TestRun {
        program: program.as_raw_fd() as u32,
        data_size_in: data.len() as u32,
        data_in: data.as_ptr() as u64,
        repeat,
        ..TestRun::default()
    };
    // SAFETY: the attributes and what they point at outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, &raw mut attributes, size_of::<TestRun>()) };
    assert_eq!(result, 0, "test-run: {}", std::io::Error::last_os_error());
    Duration::from_nanos(attributes.duration_ns.into())
}

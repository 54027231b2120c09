//! One packet through one program.

use std::time::Duration;

use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};

pub const OK: u32 = 0;
pub const REDIRECT: u32 = 7;

/// Length of `struct __sk_buff`, and offsets of the fields that a test-run takes and gives.
const CONTEXT: usize = 192;
const MARK: usize = 8;
const GSO_SEGS: usize = 164;
const GSO_SIZE: usize = 176;

/// What comes with the packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    pub gso_size: u32,
    pub gso_segs: u32,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: u32,
    pub data: Vec<u8>,
    pub mark: u32,
}

pub fn run(program: &SchedClassifier, data: &[u8], context: Context) -> Outcome {
    let mut input = [0; CONTEXT];
    input[GSO_SEGS..][..4].copy_from_slice(&context.gso_segs.to_ne_bytes());
    input[GSO_SIZE..][..4].copy_from_slice(&context.gso_size.to_ne_bytes());
    let mut output = [0; CONTEXT];
    let mut out = vec![0; data.len() + 64];
    let mut options = TestRunOptions::new();
    options.data_in = Some(data);
    options.data_out = Some(&mut out);
    options.ctx_in = Some(&input);
    options.ctx_out = Some(&mut output);
    let result = program.test_run(options).expect("the test-run takes the packet");
    out.truncate(result.data_size_out as usize);
    let mark = u32::from_ne_bytes(output[MARK..][..4].try_into().expect("4 bytes"));
    Outcome { verdict: result.return_value, data: out, mark }
}

/// A frame through an XDP program.
pub fn frame(program: &Xdp, data: &[u8]) -> Outcome {
    let mut out = vec![0; data.len() + 64];
    let mut options = TestRunOptions::new();
    options.data_in = Some(data);
    options.data_out = Some(&mut out);
    let result = program.test_run(options).expect("the test-run takes the frame");
    out.truncate(result.data_size_out as usize);
    Outcome { verdict: result.return_value, data: out, mark: 0 }
}

/// Mean time of one run of an XDP program.
pub fn frame_time(program: &Xdp, data: &[u8], repeat: u32) -> Duration {
    let mut options = TestRunOptions::new();
    options.data_in = Some(data);
    options.repeat = repeat;
    program.test_run(options).expect("the test-run takes the frame").duration
}

/// Mean time of one run.
pub fn time(program: &SchedClassifier, data: &[u8], repeat: u32) -> Duration {
    let mut options = TestRunOptions::new();
    options.data_in = Some(data);
    options.repeat = repeat;
    program.test_run(options).expect("the test-run takes the packet").duration
}

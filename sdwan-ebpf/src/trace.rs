//! Tells of the packets of one flow, while somebody asks: `sdwan trace`.
//!
//! Whoever calls looks at `Scope::traced` first, which lies in a cache line that every packet reads anyway. All else that a
//! trace costs is here, and paid only while there is one.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use aya_ebpf::maps::ring_buf::RingBufEntry;
use sdwan_common::abi::{
    FlowKey, NO_PATH, NO_REASON, NO_RULE, TraceBudget, TraceRecord, trace_choice, trace_program, trace_verdict,
};
use sdwan_common::counters::PassReason;
use sdwan_common::select::Reason;

use crate::maps::{FLOWS, TRACE, TRACE_BUDGET, TRACES};
use crate::parse::Packet;

const SECOND_NS: u64 = 1_000_000_000;
const WORDS: usize = core::mem::size_of::<FlowKey>() / 8;

/// What became of a packet.
#[derive(Clone, Copy)]
pub enum Verdict {
    Forwarded,
    Stack(PassReason),
    Dropped,
}

/// Of a verdict that a helper, or `count::lose`, gave.
#[inline(always)]
pub fn verdict(of: i32) -> Verdict {
    if of == aya_ebpf::bindings::TC_ACT_SHOT { Verdict::Dropped } else { Verdict::Forwarded }
}

/// How a path was chosen, as it is told.
#[inline(always)]
pub fn choice(reason: Reason) -> u8 {
    match reason {
        Reason::Kept => trace_choice::KEPT,
        Reason::Ranked => trace_choice::RANKED,
        Reason::LeastBad => trace_choice::LEAST_BAD,
    }
}

/// Tells of a packet, if it is of the flow. A packet out of a tunnel came by `packet.path`; of one from the LAN, the flow's
/// entry says where it goes.
#[inline(always)]
pub fn tell(packet: &mut Packet, program: u8, verdict: Verdict) {
    let (verdict, reason) = match verdict {
        Verdict::Forwarded => (trace_verdict::FORWARDED, NO_REASON),
        Verdict::Stack(reason) => (trace_verdict::STACK, reason as u32 as u8),
        Verdict::Dropped => (trace_verdict::DROPPED, NO_REASON),
    };
    told(packet, program, u32::from(verdict) << 8 | u32::from(reason));
}

/// `outcome`: the verdict, and in the lower byte its reason.
#[inline(never)]
fn told(packet: &mut Packet, program: u8, outcome: u32) {
    let decided = packet.decided;
    packet.decided = Decided::default();
    let Some(filter) = TRACE.get(0) else { return };
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if now_ns >= filter.until_ns {
        return;
    }
    let reverse = match () {
        () if same(&packet.key, &filter.flow) => 0,
        () if same(&packet.key, &filter.reverse) => 1,
        () => return,
    };
    let Some(budget) = TRACE_BUDGET.get_ptr_mut(0) else { return };
    // SAFETY: a per-CPU value; nothing else on this CPU runs the program meanwhile.
    let budget = unsafe { &mut *budget };
    if budget.number != filter.number {
        *budget = TraceBudget { window_ns: now_ns, number: filter.number, told: 0, withheld: 0, padding: 0 };
    }
    if now_ns.saturating_sub(budget.window_ns) >= SECOND_NS {
        budget.window_ns = now_ns;
        budget.told = 0;
    }
    if budget.told >= filter.per_second {
        budget.withheld = budget.withheld.wrapping_add(1);
        return;
    }
    budget.told += 1;
    let entry: Option<RingBufEntry<TraceRecord>> = TRACES.reserve_untyped(0);
    let Some(mut entry) = entry else {
        budget.withheld = budget.withheld.wrapping_add(1);
        return;
    };
    let mut record = TraceRecord {
        time_ns: now_ns,
        number: filter.number,
        // SAFETY: the helper has no preconditions.
        cpu: unsafe { bpf_get_smp_processor_id() } as u32,
        withheld: budget.withheld,
        ifindex: packet.ingress.ifindex,
        length: packet.length,
        segments: packet.segments,
        path: packet.path,
        old_path: NO_PATH,
        second: NO_PATH,
        class: 0,
        rule: NO_RULE,
        program,
        verdict: (outcome >> 8) as u8,
        reason: outcome as u8,
        cause: decided.cause,
        chosen: decided.chosen,
        reverse,
        ttl: packet.ttl(),
        syn: u8::from(packet.syn),
        padding: 0,
    };
    if program == trace_program::LAN_INGRESS {
        record.path = NO_PATH;
        if let Some(flow) = FLOWS.get_ptr_mut(&packet.key) {
            // SAFETY: the entry may be evicted and reused meanwhile; it stays valid memory.
            let flow = unsafe { &*flow };
            record.path = flow.path;
            record.second = flow.second;
            record.class = flow.class;
            record.rule = flow.rule;
            if decided.chosen != trace_choice::NONE && decided.old_path != flow.path {
                record.old_path = decided.old_path;
            }
        }
    }
    entry.write(record);
    entry.submit(0);
}

/// How the decision about a packet was made.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Decided {
    /// The path that the flow was on.
    pub old_path: u32,
    /// One of `trace_cause`.
    pub cause: u8,
    /// One of `trace_choice`.
    pub chosen: u8,
    padding: [u8; 2],
}

impl Default for Decided {
    /// By the flow's entry.
    #[inline(always)]
    fn default() -> Self {
        Self::new(NO_PATH, 0, trace_choice::NONE)
    }
}

impl Decided {
    #[inline(always)]
    pub fn new(old_path: u32, cause: u8, chosen: u8) -> Self {
        Self { old_path, cause, chosen, padding: [0; 2] }
    }
}

/// Word by word: the compiler would call a comparison of bytes.
#[inline(always)]
fn same(a: &FlowKey, b: &FlowKey) -> bool {
    let word = |key: &FlowKey, index: usize| {
        // SAFETY: the key has so many words. Both keys lie at the begin or in the middle of map values, aligned to eight
        // bytes; `FlowKey` itself promises two.
        unsafe { core::ptr::from_ref(key).cast::<u64>().add(index).read_volatile() }
    };
    let mut differ = 0;
    let mut index = 0;
    while index < WORDS {
        differ |= word(a, index) ^ word(b, index);
        index += 1;
    }
    differ == 0
}

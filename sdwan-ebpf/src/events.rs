//! Events for the daemon: rate limited, never waited for.

use aya_ebpf::maps::ring_buf::RingBufEntry;
use sdwan_common::abi::{Event, FlowKey, NO_PATH, NO_RULE, event_kind, path_state};

use crate::decide::Decision;
use crate::maps::{EVENT_BUDGET, EVENTS, PATH_LIVE, PATHS};

const SECOND_NS: u64 = 1_000_000_000;

/// Tells about a flow that was decided, within the budget of this CPU and second. `old_path` is [`NO_PATH`] for a new one.
#[inline(never)]
pub fn flow(key: &FlowKey, decision: &Decision, old_path: u32, now_ns: u64, per_second: u32) {
    let Some(budget) = EVENT_BUDGET.get_ptr_mut(0) else { return };
    // SAFETY: a per-CPU value; nothing else on this CPU runs the program meanwhile.
    let budget = unsafe { &mut *budget };
    if now_ns.saturating_sub(budget.window_ns) >= SECOND_NS {
        budget.window_ns = now_ns;
        budget.told = 0;
    }
    if budget.told >= per_second {
        budget.withheld = budget.withheld.wrapping_add(1);
        return;
    }
    budget.told += 1;
    let entry: Option<RingBufEntry<Event>> = EVENTS.reserve_untyped(0);
    let Some(mut entry) = entry else {
        budget.withheld = budget.withheld.wrapping_add(1);
        return;
    };
    entry.write(Event {
        time_ns: now_ns,
        kind: if old_path == NO_PATH { event_kind::NEW_FLOW } else { event_kind::MOVED_FLOW },
        path: decision.path,
        old_path,
        class: decision.class,
        rule: decision.rule,
        flow: *key,
    });
    entry.submit(0);
}

/// Tells that a path that the daemon believes to be up is silent: at most once per second and path, and outside of the
/// budget, so that no flood of new flows hides it.
#[inline(never)]
pub fn silent(number: u32, now_ns: u64) {
    let (Some(path), Some(live)) = (PATHS.get(number), PATH_LIVE.get_ptr_mut(number)) else { return };
    if path.state != path_state::UP {
        return;
    }
    // SAFETY: a value of an array map lives as long as the map. Two CPUs may both report; that does no harm.
    unsafe {
        if now_ns.saturating_sub((*live).silent_reported_ns) < SECOND_NS {
            return;
        }
        (*live).silent_reported_ns = now_ns;
    }
    let entry: Option<RingBufEntry<Event>> = EVENTS.reserve_untyped(0);
    let Some(mut entry) = entry else {
        if let Some(budget) = EVENT_BUDGET.get_ptr_mut(0) {
            // SAFETY: a per-CPU value.
            unsafe { (*budget).withheld = (*budget).withheld.wrapping_add(1) };
        }
        return;
    };
    entry.write(Event {
        time_ns: now_ns,
        kind: event_kind::PATH_SILENT,
        path: number,
        old_path: NO_PATH,
        class: 0,
        rule: NO_RULE,
        flow: FlowKey::default(),
    });
    entry.submit(0);
}

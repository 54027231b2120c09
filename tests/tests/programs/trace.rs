//! What the programs tell of the packets of one flow.

use aya::maps::RingBuf;
use sdwan_common::abi::*;
use sdwan_common::counters::PassReason;

use crate::lan::key;
use crate::load::{Programs, ago, now_ns, privileged};
use crate::mesh::*;
use crate::packets::{Spec, Transport};
use crate::run::{Context, REDIRECT, run};

const NUMBER: u32 = 77;

/// Traces a flow for a minute.
fn trace(programs: &mut Programs, flow: FlowKey, reverse: FlowKey, per_second: u32) {
    let filter = TraceFilter { flow, reverse, until_ns: now_ns() + 60_000_000_000, number: NUMBER, per_second };
    programs.set("trace", 0, filter);
    programs.change("config", 0, |config: &mut Config| config.scope.traced = 1);
}

/// Everything that was told.
fn told(programs: &mut Programs) -> Vec<TraceRecord> {
    let mut ring = RingBuf::try_from(programs.ebpf().map_mut("traces").expect("traces")).expect("traces");
    let mut records = Vec::new();
    while let Some(item) = ring.next() {
        assert_eq!(item.len(), size_of::<TraceRecord>());
        // SAFETY: the program wrote one `TraceRecord`, a struct of integers; the ring aligns records to 8 bytes.
        records.push(unsafe { item.as_ptr().cast::<TraceRecord>().read_unaligned() });
    }
    records
}

fn send(programs: &Programs, spec: &Spec) -> u32 {
    run(programs.program("lan_ingress"), &spec.frame(), Context::default()).verdict
}

fn voice() -> (Spec, FlowKey, FlowKey) {
    let flow = key("10.1.0.5", "10.2.0.9", 17, 40_000, 5060);
    (Spec::v4(Transport::Udp(40_000, 5060)), flow, key("10.2.0.9", "10.1.0.5", 17, 5060, 40_000))
}

#[test]
fn each_packet_of_the_flow_is_told_with_what_was_decided_and_why() {
    if !privileged("each_packet_of_the_flow_is_told_with_what_was_decided_and_why") {
        return;
    }
    let mut programs = mesh();
    let (spec, flow, reverse) = voice();
    assert_eq!(send(&programs, &spec), REDIRECT);
    assert_eq!(told(&mut programs), [], "nobody asked");
    programs.hash::<FlowKey, Flow>("flows").remove(&flow).expect("it is there");

    trace(&mut programs, flow, reverse, 1_000);
    let before = now_ns();
    send(&programs, &spec);
    send(&programs, &spec);
    send(&programs, &Spec::v4(Transport::Udp(40_001, 5060)));
    programs.change("config", 0, |config: &mut Config| config.epoch += 1);
    send(&programs, &spec);
    programs.replace_set(VOICE, path_set(VOICE, &[(FIBRE, 0), (RADIO, 1)]));
    send(&programs, &spec);
    let old = ago(2 * DETECTION_NS);
    // An emulated machine may have taken so long for what was before that daemon and paths seem to be away.
    programs.change("config", 0, |config: &mut Config| config.heartbeat_ns = now_ns());
    programs.change("path_live", RADIO, |live: &mut PathLive| live.last_reply_ns = now_ns());
    programs.change("path_live", FIBRE, |live: &mut PathLive| live.last_reply_ns = old);
    send(&programs, &spec);
    send(&programs, &spec);
    let records = told(&mut programs);
    let decided: Vec<_> =
        records.iter().map(|record| (record.cause, record.chosen, record.path, record.old_path)).collect();
    use trace_cause::{EPOCH, HIT, NEW, SET, UNUSABLE};
    use trace_choice::{KEPT, NONE, RANKED};
    assert_eq!(
        decided,
        [
            (NEW, RANKED, RADIO, NO_PATH),
            (HIT, NONE, RADIO, NO_PATH),
            (EPOCH, KEPT, RADIO, NO_PATH),
            (SET, RANKED, FIBRE, RADIO),
            (UNUSABLE, RANKED, RADIO, FIBRE),
            (HIT, NONE, RADIO, NO_PATH),
        ]
    );
    for record in &records {
        assert_eq!(
            (record.number, record.program, record.verdict),
            (NUMBER, trace_program::LAN_INGRESS, trace_verdict::FORWARDED)
        );
        assert_eq!((record.class, record.rule, record.reverse, record.reason), (VOICE, 0, 0, NO_REASON));
        assert_eq!(
            (record.length, record.segments, record.ttl, record.ifindex),
            (spec.frame().len() as u32 - 14, 1, 64, LOOPBACK)
        );
        assert!((before..=now_ns()).contains(&record.time_ns), "{record:?}");
    }
    programs.change("config", 0, |config: &mut Config| config.scope.traced = 0);
    send(&programs, &spec);
    assert_eq!(told(&mut programs), [], "nobody asks any more");
}

#[test]
fn what_goes_to_the_stack_is_told_with_its_reason_and_answers_with_their_path() {
    if !privileged("what_goes_to_the_stack_is_told_with_its_reason_and_answers_with_their_path") {
        return;
    }
    let mut programs = mesh();
    let (spec, flow, reverse) = voice();
    trace(&mut programs, flow, reverse, 1_000);
    let verdict = |programs: &mut Programs| {
        let records = told(programs);
        let record = records.last().copied().unwrap_or_else(|| panic!("nothing was told"));
        assert_eq!(records.len(), 1, "{records:?}");
        (record.program, record.verdict, record.reason, record.path, record.reverse)
    };
    let stack = |reason: PassReason| (trace_verdict::STACK, reason as u32 as u8);
    use trace_program::{LAN_INGRESS, TUNNEL_EGRESS, TUNNEL_INGRESS};
    send(&programs, &spec.clone().with(|spec| spec.ttl = 1));
    let (verdict_, reason) = stack(PassReason::TtlExpired);
    assert_eq!(verdict(&mut programs), (LAN_INGRESS, verdict_, reason, NO_PATH, 0), "nothing was decided");
    send(&programs, &spec.clone().with(|spec| spec.payload = vec![0; 1_450]));
    let (verdict_, reason) = stack(PassReason::TooBig);
    assert_eq!(verdict(&mut programs), (LAN_INGRESS, verdict_, reason, RADIO, 0));
    // The same packet where the stack sends it into the tunnel: by the path that the tunnel is.
    run(programs.program("tunnel_egress"), &spec.frame(), Context::default());
    assert_eq!(verdict(&mut programs), (TUNNEL_EGRESS, trace_verdict::FORWARDED, NO_REASON, FIBRE, 0));
    programs.change("config", 0, |config: &mut Config| config.fast_path = fast_path::TO_TUNNEL);
    let answer = Spec::between("10.2.0.9", "10.1.0.5", Transport::Udp(5060, 40_000));
    run(programs.program("tunnel_ingress"), &answer.frame(), Context::default());
    let (verdict_, reason) = stack(PassReason::FastPathOff);
    assert_eq!(verdict(&mut programs), (TUNNEL_INGRESS, verdict_, reason, FIBRE, 1));
    // Half a key is no key, and a broadcast is never parsed, whatever was seen before it.
    run(
        programs.program("tunnel_ingress"),
        &Spec::between("10.2.0.9", "10.1.0.5", Transport::Udp(5060, 40_001)).frame(),
        Context::default(),
    );
    send(&programs, &spec.clone().with(|spec| spec.mac = [0xff; 6]));
    assert_eq!(told(&mut programs), []);
    // Of a destination that is nobody's, too.
    let lost = (key("10.1.0.5", "192.0.2.1", 17, 1, 2), key("192.0.2.1", "10.1.0.5", 17, 2, 1));
    trace(&mut programs, lost.0, lost.1, 1_000);
    send(&programs, &Spec::between("10.1.0.5", "192.0.2.1", Transport::Udp(1, 2)));
    let (verdict_, reason) = stack(PassReason::NoPrefix);
    assert_eq!(verdict(&mut programs), (LAN_INGRESS, verdict_, reason, NO_PATH, 0));
}

#[test]
fn ipv6_and_pings_are_told_of_as_well() {
    if !privileged("ipv6_and_pings_are_told_of_as_well") {
        return;
    }
    let mut programs = mesh();
    let ping = (key("fd01::5", "fd02::9", 58, 9, 0), key("fd02::9", "fd01::5", 58, 9, 0));
    trace(&mut programs, ping.0, ping.1, 1_000);
    send(&programs, &Spec::v6(Transport::Echo(9)));
    send(&programs, &Spec::v6(Transport::Echo(10)));
    let records = told(&mut programs);
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!((records[0].path, records[0].cause, records[0].syn), (FIBRE, trace_cause::NEW, 0));
    let tcp = (key("fd01::5", "fd02::9", 6, 40_000, 443), key("fd02::9", "fd01::5", 6, 443, 40_000));
    trace(&mut programs, tcp.0, tcp.1, 1_000);
    send(&programs, &Spec::v6(Transport::Tcp(40_000, 443, Some(vec![]))));
    send(&programs, &Spec::v6(Transport::Tcp(40_000, 443, None)));
    assert_eq!(told(&mut programs).iter().map(|record| record.syn).collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn a_trace_keeps_to_its_budget_and_ends_when_its_time_is_over() {
    if !privileged("a_trace_keeps_to_its_budget_and_ends_when_its_time_is_over") {
        return;
    }
    let mut programs = mesh();
    let (spec, flow, reverse) = voice();
    trace(&mut programs, flow, reverse, 3);
    for _ in 0..40 {
        send(&programs, &spec);
    }
    let records = told(&mut programs);
    let budgets: Vec<TraceBudget> = programs.per_cpu("trace_budget", 0);
    let withheld: u32 = budgets.iter().map(|budget| budget.withheld).sum();
    assert_eq!(records.len() as u32 + withheld, 40);
    // Per CPU and second; the forty packets may meet two of each.
    assert!((3..=12).contains(&records.len()), "{}", records.len());
    // Another trace counts anew.
    programs.change("trace", 0, |filter: &mut TraceFilter| (filter.number, filter.per_second) = (NUMBER + 1, 1_000));
    send(&programs, &spec);
    let records = told(&mut programs);
    assert_eq!((records.len(), records[0].number, records[0].withheld), (1, NUMBER + 1, 0));
    // Nobody renewed it: the daemon is dead, for all that the programs know.
    programs.change("trace", 0, |filter: &mut TraceFilter| filter.until_ns = now_ns());
    send(&programs, &spec);
    assert_eq!(told(&mut programs), []);
}

//! Lines by the kernel's own emulator, `netem`: it needs no process to be woken for each packet.

use std::fmt::Write;
use std::sync::OnceLock;

use super::emulator::{Direction, Distribution, Impairment, LineStatistics, Loss, PipeStatistics};
use super::error::{BedError, Result};
use super::namespace::Namespace;

/// Handle of the queueing discipline that delays and loses, and of the one in it that holds the rate.
const DELAY: &str = "1:";
const RATE: &str = "2:";
/// Packets that wait at most: netem counts those that are under way, too.
const MOST_PACKETS: u32 = 20_000;
/// A rate that no test reaches: with any rate at all, netem keeps packets in order. Without one it has to be told so:
/// a change that doesn't mention the rate keeps it.
const KEEPS_ORDER: &str = "100gbit";
const NO_RATE: &str = "0bit";
/// Bytes that an Ethernet header adds to an IP packet.
const ETHERNET: u32 = 14;

/// Has this kernel netem, and what belongs to it? `namespace` is one whose loopback carries nothing.
pub fn available(namespace: &Namespace) -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let trial = "qdisc add dev lo root handle 1: netem delay 1ms\nqdisc delete dev lo root\n";
        namespace.tc(trial).is_ok()
    })
}

/// Can netem do this? It holds packets back by sending the others early, which isn't the same.
pub fn can(impairment: &Impairment) -> bool {
    impairment.reorder == 0.0
}

/// Lines of `tc` that make a line of two interfaces: what comes in at one goes out at the other.
pub fn join([near, far]: [&str; 2], impairments: &[Impairment; 2]) -> String {
    let mut lines = String::new();
    for (from, to) in [(near, far), (far, near)] {
        let _ = writeln!(lines, "qdisc add dev {from} clsact");
        let _ = writeln!(
            lines,
            "filter add dev {from} ingress pref 10 protocol all matchall action mirred egress redirect dev {to}"
        );
    }
    for direction in Direction::BOTH {
        let impairment = &impairments[direction as usize];
        let [from, to] = ends([near, far], direction);
        let _ = writeln!(lines, "qdisc add dev {to} root handle {DELAY} {}", netem(impairment));
        lines.push_str(&rate(to, impairment));
        lines.push_str(&black_hole(from, impairment));
    }
    lines
}

/// Lines of `tc` that change one direction of such a line. Packets under way stay under way, but for a change from a
/// normal distribution to another: netem keeps one that it was given.
pub fn change(devices: [&str; 2], direction: Direction, old: &Impairment, new: &Impairment) -> String {
    let [from, to] = ends(devices, direction);
    let normal = |impairment: &Impairment| impairment.distribution == Distribution::Normal;
    let anew = normal(old) && !normal(new);
    let mut lines = if anew {
        format!("qdisc delete dev {to} root\nqdisc add dev {to} root handle {DELAY} {}\n", netem(new))
    } else {
        format!("qdisc change dev {to} root handle {DELAY} {}\n", netem(new))
    };
    if anew || old.rate != new.rate {
        if !anew && old.rate.is_some() {
            let _ = writeln!(lines, "qdisc delete dev {to} parent {DELAY}1 handle {RATE}");
        }
        lines.push_str(&rate(to, new));
    }
    if old.drop_larger_than != new.drop_larger_than {
        if old.drop_larger_than.is_some() {
            let _ = writeln!(lines, "filter delete dev {from} ingress pref 1");
        }
        lines.push_str(&black_hole(from, new));
    }
    lines
}

/// Lines of `tc` that take a line apart.
pub fn part([near, far]: [&str; 2]) -> String {
    [near, far].map(|device| format!("qdisc delete dev {device} root\nqdisc delete dev {device} clsact\n")).concat()
}

/// What a line did: packets that came in, went out and were lost. Of the rest netem keeps no account that is apart from
/// these.
pub fn statistics(namespace: &Namespace, devices: [&str; 2]) -> Result<LineStatistics> {
    let of = |direction| {
        let [_, to] = ends(devices, direction);
        let text = namespace.shell(&format!("tc -s -j qdisc show dev {to} root"))?;
        account(&text).ok_or_else(|| BedError::Plan(format!("tc tells nothing of netem at {to}: {text}")))
    };
    Ok(LineStatistics { up: of(Direction::Up)?, down: of(Direction::Down)?, realtime: false })
}

/// netem counts what it lets out, what it drops and what it still holds.
fn account(json: &str) -> Option<PipeStatistics> {
    let all: serde_json::Value = serde_json::from_str(json).ok()?;
    let netem = all.as_array()?.iter().find(|one| one["kind"] == "netem")?;
    let number = |field: &str| netem[field].as_u64();
    let (forwarded, lost) = (number("packets")?, number("drops")?);
    Some(PipeStatistics { received: forwarded + lost + number("qlen")?, forwarded, lost, ..PipeStatistics::default() })
}

/// The line's ends in the order that packets of a direction pass them.
fn ends([near, far]: [&str; 2], direction: Direction) -> [&str; 2] {
    match direction {
        Direction::Up => [near, far],
        Direction::Down => [far, near],
    }
}

fn netem(impairment: &Impairment) -> String {
    let mut text = format!("netem limit {MOST_PACKETS} delay {}us", impairment.delay.as_micros());
    if !impairment.jitter.is_zero() {
        let _ = write!(text, " {}us", impairment.jitter.as_micros());
        if impairment.distribution == Distribution::Normal {
            text.push_str(" distribution normal");
        }
    }
    let ordered = !impairment.jitter.is_zero() && !impairment.jitter_reorders;
    let _ = write!(text, " rate {}", if ordered { KEEPS_ORDER } else { NO_RATE });
    match impairment.loss {
        Loss::None => {}
        Loss::Random(share) => {
            let _ = write!(text, " loss random {}%", share * 100.0);
        }
        Loss::GilbertElliott { to_bad, to_good, loss_good, loss_bad } => {
            let percent = [to_bad, to_good, loss_bad, loss_good].map(|share| format!("{}%", share * 100.0));
            let _ = write!(text, " loss gemodel {}", percent.join(" "));
        }
    }
    if impairment.duplicate > 0.0 {
        let _ = write!(text, " duplicate {}%", impairment.duplicate * 100.0);
    }
    text
}

fn rate(device: &str, impairment: &Impairment) -> String {
    let Some(rate) = impairment.rate else { return String::new() };
    format!(
        "qdisc add dev {device} parent {DELAY}1 handle {RATE} tbf rate {}bit burst {} limit {}\n",
        rate.bits_per_second, rate.burst_bytes, rate.queue_bytes
    )
}

/// A classic BPF program: return 2 (`TC_ACT_SHOT`) for a frame that is too long, else 0xffffffff (go on).
fn black_hole(device: &str, impairment: &Impairment) -> String {
    let Some(most) = impairment.drop_larger_than else { return String::new() };
    format!(
        "filter add dev {device} ingress pref 1 protocol all bpf direct-action bytecode \
         \"4,128 0 0 0,37 0 1 {},6 0 0 2,6 0 0 4294967295\"\n",
        most + ETHERNET
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_direction_delays_at_the_end_that_it_leaves_by() {
        let both = [Impairment::delay_ms(10).rate_mbps(8.0), Impairment::delay_ms(20).loss(0.01)];
        let lines = join(["near0", "far0"], &both);
        assert!(lines.contains("dev far0 root handle 1: netem limit 20000 delay 10000us rate 0bit\n"), "{lines}");
        assert!(
            lines.contains("dev near0 root handle 1: netem limit 20000 delay 20000us rate 0bit loss random 1%\n"),
            "{lines}"
        );
        assert!(
            lines.contains("dev far0 parent 1:1 handle 2: tbf rate 8000000bit burst 3000 limit 50000\n"),
            "{lines}"
        );
    }

    #[test]
    fn a_change_touches_what_differs_only() {
        let old = Impairment::delay_ms(10).rate_mbps(8.0);
        let slower =
            change(["n", "f"], Direction::Up, &old, &Impairment { delay: Duration::from_millis(30), ..old.clone() });
        assert_eq!(slower, "qdisc change dev f root handle 1: netem limit 20000 delay 30000us rate 0bit\n");
        let free = change(["n", "f"], Direction::Up, &old, &Impairment::delay_ms(10));
        assert!(free.ends_with("qdisc delete dev f parent 1:1 handle 2:\n"), "{free}");
    }

    #[test]
    fn packets_stay_in_order_unless_jitter_may_reorder_them() {
        let jitter = Impairment::delay_ms(10).jitter(Duration::from_millis(3));
        assert!(netem(&jitter).ends_with("delay 10000us 3000us rate 100gbit"), "{}", netem(&jitter));
        assert!(netem(&Impairment { jitter_reorders: true, ..jitter }).ends_with(" 3000us rate 0bit"));
    }
    #[test]
    fn what_tc_tells_of_netem_is_understood() {
        let json = r#"[{"kind":"netem","handle":"1:","root":true,"bytes":840,"packets":10,"drops":2,"overlimits":0,
            "requeues":0,"backlog":126,"qlen":3},{"kind":"clsact","handle":"ffff:","bytes":0,"packets":0,"drops":0}]"#;
        let statistics = account(json).expect("it is understood");
        assert_eq!((statistics.received, statistics.forwarded, statistics.lost), (15, 10, 2));
        assert_eq!(account("[]"), None);
        assert_eq!(account("Error"), None);
    }
}

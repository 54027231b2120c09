//! `iperf3`, on the same line right after our own measurement: at the same moment each would take the other's rate.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use crate::bed::Namespace;
use crate::iperf::server_report;
use crate::wire::INNER;

/// UDP payload of a packet that is as large as a train's.
const UDP_PAYLOAD: u16 = INNER - 28;
/// TCP payload of a full packet: 20 bytes of IP, 32 of TCP with time stamps.
const TCP_PAYLOAD: u16 = INNER - 52;
/// Faster than the line, but not so much that a busy machine does nothing but drop.
const OVER: f64 = 1.2;

/// How iperf3 looks at a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// UDP, faster than the line: what arrives is its capacity. Nothing else could use the line meanwhile.
    Udp,
    /// TCP, beside other traffic: what is left for it.
    Tcp,
}

/// Bits of IP packets per second that arrive at `to`, by iperf3's receiver.
///
/// # Errors
/// When it isn't installed, can't reach its server, or prints something else than expected.
pub fn iperf(from: &Namespace, to: &Namespace, server: SocketAddr, load: Load, line_bps: f64) -> Result<f64> {
    let rate = format!("{:.0}", line_bps * OVER * f64::from(UDP_PAYLOAD) / f64::from(INNER));
    let length = UDP_PAYLOAD.to_string();
    let mut arguments = vec!["-t", "3"];
    if load == Load::Udp {
        arguments.extend(["-u", "-b", &rate, "-l", &length]);
    }
    parse(&server_report(from, to, server, &arguments)?, load)
}

/// The mean of the receiver's whole seconds but for the first: until then queues fill and TCP finds its rate, and what
/// stands in the queue at the end arrives in a shorter one.
fn parse(json: &str, load: Load) -> Result<f64> {
    let value: serde_json::Value = serde_json::from_str(json).context("iperf3 printed no JSON")?;
    let intervals = value["intervals"].as_array().context("iperf3 tells no intervals")?;
    let whole = intervals.iter().map(|one| &one["sum"]).skip(1).filter(|sum| sum["seconds"].as_f64() > Some(0.9));
    let rates: Vec<f64> = whole.filter_map(|sum| sum["bits_per_second"].as_f64()).collect();
    let rate = rates.iter().sum::<f64>() / rates.len() as f64;
    ensure!(rate > 0.0, "nothing arrived at iperf3's server");
    let payload = match load {
        Load::Udp => UDP_PAYLOAD,
        Load::Tcp => TCP_PAYLOAD,
    };
    Ok(rate * f64::from(INNER) / f64::from(payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_but_the_first_count_and_headers_are_added() {
        let interval =
            |seconds: f64, rate: f64| format!(r#"{{"sum":{{"seconds":{seconds},"bits_per_second":{rate}}}}}"#);
        let all = [interval(1.0, 2e9), interval(1.0, 1.4e6), interval(1.0, 1.496e6), interval(0.1, 9e9)].join(",");
        let json = format!(r#"{{"intervals": [{all}]}}"#);
        assert_eq!(parse(&json, Load::Tcp).expect("it is understood").round(), 1_500_000.0);
        assert!(parse(r#"{"error": "unable to receive", "intervals": []}"#, Load::Udp).is_err());
        assert!(parse("iperf3: error", Load::Tcp).is_err());
    }
}

//! The tools of others, on the same line at the same time.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bed::Namespace;

/// UDP port of irtt's server.
const IRTT_PORT: u16 = 2_112;

/// What a tool says of a line; what it doesn't measure is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Median round-trip time, ms.
    pub rtt_ms: Option<f64>,
    /// Mean delay variation there and back, ms.
    pub jitter_ms: [Option<f64>; 2],
    /// Loss there and back, percent.
    pub loss_pct: [Option<f64>; 2],
    /// Loss of the round trip, percent.
    pub round_trip_loss_pct: Option<f64>,
}

/// Runs `ping` for so long with a packet every 50 ms.
///
/// # Errors
/// When it can't be started or prints something else than expected.
pub fn ping(namespace: &Namespace, source: IpAddr, destination: IpAddr, span: Duration) -> Result<Reading> {
    let count = (span.as_millis() / 50).to_string();
    let arguments = ["-n", "-i", "0.05", "-c", &count, "-W", "2", "-I", &source.to_string(), &destination.to_string()];
    let output = namespace.output("ping", &arguments)?;
    parse_ping(&String::from_utf8_lossy(&output.stdout))
}

fn parse_ping(text: &str) -> Result<Reading> {
    let time = |line: &str| line.split_once("time=")?.1.split_whitespace().next()?.parse::<f64>().ok();
    let mut times: Vec<f64> = text.lines().filter_map(time).collect();
    times.sort_by(f64::total_cmp);
    let summary = text.lines().find(|line| line.contains("packets transmitted")).context("ping printed no summary")?;
    let lost = summary.split(", ").find_map(|part| part.strip_suffix("% packet loss")).context("ping tells no loss")?;
    ensure!(!times.is_empty(), "ping got no answer");
    Ok(Reading { rtt_ms: Some(times[times.len() / 2]), round_trip_loss_pct: Some(lost.parse()?), ..Reading::default() })
}

/// Is irtt installed?
pub fn has_irtt(namespace: &Namespace) -> bool {
    namespace.command("irtt").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// A running server of irtt; ends when dropped.
pub struct IrttServer(std::process::Child);

impl IrttServer {
    /// Starts it on all addresses.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let bind = format!(":{IRTT_PORT}");
        let mut command = namespace.command("irtt");
        let child = command.args(["server", "-b", &bind]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Self(child))
    }
}

impl Drop for IrttServer {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs irtt's client for so long with a packet every 50 ms.
///
/// # Errors
/// When it can't be started or prints something else than expected.
pub fn irtt(namespace: &Namespace, source: IpAddr, destination: IpAddr, span: Duration) -> Result<Reading> {
    let (local, server) = (format!("--local={source}"), format!("{destination}:{IRTT_PORT}"));
    let length = format!("{}s", span.as_secs());
    let output = namespace
        .output("irtt", &["client", "-Q", "-i", "50ms", "-d", &length, "-l", "60", &local, "-o", "-", &server])?;
    parse_irtt(&output.stdout)
}

fn parse_irtt(json: &[u8]) -> Result<Reading> {
    let value: serde_json::Value = serde_json::from_slice(json).context("irtt printed no JSON")?;
    let stats = &value["stats"];
    let nanoseconds = |field: &str, what: &str| stats[field][what].as_f64().map(|time| time / 1e6);
    Ok(Reading {
        rtt_ms: nanoseconds("rtt", "median"),
        jitter_ms: [nanoseconds("ipdv_send", "mean"), nanoseconds("ipdv_receive", "mean")],
        loss_pct: [stats["upstream_loss_percent"].as_f64(), stats["downstream_loss_percent"].as_f64()],
        round_trip_loss_pct: stats["packet_loss_percent"].as_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ping_prints_is_understood() {
        let text = "PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.\n\
                    64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=40.3 ms\n\
                    64 bytes from 10.0.0.2: icmp_seq=2 ttl=64 time=40.1 ms\n\
                    64 bytes from 10.0.0.2: icmp_seq=4 ttl=64 time=41.0 ms\n\n\
                    --- 10.0.0.2 ping statistics ---\n\
                    4 packets transmitted, 3 received, 25% packet loss, time 150ms\n\
                    rtt min/avg/max/mdev = 40.1/40.4/41.0/0.4 ms\n";
        let reading = parse_ping(text).expect("it is understood");
        assert_eq!((reading.rtt_ms, reading.round_trip_loss_pct), (Some(40.3), Some(25.0)));
        assert!(parse_ping("ping: unknown host").is_err());
    }

    #[test]
    fn what_irtt_prints_is_understood() {
        let json = br#"{"stats": {"rtt": {"median": 40300000}, "ipdv_send": {"mean": 6500000},
            "upstream_loss_percent": 3.5, "downstream_loss_percent": 1, "packet_loss_percent": 4.4}}"#;
        let reading = parse_irtt(json).expect("it is understood");
        assert_eq!(reading.rtt_ms, Some(40.3));
        assert_eq!(reading.jitter_ms, [Some(6.5), None]);
        assert_eq!(reading.loss_pct, [Some(3.5), Some(1.0)]);
        assert!(parse_irtt(b"error").is_err());
    }
}

//! What it takes to look: commands and metrics of a daemon with many paths and flows.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::gateway::Among;
use super::world::remote;
use crate::mesh::Gateway;

/// Sites of four paths each, and flows.
const SITES: u32 = 100;
pub(super) const PATHS: u64 = 400;
const FLOWS: u32 = 10_000;
/// Times that each is asked.
pub(super) const TIMES: usize = 20;
/// The API's socket.
const SOCKET: &str = "/run/sdwan/sdwan.sock";
/// A port that is no policy's.
const PORT: u16 = 40_000;

/// The figures' names.
pub const NAMES: [&str; 5] =
    ["engine.status_ms", "engine.metrics_ms", "engine.sites_ms", "engine.paths_ms", "engine.flows_ms"];

/// Times of each of [`NAMES`], all of them.
///
/// # Errors
/// When the mesh doesn't come up, or an answer isn't whole.
pub fn measure(say: impl Fn(&str)) -> Result<Vec<Vec<Duration>>> {
    let among = Among::sites(SITES, &say)?;
    let gateway = among.gateway();
    say(&format!("{FLOWS} flows begin"));
    let host = among.mesh.bed().site("a").host(0);
    host.namespace().run(begin_flows)??;
    let flows = gateway.text(&["flows", "-n", "10000", "-o", "json"])?;
    let counted = serde_json::from_str::<serde_json::Value>(&flows)?["items"].as_array().map_or(0, Vec::len);
    ensure!(counted as u32 >= FLOWS / 100 * 99, "only {counted} of {FLOWS} flows are there");
    say("commands and metrics are timed");
    let mut times = vec![Vec::new(); NAMES.len()];
    for _ in 0..TIMES {
        let asks: [&dyn Fn() -> Result<usize>; 5] = [
            &|| Ok(gateway.text(&["status"])?.len()),
            &|| metrics(gateway),
            &|| Ok(gateway.text(&["sites"])?.len()),
            &|| Ok(gateway.text(&["paths"])?.len()),
            &|| Ok(gateway.text(&["flows", "-n", "10000"])?.len()),
        ];
        for (ask, times) in asks.iter().zip(&mut times) {
            let began = Instant::now();
            let length = ask()?;
            times.push(began.elapsed());
            ensure!(length > 200, "an answer of {length} bytes");
        }
    }
    gateway.stop()?;
    Ok(times)
}

/// One packet of each flow, spread over all sites.
fn begin_flows() -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    for number in 0..FLOWS {
        let prefix = remote(number % SITES).prefixes[0];
        let IpAddr::V4(network) = prefix.network() else { continue };
        let address = Ipv4Addr::from(u32::from(network) + 5);
        let port = PORT + u16::try_from(number / SITES)?;
        socket.send_to(b"a flow", SocketAddr::from((address, port))).context("send a flow's first packet")?;
        if number % 100 == 99 {
            // No queue shall overflow.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// Bytes of the metrics page.
fn metrics(gateway: &Gateway) -> Result<usize> {
    let page = gateway.namespace().run(|| -> Result<String> {
        let mut stream = UnixStream::connect(SOCKET).context("connect with the daemon")?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    })??;
    let paths = page.lines().filter(|line| line.starts_with("sdwan_path_up{")).count();
    ensure!(paths as u64 == PATHS, "the page has {paths} paths: {}", page.lines().next().unwrap_or_default());
    Ok(page.len())
}

//! `iperf3` between two namespaces.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::bed::Namespace;

/// A connection is tried so often, after this pause each.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// What iperf3's server at `to` says, as JSON, of a test that a client at `from` makes with these arguments.
///
/// # Errors
/// When it isn't installed, or can't reach its server.
pub fn server_report(from: &Namespace, to: &Namespace, server: SocketAddr, arguments: &[&str]) -> Result<String> {
    let (address, port) = (server.ip().to_string(), server.port().to_string());
    let mut command = to.command("iperf3");
    command.args(["-s", "-1", "-J", "-B", &address, "-p", &port]).stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("iperf3 can't be started")?;
    let mut server = Server(child);
    let mut last = String::new();
    for _ in 0..TRIES {
        // The server takes a moment to listen.
        std::thread::sleep(PAUSE);
        let mut client = from.command("iperf3");
        client.args(["-c", &address, "-p", &port, "-J"]).args(arguments);
        let output = client.stdin(Stdio::null()).output().context("iperf3")?;
        if output.status.success() {
            return server.output();
        }
        last = String::from_utf8_lossy(&output.stdout).into_owned();
    }
    bail!("iperf3 got no connection: {last}")
}

/// A server that ends after one test; it is ended when there was none.
struct Server(Child);

impl Server {
    /// What it printed when it is through.
    fn output(&mut self) -> Result<String> {
        let mut text = String::new();
        self.0.stdout.take().context("iperf3's output was read")?.read_to_string(&mut text).context("iperf3")?;
        Ok(text)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

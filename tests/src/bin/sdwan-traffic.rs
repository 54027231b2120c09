//! The traffic tools by hand, in the namespace that it is started in: `nsenter -t PID -n -m sdwan-traffic …`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use sdwan_tests::bed::{self, Namespace};
use sdwan_tests::traffic::{
    HttpClient, HttpServer, PingSpec, Stop, TcpSink, TcpSource, TcpSpec, UdpReceiver, UdpSender, UdpSpec, ping,
    probe_mtu, traceroute,
};

/// Traffic whose every packet is accounted for. Reports are JSON on standard output
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send numbered UDP packets
    UdpSend {
        destination: SocketAddr,
        /// Packets per second, all flows together
        #[arg(long, default_value_t = 50.0)]
        pps: f64,
        /// Bytes of the IP packet
        #[arg(long, default_value_t = 200)]
        size: usize,
        /// Flows, each from a source port of its own
        #[arg(long, default_value_t = 1)]
        flows: u32,
        /// Source port of the first flow; 0: any
        #[arg(long, default_value_t = 0)]
        source_port: u16,
        /// DSCP, 0 to 63
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..64))]
        dscp: u8,
        /// Set Don't Fragment
        #[arg(long)]
        dont_fragment: bool,
        /// How long, s
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// Receive them and report
    UdpReceive {
        local: SocketAddr,
        /// How long, s
        #[arg(long, default_value_t = 11.0)]
        seconds: f64,
    },
    /// Take what TCP sources send
    TcpSink {
        local: SocketAddr,
        /// How long, s
        #[arg(long, default_value_t = 3_600.0)]
        seconds: f64,
    },
    /// Send as much as goes
    TcpSource {
        destination: SocketAddr,
        /// How long, s
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// Serve a page with its objects
    HttpServer {
        local: SocketAddr,
        /// How long, s
        #[arg(long, default_value_t = 3_600.0)]
        seconds: f64,
    },
    /// Load the page again and again
    HttpClient {
        server: SocketAddr,
        /// How long, s
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// Ping
    Ping {
        destination: IpAddr,
        /// How often
        #[arg(long, default_value_t = 10)]
        count: u16,
    },
    /// Send one packet with Don't Fragment and tell what came back
    Mtu {
        destination: SocketAddr,
        /// Bytes of the IP packet
        size: usize,
    },
    /// Tell who is on the way
    Traceroute { destination: SocketAddr },
}

fn main() -> Result<()> {
    bed::main_if_asked();
    let arguments = Arguments::parse();
    let here = Namespace::current()?;
    let pause = |seconds| std::thread::sleep(Duration::from_secs_f64(seconds));
    let report = match arguments.command {
        Command::UdpSend { destination, pps, size, flows, source_port, dscp, dont_fragment, seconds } => {
            let stop = Stop::After(Duration::from_secs_f64(seconds));
            let spec =
                UdpSpec { size, flows, source_port, dscp, dont_fragment, stop, ..UdpSpec::new(destination, pps) };
            serde_json::to_string_pretty(&UdpSender::start(&here, spec)?.finish()?)?
        }
        Command::UdpReceive { local, seconds } => {
            let receiver = UdpReceiver::start(&here, local)?;
            pause(seconds);
            serde_json::to_string_pretty(&receiver.presume())?
        }
        Command::TcpSink { local, seconds } => {
            let sink = TcpSink::start(&here, local)?;
            pause(seconds);
            serde_json::to_string(&serde_json::json!({ "bytes": sink.bytes(), "by_100_ms": sink.intervals() }))?
        }
        Command::TcpSource { destination, seconds } => {
            let spec = TcpSpec::new(destination, Duration::from_secs_f64(seconds));
            serde_json::to_string_pretty(&TcpSource::start(&here, spec)?.finish()?)?
        }
        Command::HttpServer { local, seconds } => {
            let _server = HttpServer::start(&here, local)?;
            pause(seconds);
            return Ok(());
        }
        Command::HttpClient { server, seconds } => {
            let wait = Duration::from_millis(300);
            let client = HttpClient::start(&here, server, wait, Duration::from_secs(10))?;
            pause(seconds);
            serde_json::to_string_pretty(&client.stop())?
        }
        Command::Ping { destination, count } => {
            serde_json::to_string_pretty(&ping(&here, &PingSpec::new(destination, count))?)?
        }
        Command::Mtu { destination, size } => {
            serde_json::to_string_pretty(&probe_mtu(&here, destination, size, Duration::from_secs(2))?)?
        }
        Command::Traceroute { destination } => {
            serde_json::to_string_pretty(&traceroute(&here, destination, 30, Duration::from_secs(1))?)?
        }
    };
    println!("{report}");
    Ok(())
}

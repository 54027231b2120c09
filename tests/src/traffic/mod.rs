//! Traffic whose every packet is accounted for, and tools that look at packets on their way.
//!
//! Everything runs on threads inside the namespace that it is given.

mod account;
mod capture;
mod control;
mod http;
mod icmp;
mod probe;
mod report;
mod tcp;
mod udp_receive;
mod udp_send;

pub use account::Accounts;
pub use capture::{Capture, Count, Filter};
pub use http::{HttpClient, HttpReport, HttpServer};
pub use icmp::{PingReport, PingSpec, ping};
pub use probe::{Answer, Hop, IcmpError, probe_mtu, traceroute};
pub use report::{FlowReport, Gap, Report, Sent};
pub use tcp::{TcpReport, TcpSink, TcpSource, TcpSpec};
pub use udp_receive::UdpReceiver;
pub use udp_send::{Stop, UdpSender, UdpSpec};

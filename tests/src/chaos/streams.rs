//! The numbered packets that tell what a fault cost.

use std::net::SocketAddr;
use std::time::Duration;

use crate::bed::Result;
use crate::mesh::Mesh;
use crate::pace::paced;
use crate::traffic::{Report, UdpReceiver, UdpSender, UdpSpec};

/// Packets per second of each stream.
const RATE: f64 = 100.0;
/// The classes, by a port of each: the third one is what no other policy takes.
const CLASSES: [(&str, u16); 3] = [("voice", 16_400), ("gaming", 27_015), ("other", 7_000)];
/// Who sends what to whom: every pair of sites both ways by voice, and each other class between two of them.
const STREAMS: [(usize, &str, &str); 10] = [
    (0, "a", "b"),
    (0, "b", "a"),
    (0, "a", "c"),
    (0, "c", "a"),
    (0, "b", "c"),
    (0, "c", "b"),
    (1, "a", "b"),
    (1, "c", "b"),
    (2, "b", "a"),
    (2, "a", "c"),
];

/// A running stream.
pub struct Stream {
    /// Name of its class.
    pub class: &'static str,
    /// Sending site.
    pub from: &'static str,
    /// Receiving site.
    pub to: &'static str,
    sender: UdpSender,
    receiver: UdpReceiver,
}

/// Starts all streams.
pub fn start(mesh: &Mesh) -> Result<Vec<Stream>> {
    STREAMS.into_iter().map(|(class, from, to)| Stream::start(mesh, class, from, to)).collect()
}

impl Stream {
    fn start(mesh: &Mesh, class: usize, from: &'static str, to: &'static str) -> Result<Self> {
        let (class, port) = CLASSES[class];
        let (source, destination) = (mesh.bed().site(from).host(0), mesh.bed().site(to).host(0));
        // Several sites send to one port: each stream gets one of its own within the class.
        let port = port + u16::from(from.as_bytes()[0] - b'a');
        let receiver = UdpReceiver::start(destination, SocketAddr::new(destination.v4(), port))?;
        let sender = UdpSender::start(source, UdpSpec::new(receiver.local(), paced(RATE)))?;
        Ok(Self { class, from, to, sender, receiver })
    }

    /// Ends it; returns what became of its packets.
    pub fn finish(self) -> Result<Report> {
        let sent = self.sender.stop()?;
        self.receiver.finish(&sent, Duration::from_secs(1))
    }
}

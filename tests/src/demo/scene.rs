//! The stage: bed, mesh, and the traffic from site a to site b.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::observe::{BULK_PORT, Class, Observation, VOICE_PORT, WEB_PORT};
use super::outcome::{Outcome, VoiceReport};
use crate::bed::{Bed, BedError, Impairment, Result};
use crate::mesh::{Mesh, MeshOptions, UplinkRate};
use crate::traffic::{
    Gap, HttpClient, HttpServer, PingSpec, Report, TcpSink, TcpSource, TcpSpec, UdpReceiver, UdpSender, UdpSpec, ping,
};

/// Packets of voice a second: one each 20 ms, as RTP with G.711 sends.
const VOICE_PPS: f64 = 50.0;
/// Bytes of such a packet: 160 of sound, RTP, UDP and IP headers.
const VOICE_SIZE: usize = 200;
/// DSCP EF.
const VOICE_DSCP: u8 = 46;
/// Longer than any demo.
const FOREVER: Duration = Duration::from_secs(3_600);
/// How long the last packets may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// A round trip passes two lines, there and back.
const ISP1_DELAY: Duration = Duration::from_micros(2_500);
const ISP2_DELAY: Duration = Duration::from_millis(10);
/// As access lines have it, downstream is faster than upstream.
const ISP1_UP_MBPS: f64 = 8.0;
const ISP2_UP_MBPS: f64 = 30.0;
const DOWN_MBPS: f64 = 100.0;

/// Builds the bed and makes a mesh on it, without starting its daemons.
pub fn build() -> Result<Mesh> {
    let mut builder = Bed::builder();
    for site in ["a", "b", "c"] {
        builder = builder
            .impair_directions(site, "isp1", line(ISP1_DELAY, ISP1_UP_MBPS), line(ISP1_DELAY, DOWN_MBPS))
            .impair_directions(site, "isp2", line(ISP2_DELAY, ISP2_UP_MBPS), line(ISP2_DELAY, DOWN_MBPS));
    }
    let rate = |uplink: &str, up_mbps| UplinkRate::mbps(uplink, up_mbps, DOWN_MBPS);
    let rates = vec![rate("isp1", ISP1_UP_MBPS), rate("isp2", ISP2_UP_MBPS)];
    Mesh::prepare(builder.build()?, &MeshOptions { rates, ..MeshOptions::default() })
}

fn line(delay: Duration, mbps: f64) -> Impairment {
    Impairment::delay(delay).rate_mbps(mbps)
}

/// Starts the daemons, and waits until all tunnels are up and a packet of a host has reached another site and come back.
pub fn converge(mesh: &Mesh, patience: Duration) -> Result<Duration> {
    let start = Instant::now();
    mesh.start_daemons()?;
    mesh.wait_until_up(patience)?;
    let (from, to) = (mesh.bed().site("a").host(0), mesh.bed().site("b").host(0));
    loop {
        let spec = PingSpec { patience: Duration::from_millis(300), ..PingSpec::new(to.v4(), 1) };
        if ping(from, &spec)?.answered > 0 {
            return Ok(start.elapsed());
        }
        if start.elapsed() > patience {
            let what = "the first user packet from a to b".to_string();
            return Err(BedError::Timeout { what, seconds: patience.as_secs_f64(), last: "no answer to pings".into() });
        }
    }
}

/// The running traffic.
#[derive(Debug)]
pub struct Scene {
    /// From a to b, and from b to a.
    voice: [Stream; 2],
    bulk: (TcpSource, TcpSink),
    web: (HttpClient, HttpServer),
    start: Instant,
    /// Bytes of the bulk transfer when it was last shown, and when that was.
    shown: Mutex<(u64, Instant)>,
}

#[derive(Debug)]
struct Stream {
    sender: UdpSender,
    receiver: UdpReceiver,
}

impl Scene {
    /// Starts all traffic.
    pub fn start(mesh: &Mesh) -> Result<Self> {
        let hosts = ["a", "b"].map(|site| mesh.bed().site(site).host(0));
        let (a, b) = (hosts[0], hosts[1]);
        let voice = |from: usize, to: usize| -> Result<Stream> {
            let receiver = UdpReceiver::start(hosts[to], SocketAddr::new(hosts[to].v4(), VOICE_PORT))?;
            let spec = UdpSpec {
                source_port: VOICE_PORT + 2,
                size: VOICE_SIZE,
                dscp: VOICE_DSCP,
                ..UdpSpec::new(receiver.local(), VOICE_PPS)
            };
            Ok(Stream { sender: UdpSender::start(hosts[from], spec)?, receiver })
        };
        let sink = TcpSink::start(b, SocketAddr::new(b.v4(), BULK_PORT))?;
        let source = TcpSource::start(a, TcpSpec::new(sink.local(), FOREVER))?;
        let server = HttpServer::start(b, SocketAddr::new(b.v4(), WEB_PORT))?;
        let pause = Duration::from_millis(300);
        let client = HttpClient::start(a, server.local(), pause, Duration::from_secs(10))?;
        let start = Instant::now();
        Ok(Self {
            voice: [voice(0, 1)?, voice(1, 0)?],
            bulk: (source, sink),
            web: (client, server),
            start,
            shown: Mutex::new((0, start)),
        })
    }

    /// Which class uses which path at site a, as `sdwan flows` says.
    pub fn observe(&self, mesh: &Mesh) -> Result<Observation> {
        Ok(Observation::of(&mesh.gateway("a").flows(None)?))
    }

    /// One line about everything.
    pub fn line(&self, seen: &Observation) -> String {
        let voice = self.reports();
        let lost: u64 = self.gaps_since(0).iter().map(|gap| gap.lost_packets).sum();
        let web = self.web.0.report();
        let latency = voice[0].latency_now.as_secs_f64() * 1e3;
        format!(
            "voice {:11} {latency:5.1} ms, {lost:3} lost │ bulk {:11} {:5.1} Mbit/s │ web {:11} {:4.0} ms a page",
            seen.path_text(Class::Voice),
            seen.path_text(Class::Bulk),
            self.bulk_rate() / 1e6,
            seen.path_text(Class::Web),
            web.latest_page.as_secs_f64() * 1e3,
        )
    }

    /// Interruptions of voice, in both directions, that end after this Unix time in ns. Packets on their way are none.
    pub fn gaps_since(&self, time_ns: u64) -> Vec<Gap> {
        let ended = |gap: &Gap| gap.start_ns + gap.length.as_nanos() as u64 >= time_ns;
        let on_their_way = |report: &Report, gap: &Gap| gap.lost_sequences.end >= report.sent && gap.lost_packets < 5;
        let reports = self.reports();
        let gaps = reports
            .iter()
            .flat_map(|report| report.gaps.iter().filter(move |gap| ended(gap) && !on_their_way(report, gap)));
        gaps.cloned().collect()
    }

    /// Ends all traffic and notes what became of it.
    pub fn finish(self, outcome: &mut Outcome) -> Result<()> {
        outcome.bulk_time = self.start.elapsed();
        outcome.bulk_bytes = self.bulk.1.bytes();
        self.bulk.0.stop()?;
        outcome.web = self.web.0.stop();
        let [there, back] = self.voice;
        outcome.voice = VoiceReport { there: there.finish()?, back: back.finish()? };
        Ok(())
    }

    fn reports(&self) -> [Report; 2] {
        // What was sent is asked before what arrived: nothing that arrived is missing from it.
        [0, 1].map(|index| {
            let stream: &Stream = &self.voice[index];
            stream.receiver.snapshot(&stream.sender.sent())
        })
    }

    /// Rate of the bulk transfer since it was last asked, bit/s.
    fn bulk_rate(&self) -> f64 {
        let (bytes, now) = (self.bulk.1.bytes(), Instant::now());
        let mut shown = self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (earlier, then) = std::mem::replace(&mut *shown, (bytes, now));
        (bytes - earlier) as f64 * 8.0 / (now - then).as_secs_f64().max(0.001)
    }
}

impl Stream {
    fn finish(self) -> Result<Report> {
        let sent = self.sender.stop()?;
        self.receiver.finish(&sent, PATIENCE)
    }
}

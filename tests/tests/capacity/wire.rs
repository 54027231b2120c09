//! Two meters at the ends of a line without tunnels: what is measured is the line and the sockets.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sdwan::engine::capacity::search::{Outcome, Plan};
use sdwan::engine::capacity::{Direction, Framing};
use sdwan::engine::types::{TunnelKey, UplinkIndex};
use sdwan::measure::capacity::{Counters, Event, Failure, Meter, MeterCounters, Rule, Way};
use sdwan_tests::bed::{Bed, Link, Provider};
use tokio::sync::mpsc;

/// Bytes of an IP packet of a train.
const INNER: u16 = 1_500;
/// Bytes of an Ethernet header, which the kernel's shapers count and capacity doesn't.
const ETHERNET: u64 = 14;

/// The counters of an interface, in the namespaces of the thread that asks.
struct InterfaceCounters(String);

impl InterfaceCounters {
    fn read(&self, counter: &str) -> Option<u64> {
        let path = format!("/sys/class/net/{}/statistics/{counter}", self.0);
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }
}

impl Counters for InterfaceCounters {
    fn received(&self, _: TunnelKey, _: IpAddr) -> Option<(u64, u64)> {
        let packets = self.read("rx_packets")?;
        Some((packets, self.read("rx_bytes")?.saturating_sub(ETHERNET * packets)))
    }

    /// The only path of this uplink is the measured one.
    fn others_sent(&self, _: &Way) -> Option<u64> {
        None
    }
}

/// One end.
pub struct End {
    pub meter: Meter,
    pub events: mpsc::Receiver<Event>,
    pub counters: Arc<MeterCounters>,
    pub way: Way,
}

/// A line with a meter at each end.
pub struct Wire {
    pub bed: Bed,
    pub ends: [End; 2],
}

/// The only tunnel.
pub fn tunnel() -> TunnelKey {
    let zero = UplinkIndex::new(0).expect("0 is an index");
    TunnelKey { local: zero, remote: zero }
}

fn address(link: &Link) -> IpAddr {
    link.attachments()[0].address.addr()
}

impl Wire {
    /// A line between a and b.
    pub fn new() -> Self {
        let builder = Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Bridge)]);
        let bed = builder.build().expect("the bed is built");
        let ends = [("a", "b"), ("b", "a")].map(|(site, other)| {
            let (here, there) = (address(bed.link(site, "isp1")), address(bed.link(other, "isp1")));
            let (sender, events) = mpsc::channel(64);
            let mut meter = Meter::new(here, sender, Arc::new(InterfaceCounters("isp1".into())));
            let way = Way { tunnel: tunnel(), peer: there, framing: Framing::none(INNER), inner: INNER };
            let rule = Rule { consent: Ok(()), framing: way.framing, passive: 0 };
            meter.set_rules(HashMap::from([((tunnel(), there), rule)]));
            let namespace = bed.site(site).namespace();
            let ifindex = namespace.ifindex("isp1").expect("the uplink exists");
            let named = BTreeMap::from([(tunnel(), ("isp1".to_owned(), ifindex))]);
            // The threads begin where the sockets are.
            namespace.run(|| meter.reconcile_named(&named)).expect("the namespace is entered");
            End { counters: meter.counters(), meter, events, way }
        });
        Self { bed, ends }
    }

    /// A token bucket at the provider, towards a site.
    pub fn limit(&self, site: &str, mbps: u64, burst: u32) {
        let port = self.bed.link(site, "isp1").port().to_owned();
        let queue = (mbps * 1_000_000 / 8 / 10).max(64_000);
        let line = format!("qdisc replace dev {port} root tbf rate {mbps}mbit burst {burst} limit {queue}\n");
        self.bed.provider("isp1").tc(&line).expect("the line is limited");
    }

    /// What a limit of so many Mbit/s of Ethernet frames is in IP packets of the trains' size, bit/s.
    pub fn truth(mbps: u64) -> f64 {
        mbps as f64 * 1e6 * f64::from(INNER) / (f64::from(INNER) + ETHERNET as f64)
    }

    /// Measures from one end.
    pub fn measure(&mut self, end: usize, direction: Direction, plan: Plan) -> Result<Outcome, Failure> {
        let End { meter, events, way, .. } = &mut self.ends[end];
        let namespace = self.bed.site(["a", "b"][end]).namespace();
        namespace
            .run(|| match direction {
                Direction::Forward => meter.forward(*way, plan, 0).map(drop),
                Direction::Backward => meter.backward(*way).map(drop),
            })
            .expect("the namespace is entered")?;
        loop {
            match events.blocking_recv().expect("the meter lives") {
                Event::Ended { result, .. } => return result.map(|found| found.outcome),
                Event::Solicited { .. } | Event::Told { .. } => {}
            }
        }
    }

    /// Address of an end.
    pub fn address(&self, site: &str, port: u16) -> SocketAddr {
        SocketAddr::new(address(self.bed.link(site, "isp1")), port)
    }
}

/// Prints a result beside the truth; returns the error as a share and the bytes as a share of those of an interval.
pub fn judge(what: &str, outcome: &Outcome, truth: f64, interval: Duration) -> (f64, f64) {
    let capacity = outcome.capacity.unwrap_or(0) as f64;
    let error = capacity / truth - 1.0;
    let bytes = outcome.bytes as f64 * 8.0 / (truth * interval.as_secs_f64());
    println!(
        "{what}: {:.3} Mbit/s, truth {:.3}, error {:+.2} %, bytes {:.3} %, {} trains, {} readings ±{:.2} %, {:.1?}, {:?}",
        capacity / 1e6,
        truth / 1e6,
        error * 100.0,
        bytes * 100.0,
        outcome.trains,
        outcome.readings,
        outcome.spread * 100.0,
        outcome.took,
        outcome.ended,
    );
    (error.abs(), bytes)
}

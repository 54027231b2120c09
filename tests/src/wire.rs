//! Two capacity meters at the ends of a line without tunnels: what is measured is the line and the sockets.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use sdwan::engine::capacity::search::{Outcome, Plan};
use sdwan::engine::capacity::{Direction, Framing};
use sdwan::engine::types::{TunnelKey, UplinkIndex};
use sdwan::measure::capacity::{Counters, Event, Failure, Meter, MeterCounters, Rule, Way};
use tokio::sync::mpsc;

use crate::bed::{Bed, Link, Namespace, Provider};

/// Bytes of an IP packet of a train.
pub const INNER: u16 = 1_500;
/// Bytes of an Ethernet header, which the kernel's shapers count and capacity doesn't.
pub const ETHERNET: u64 = 14;
/// Names of the sites at the ends.
const SITES: [&str; 2] = ["a", "b"];
/// Name of the line at both.
const UPLINK: &str = "isp1";

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
    /// What measures and answers.
    pub meter: Meter,
    /// What it tells.
    pub events: mpsc::Receiver<Event>,
    /// What happened to its messages.
    pub counters: Arc<MeterCounters>,
    /// To the other end.
    pub way: Way,
}

/// A line with a meter at each end, sites `a` and `b`.
pub struct Wire {
    /// The bed that it is on.
    pub bed: Bed,
    /// Those of `a` and `b`.
    pub ends: [End; 2],
}

/// The only tunnel.
pub fn tunnel() -> TunnelKey {
    let zero = UplinkIndex::new(0).expect("0 is an index");
    TunnelKey { local: zero, remote: zero }
}

fn address(link: &Link) -> Result<IpAddr> {
    Ok(link.attachments().first().context("the line has an address")?.address.addr())
}

impl Wire {
    /// A line between a and b, without a limit.
    ///
    /// # Errors
    /// When the bed can't be built.
    pub fn new() -> Result<Self> {
        let bed = Bed::builder().sites(SITES).providers([(UPLINK, Provider::Bridge)]).build()?;
        let [a, b] = SITES;
        let ends = [Self::end(&bed, a, b)?, Self::end(&bed, b, a)?];
        Ok(Self { bed, ends })
    }

    fn end(bed: &Bed, site: &str, other: &str) -> Result<End> {
        let (here, there) = (address(bed.link(site, UPLINK))?, address(bed.link(other, UPLINK))?);
        let (sender, events) = mpsc::channel(64);
        let mut meter = Meter::new(here, sender, Arc::new(InterfaceCounters(UPLINK.into())));
        let way = Way { tunnel: tunnel(), peer: there, framing: Framing::none(INNER), inner: INNER };
        let rule = Rule { consent: Ok(()), framing: way.framing, passive: 0 };
        meter.set_rules(HashMap::from([((tunnel(), there), rule)]));
        let namespace = bed.site(site).namespace();
        let named = BTreeMap::from([(tunnel(), (UPLINK.to_owned(), namespace.ifindex(UPLINK)?))]);
        // The threads begin where the sockets are.
        namespace.run(|| meter.reconcile_named(&named))?;
        Ok(End { counters: meter.counters(), meter, events, way })
    }

    /// A token bucket at the provider, towards a site: so many Mbit/s of Ethernet frames, `burst` bytes at once.
    ///
    /// # Errors
    /// When the kernel has no such queue.
    pub fn limit(&self, site: &str, mbps: u64, burst: u32) -> Result<()> {
        let port = self.bed.link(site, UPLINK).port().to_owned();
        let queue = (mbps * 1_000_000 / 8 / 10).max(64_000);
        let line = format!("qdisc replace dev {port} root tbf rate {mbps}mbit burst {burst} limit {queue}\n");
        Ok(self.bed.provider(UPLINK).tc(&line)?)
    }

    /// What a limit of so many Mbit/s of Ethernet frames is in IP packets of the trains' size, bit/s.
    pub fn truth(mbps: u64) -> f64 {
        mbps as f64 * 1e6 * f64::from(INNER) / (f64::from(INNER) + ETHERNET as f64)
    }

    /// Measures from one end, 0 or 1; the inner error is the meter's.
    ///
    /// # Errors
    /// When the namespace can't be entered or the meter has ended.
    pub fn measure(&mut self, end: usize, direction: Direction, plan: Plan) -> Result<Result<Outcome, Failure>> {
        let End { meter, events, way, .. } = &mut self.ends[end];
        let namespace = self.bed.site(SITES[end]).namespace();
        let begun = namespace.run(|| match direction {
            Direction::Forward => meter.forward(*way, plan, 0).map(drop),
            Direction::Backward => meter.backward(*way).map(drop),
        })?;
        if let Err(failure) = begun {
            return Ok(Err(failure));
        }
        loop {
            match events.blocking_recv().context("the meter has ended")? {
                Event::Ended { result, .. } => return Ok(result.map(|found| found.outcome)),
                Event::Solicited { .. } | Event::Told { .. } => {}
            }
        }
    }

    /// The namespace of an end, 0 or 1.
    pub fn namespace(&self, end: usize) -> &Namespace {
        self.bed.site(SITES[end]).namespace()
    }

    /// Bytes of IP packets that left an end so far.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn sent_bytes(&self, end: usize) -> Result<u64> {
        let namespace = self.namespace(end);
        let packets = namespace.statistic(UPLINK, "tx_packets")?;
        Ok(namespace.statistic(UPLINK, "tx_bytes")?.saturating_sub(ETHERNET * packets))
    }

    /// Address of an end.
    ///
    /// # Panics
    /// When there is no such site.
    pub fn address(&self, site: &str, port: u16) -> SocketAddr {
        SocketAddr::new(address(self.bed.link(site, UPLINK)).expect("it was there when this was made"), port)
    }
}

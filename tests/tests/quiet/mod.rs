//! A line where nothing but a test's own packets passes.

use std::net::SocketAddr;
use std::time::Duration;

use sdwan_tests::bed::{Bed, Families, Impairment, Link};
use sdwan_tests::traffic::{Report, UdpReceiver, UdpSender, UdpSpec};

/// Two sites on one segment, where nothing but the tests' own packets passes the line of site `a`.
pub struct QuietPair {
    /// The bed.
    pub bed: Bed,
}

impl QuietPair {
    /// With this impairment on the line of site `a`, both ways.
    pub fn new(impairment: Option<Impairment>) -> Self {
        let builder = Bed::builder().sites(["a", "b"]).families(Families::V4).by_keeper();
        let builder = match &impairment {
            Some(_) => builder.impair("a", "isp1", Impairment::default()),
            None => builder,
        };
        let bed = builder.build().expect("bed");
        let mac = |site: &str| bed.site(site).shell("cat /sys/class/net/isp1/address").expect("address");
        for (site, other) in [("a", "b"), ("b", "a")] {
            bed.site(site).sysctl(&[("net/ipv6/conf/isp1/disable_ipv6", "1")]).expect("sysctl");
            let neighbour = bed.link(other, "isp1").attachments()[0].address.addr();
            let line = format!("neighbour replace {neighbour} lladdr {} dev isp1 nud permanent\n", mac(other).trim());
            bed.site(site).ip(&line).expect("neighbour");
        }
        let provider = bed.provider("isp1");
        provider.sysctl(&[("net/ipv6/conf/all/disable_ipv6", "1")]).expect("sysctl");
        let pair = Self { bed };
        // The bridge learns where both are.
        pair.run(UdpSpec::new(pair.address("b", 0), 1_000.0).packets(10), "a");
        pair.run(UdpSpec::new(pair.address("a", 0), 1_000.0).packets(10), "b");
        if let Some(impairment) = impairment {
            pair.line().impair(&impairment).expect("impair");
        }
        pair
    }

    /// The line of site `a`.
    pub fn line(&self) -> &Link {
        self.bed.link("a", "isp1")
    }

    /// A site's underlay address.
    pub fn address(&self, site: &str, port: u16) -> SocketAddr {
        SocketAddr::new(self.bed.link(site, "isp1").attachments()[0].address.addr(), port)
    }

    /// Sends a stream from one site to the other one, and reports.
    pub fn run(&self, spec: UdpSpec, from: &str) -> Report {
        let to = if from == "a" { "b" } else { "a" };
        let receiver = UdpReceiver::start(self.bed.site(to), self.address(to, 0)).expect("receiver");
        let spec = UdpSpec { destination: receiver.local(), ..spec };
        let sent = UdpSender::start(self.bed.site(from), spec).expect("sender").finish().expect("sent");
        assert_eq!(sent.refused, 0, "{sent:?}");
        let report = receiver.finish(&sent, Duration::from_millis(400)).expect("report");
        assert_eq!(report.socket_dropped, 0);
        report
    }
}

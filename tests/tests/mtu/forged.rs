//! Messages that must not be believed, from somebody on the provider's segment; one who even has a site's key can't
//! make the other end send more than was asked.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use sdwan::engine::mtu::{HEADER_LENGTH, port};
use sdwan::engine::types::{TunnelKey, UplinkIndex};
use sdwan::measure::mtu::keys::PeerKeys;
use sdwan::measure::mtu::wire::{Kind, Message};
use sdwan::trust::state::SiteFiles;
use sdwan_tests::bed::{Bed, Families, Provider};
use sdwan_tests::mesh::{Gateway, Mesh, MeshOptions};
use sdwan_tests::needs_bed;

use crate::{mesh_on, path};

/// Somebody who sends from the provider's own address.
struct Attacker<'a> {
    mesh: &'a Mesh,
    socket: UdpSocket,
    target: SocketAddr,
}

impl<'a> Attacker<'a> {
    fn new(mesh: &'a Mesh) -> Self {
        let provider = mesh.bed().provider("isp1");
        let socket =
            provider.run(|| UdpSocket::bind("0.0.0.0:0")).expect("the namespace is entered").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("it is set");
        let address = mesh.bed().link("a", "isp1").attachments()[0].address.addr();
        Self { mesh, socket, target: SocketAddr::new(address, port(51_820).expect("a port")) }
    }

    fn send(&self, payload: &[u8]) {
        self.socket.send_to(payload, self.target).expect("it is sent");
    }

    fn answer(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 65_535];
        self.socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())
    }

    /// Sends what must be refused, counted as this, and not answered.
    fn refused(&self, what: &str, payload: &[u8], counter: &str) {
        let gateway = self.mesh.gateway("a");
        let before = count(gateway, counter);
        self.send(payload);
        assert_eq!(self.answer(), None, "{what} is answered");
        let start = Instant::now();
        while count(gateway, counter) == before {
            assert!(start.elapsed() < Duration::from_secs(5), "{what} is not counted as {counter}");
        }
    }
}

fn count(gateway: &Gateway, counter: &str) -> u64 {
    gateway.status().expect("the status is shown").mtu_probes[counter]
}

#[test]
fn forged_replayed_cut_stretched_and_foreign_messages_change_nothing_and_are_counted() {
    needs_bed!();
    let bed = Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Bridge)]).families(Families::V4);
    let mesh = mesh_on(bed.build().expect("the bed is built"), &MeshOptions::default());
    let (a, b) = (mesh.gateway("a"), mesh.gateway("b"));
    let before = path(a);
    let attacker = Attacker::new(&mesh);

    let states = [a, b].map(|gateway| SiteFiles::new(gateway.state()).load().expect("the state is read"));
    let [site_a, site_b] = states.each_ref().map(|state| state.identity.site());
    let keys = PeerKeys::derive(std::slice::from_ref(&states[1].wireguard), [states[0].wireguard.public()]);
    let zero = UplinkIndex::new(0).expect("an index");
    let now = sdwan::measure::clock::unix_ns();
    let size = 1_423;
    let message = Message {
        kind: Kind::Probe,
        from: site_b,
        to: site_a,
        uplinks: TunnelKey { local: zero, remote: zero },
        // Newer than anything that site b has sent.
        sequence: now + 60_000_000_000,
        size,
    };
    let payload = |header: [u8; HEADER_LENGTH], size: u16| {
        let mut payload = header.to_vec();
        payload.resize(usize::from(size) - 28, 0);
        payload
    };
    let good = message.encode(&keys, None).expect("there is a key");

    attacker.refused("an empty datagram", &[], "malformed");
    attacker.refused("noise", &[0x5d; 1_400], "malformed");
    attacker.refused("a huge datagram", &vec![0x5d; 60_000], "malformed");
    attacker.refused("a cut header", &good[..HEADER_LENGTH - 1], "malformed");
    attacker.refused("a cut probe", &payload(good, size - 1), "malformed");
    attacker.refused("a stretched probe", &payload(good, size + 1), "malformed");
    let mut changed = good;
    changed[HEADER_LENGTH - 1] ^= 1;
    attacker.refused("a changed probe", &payload(changed, size), "forged");
    let mut larger = good;
    larger[48..50].copy_from_slice(&(size + 1).to_be_bytes());
    attacker.refused("a probe with another size", &payload(larger, size + 1), "forged");
    let stranger = Message { from: sdwan::engine::types::SiteId([7; 16]), ..message };
    let stranger = stranger.encode(&keys, None).expect("there is a key");
    attacker.refused("a stranger's probe", &payload(stranger, size), "foreign");
    let other = Message { to: site_b, ..message }.encode(&keys, None).expect("there is a key");
    attacker.refused("a probe for somebody else", &payload(other, size), "foreign");
    let acknowledgement = Message { kind: Kind::Acknowledgement, size: 9_000, ..message };
    let acknowledgement = acknowledgement.encode(&keys, None).expect("there is a key");
    attacker.refused("an acknowledgement of nothing", &acknowledgement, "replayed");

    // Who has the key is answered once, by fewer bytes than were sent.
    attacker.send(&payload(good, size));
    let answer = attacker.answer().expect("it is answered");
    assert_eq!(answer.len(), HEADER_LENGTH);
    attacker.refused("a recorded probe", &payload(good, size), "replayed");
    let smallest = Message { sequence: message.sequence + 1, size: HEADER_LENGTH as u16 + 28, ..message };
    attacker.send(&smallest.encode(&keys, None).expect("there is a key"));
    assert_eq!(attacker.answer().expect("it is answered").len(), HEADER_LENGTH, "never longer than the question");

    // A flood is cut off before codes are computed for it.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        attacker.send(&payload(changed, size));
    }
    let limited = count(a, "limited") + count(a, "overrun");
    println!("{limited} messages of a flood were limited");
    assert!(limited > 100, "{limited}");

    let after = path(a);
    assert_eq!((after.mtu, after.underlay_mtu, after.mtu_by), (before.mtu, before.underlay_mtu, before.mtu_by));
}

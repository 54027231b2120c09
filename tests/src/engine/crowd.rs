//! Many sites behind the uplinks of one gateway: what it sends into them comes out here, and is answered as a thousand
//! gateways would. Real announcements, real WireGuard; nothing is forwarded.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use etherparse::PacketBuilder;
use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::noise::{Tunn, TunnResult};
use gotatun::packet::Packet;
use gotatun::x25519::{PublicKey, StaticSecret};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sdwan::engine::types::RemoteSite;
use sdwan::trust::announcement::{LocalAnnouncement, sign_announcement};
use sdwan::trust::certificate::{Certificate, CertificateContent};
use sdwan::trust::keys::{AuthorityKey, IdentityKey, WireGuardKey};
use sdwan_common::stamp::{self, ReflectorPacket, SenderPacket, Timestamp};

use super::world::remote;

/// Uplinks at both ends.
pub const UPLINKS: usize = 2;
/// UDP port of announcements.
const DISCOVERY: u16 = 51_819;
/// Base of everybody's tunnel ports.
const TUNNELS: u16 = 51_820;
/// Announcements per second while the gateway gets to know the sites, …
const INTRODUCTIONS: u64 = 100;
/// … and how often each repeats its own then.
const REPEAT: Duration = Duration::from_secs(30);

/// A path as it looks from here: site by number, the gateway's uplink, the site's uplink.
pub type Way = (u32, usize, usize);

/// One of the gateway's uplinks.
pub struct Uplink {
    /// The far end of the TUN device that it is.
    pub device: File,
    /// The gateway's address on it.
    pub gateway: Ipv4Addr,
}

/// The sites, at work until this is dropped.
pub struct Crowd {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    silent: Mutex<HashSet<Way>>,
}

impl Crowd {
    /// Makes `count` sites, admitted by `authority`, for a gateway with this WireGuard key, and lets them announce
    /// themselves.
    ///
    /// # Errors
    /// When a certificate can't be made, or a thread.
    pub fn start(count: u32, authority: &AuthorityKey, gateway: [u8; 32], uplinks: [Uplink; UPLINKS]) -> Result<Self> {
        let sites = (0..count).map(|number| Member::new(number, authority, gateway)).collect::<Result<Vec<_>>>()?;
        let addresses = sites.iter().zip(0..).flat_map(|(site, number)| {
            let of = move |(uplink, address): (usize, &Ipv4Addr)| (*address, (number, uplink));
            site.addresses.iter().enumerate().map(of).collect::<Vec<_>>()
        });
        let shared = Arc::new(Shared::default());
        let work = Work {
            addresses: addresses.collect(),
            sites,
            uplinks,
            shared: shared.clone(),
            waiting: BinaryHeap::new(),
            packets: 0,
        };
        let thread = std::thread::Builder::new().name("crowd".into()).spawn(move || work.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Probes that were answered so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Whether a path answers no more, or does again.
    pub fn silence(&self, way: Way, silent: bool) {
        let mut ways = self.shared.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if silent {
            ways.insert(way);
        } else {
            ways.remove(&way);
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the thread of the sites panicked");
        }
    }
}

/// One site.
struct Member {
    addresses: [Ipv4Addr; UPLINKS],
    /// By the gateway's uplink and the site's own.
    tunnels: [[Tunn; UPLINKS]; UPLINKS],
    reflected: u32,
    identity: IdentityKey,
    certificate: Certificate,
    announcement: LocalAnnouncement,
    sequence: u64,
}

impl Member {
    fn new(number: u32, authority: &AuthorityKey, gateway: [u8; 32]) -> Result<Self> {
        let RemoteSite { name, base_port, prefixes, uplinks, .. } = remote(number);
        let (identity, wireguard) = (IdentityKey::generate(), WireGuardKey::generate());
        let now = unix_ms() / 1_000;
        let certificate = Certificate::sign(
            CertificateContent {
                mesh: authority.mesh(),
                identity: identity.public().to_bytes(),
                name,
                not_before: now - 3_600,
                not_after: now + 86_400,
                prefixes: prefixes.clone(),
            },
            authority,
        )?;
        let address = |uplink: usize| match uplinks[uplink].addresses[..] {
            [IpAddr::V4(address)] => Ok(address),
            _ => anyhow::bail!("site {number} has no IPv4 address on uplink {uplink}"),
        };
        let secret = StaticSecret::from(*wireguard.secret());
        let public = PublicKey::from(&secret);
        let tunnel = || {
            let limiter = Arc::new(RateLimiter::new(&public, u64::MAX));
            let indices = IndexTable::from_os_rng();
            Tunn::new(secret.clone(), PublicKey::from(gateway), None, None, indices, limiter)
        };
        Ok(Self {
            addresses: [address(0)?, address(1)?],
            tunnels: std::array::from_fn(|_| std::array::from_fn(|_| tunnel())),
            reflected: 0,
            identity,
            certificate,
            announcement: LocalAnnouncement {
                wireguard_key: wireguard.public(),
                next_wireguard_key: None,
                base_port,
                uplinks,
                prefixes,
            },
            sequence: 0,
        })
    }

    fn announce(&mut self) -> Result<Vec<u8>> {
        self.sequence += 1;
        let made = unix_ms();
        Ok(sign_announcement(&self.certificate, self.sequence, made, &self.announcement, &self.identity)?)
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// When something is to be written into which uplink: in the order of time, and of packets.
type Waiting = Reverse<(Instant, u64, usize, Vec<u8>)>;

struct Work {
    sites: Vec<Member>,
    addresses: HashMap<Ipv4Addr, (u32, usize)>,
    uplinks: [Uplink; UPLINKS],
    shared: Arc<Shared>,
    waiting: BinaryHeap<Waiting>,
    packets: u64,
}

/// The parts of a UDP packet that matter here.
struct Udp<'a> {
    source: Ipv4Addr,
    source_port: u16,
    destination: Ipv4Addr,
    destination_port: u16,
    payload: &'a [u8],
}

impl<'a> Udp<'a> {
    fn of(packet: &'a [u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0xf) * 4;
        let udp = packet.get(header..)?;
        let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        let port = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
        (packet[0] >> 4 == 4 && packet[9] == 17).then_some(())?;
        Some(Self {
            source: address(12)?,
            source_port: port(0)?,
            destination: address(16)?,
            destination_port: port(2)?,
            payload: udp.get(8..usize::from(port(4)?))?,
        })
    }
}

impl Work {
    fn run(mut self) {
        let began = Instant::now();
        let mut announced: u64 = 0;
        let count = self.sites.len() as u64;
        let mut buffer = vec![0; 65_536];
        while !self.shared.stop.load(Ordering::Relaxed) {
            // All introduce themselves, and again and again in turn after that.
            let gap =
                if announced < count { Duration::from_secs(1) / INTRODUCTIONS as u32 } else { REPEAT / count as u32 };
            let introduced = count.min(announced) as u32;
            let due = Duration::from_secs(1) / INTRODUCTIONS as u32 * introduced
                + gap * (announced.saturating_sub(count)) as u32;
            let at = began + due;
            if Instant::now() >= at {
                self.announce((announced % count) as usize);
                announced += 1;
            }
            self.deliver();
            let next = self.waiting.peek().map_or(at, |Reverse((next, ..))| at.min(*next));
            self.wait(next.saturating_duration_since(Instant::now()));
            for uplink in 0..UPLINKS {
                for _ in 0..64 {
                    match self.uplinks[uplink].device.read(&mut buffer) {
                        Ok(length) => self.take(uplink, &buffer[..length]),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return eprintln!("an uplink can't be read any more: {error}"),
                    }
                }
            }
        }
    }

    fn wait(&self, time: Duration) {
        let devices = self.uplinks.each_ref().map(|uplink| PollFd::new(uplink.device.as_fd(), PollFlags::POLLIN));
        // Rounded up: what is due in less than a millisecond isn't waited for in a loop.
        let milliseconds = u16::try_from(time.as_micros().div_ceil(1_000).min(100)).unwrap_or(100);
        let mut devices = devices;
        // An interruption is a wake-up like any other.
        let _ = poll(&mut devices, PollTimeout::from(milliseconds));
    }

    /// Writes what is due.
    fn deliver(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, ..))) = self.waiting.peek()
            && *at <= now
        {
            let Some(Reverse((_, _, uplink, packet))) = self.waiting.pop() else { return };
            // A queue that is full loses packets, as lines do.
            let _ = self.uplinks[uplink].device.write(&packet);
        }
    }

    fn announce(&mut self, number: usize) {
        let site = &mut self.sites[number];
        let from = site.addresses[0];
        match site.announce() {
            Ok(datagram) => {
                let to = self.uplinks[0].gateway;
                self.send(Duration::ZERO, 0, (from, DISCOVERY), (to, DISCOVERY), &datagram);
            }
            Err(error) => eprintln!("site {number} can't announce itself: {error}"),
        }
    }

    fn send(&mut self, delay: Duration, uplink: usize, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) {
        let builder = PacketBuilder::ipv4(from.0.octets(), to.0.octets(), 64).udp(from.1, to.1);
        let mut packet = Vec::with_capacity(builder.size(payload.len()));
        if builder.write(&mut packet, payload).is_ok() {
            self.packets += 1;
            self.waiting.push(Reverse((Instant::now() + delay, self.packets, uplink, packet)));
        }
    }

    /// What the gateway sent into an uplink.
    fn take(&mut self, uplink: usize, packet: &[u8]) {
        let Some(udp) = Udp::of(packet) else { return };
        let Some(&(number, far)) = self.addresses.get(&udp.destination) else { return };
        if udp.destination_port != TUNNELS + (far * 8 + uplink) as u16 {
            return;
        }
        let Ok(message) = Packet::copy_from(udp.payload).try_into_wg() else { return };
        let way = (number, uplink, far);
        let silent = self.shared.silent.lock().unwrap_or_else(PoisonError::into_inner).contains(&way);
        let site = &mut self.sites[number as usize];
        let tunnel = &mut site.tunnels[uplink][far];
        let answer = match tunnel.handle_incoming_packet(message) {
            TunnResult::WriteToNetwork(answer) => Some(answer),
            TunnResult::WriteToTunnel(inner) if !silent => reflect(&inner, &mut site.reflected).and_then(|answer| {
                self.shared.answered.fetch_add(1, Ordering::Relaxed);
                tunnel.handle_outgoing_packet(Packet::copy_from(&answer[..]), None)
            }),
            TunnResult::WriteToTunnel(_) | TunnResult::Done | TunnResult::Err(_) => None,
        };
        if let Some(answer) = answer {
            let answer = Packet::from(answer);
            // Each site is as far away as its number says, 2 to 62 ms.
            let delay = Duration::from_millis(2 + u64::from(number) * 7_919 % 61);
            let (from, to) = ((udp.destination, udp.destination_port), (udp.source, udp.source_port));
            self.send(delay, uplink, from, to, &answer);
        }
    }
}

/// The answer to a probe inside a tunnel, as the programs of a gateway give it.
fn reflect(inner: &[u8], reflected: &mut u32) -> Option<Vec<u8>> {
    const HEADERS: usize = 40 + 8;
    // What WireGuard padded is beyond the length that the header says.
    let length = usize::from(u16::from_be_bytes([*inner.get(4)?, *inner.get(5)?]));
    let (addresses, payload) = (inner.get(8..40)?, inner.get(HEADERS..40 + length)?);
    let port = |at: usize| u16::from_be_bytes([inner[at], inner[at + 1]]);
    if inner[0] >> 4 != 6 || inner[6] != 17 || port(42) != stamp::PORT {
        return None;
    }
    let question = SenderPacket::decode(payload).ok()?;
    *reflected = reflected.wrapping_add(1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let now = Timestamp::from_unix_ns(u64::try_from(now.as_nanos()).ok()?);
    let answer = ReflectorPacket::answer(&question, *reflected, now, now, inner[7]);
    let mut whole = payload.to_vec();
    whole.get_mut(..stamp::BASE_LENGTH)?.copy_from_slice(&answer.encode());
    let address = |at: usize| <[u8; 16]>::try_from(&addresses[at..at + 16]);
    let builder = PacketBuilder::ipv6(address(16).ok()?, address(0).ok()?, 255).udp(stamp::PORT, port(40));
    let mut packet = Vec::with_capacity(builder.size(whole.len()));
    builder.write(&mut packet, &whole).ok()?;
    Some(packet)
}

/// The authority's key in its directory.
///
/// # Errors
/// When it can't be read.
pub fn authority(directory: &std::path::Path) -> Result<AuthorityKey> {
    use sdwan::trust::files::{FileKind, read_secret};
    let secret =
        read_secret(&directory.join("authority.key"), FileKind::AuthorityKey).context("the authority's key")?;
    Ok(AuthorityKey::from_secret(&secret))
}

//! Follows the kernel's network through netlink multicast.
//!
//! A change makes the whole picture be read anew, so that a lost or misread message can't leave a wrong picture behind.
//! The one thing that can't wait for that is a lost carrier: it is published from the kernel's message itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::netlink::{is_default_route, link_of};
use super::{Error, NetSnapshot, Network};

/// Changes within this time are read together.
const DEBOUNCE: Duration = Duration::from_millis(15);
/// The picture is read anew this often even when nothing is heard.
const REFRESH: Duration = Duration::from_secs(30);
/// Pause after a failed reading.
const RETRY: Duration = Duration::from_secs(1);
/// Receive buffer asked for, bytes: thousands of messages.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Largest datagram the kernel sends, bytes.
const DATAGRAM: usize = 1 << 16;

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// The task that follows the network; ends when dropped.
pub struct Monitor {
    snapshots: watch::Receiver<Arc<NetSnapshot>>,
    task: JoinHandle<()>,
}

impl Monitor {
    /// Reads the network and starts to follow it. Must be called in the network namespace to follow.
    pub async fn start() -> Result<Self, Error> {
        // Subscribed before the first reading: nothing falls between.
        let socket = subscribe().map_err(|source| Error::Socket { action: "follow the network".into(), source })?;
        let network = Network::connect()?;
        let (sender, snapshots) = watch::channel(Arc::new(network.snapshot().await?));
        let task = tokio::spawn(Follower { socket, network, sender, stale_at: None }.run());
        Ok(Self { snapshots, task })
    }

    /// The latest picture, and word of each change.
    pub fn snapshots(&self) -> watch::Receiver<Arc<NetSnapshot>> {
        self.snapshots.clone()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a message of the kernel means for the picture.
enum Word {
    /// Nothing in it changed.
    Irrelevant,
    /// Something changed.
    Stale,
    /// An interface changed; the picture with the interface's new state.
    Link(NetSnapshot),
}

struct Follower {
    socket: AsyncFd<Socket>,
    network: Network,
    sender: watch::Sender<Arc<NetSnapshot>>,
    /// When to read the picture anew, if it is known to be stale.
    stale_at: Option<Instant>,
}

impl Follower {
    async fn run(mut self) {
        let mut buffer = Vec::with_capacity(DATAGRAM);
        let mut refreshed = Instant::now();
        loop {
            let due = self.stale_at.unwrap_or(refreshed + REFRESH);
            buffer.clear();
            tokio::select! {
                biased;
                received = self.socket.async_io(Interest::READABLE, |socket| socket.recv(&mut buffer, 0)) => {
                    match received {
                        Ok(_) => self.hear(&buffer),
                        // The kernel dropped messages for us (ENOBUFS), or worse: in any case the picture is stale.
                        Err(error) => {
                            debug!(%error, "network messages were lost, reading everything anew");
                            self.stale();
                            if error.raw_os_error() != Some(libc::ENOBUFS) {
                                tokio::time::sleep(DEBOUNCE).await;
                            }
                        }
                    }
                }
                () = sleep_until(due) => {
                    refreshed = Instant::now();
                    self.read().await;
                }
            }
        }
    }

    fn stale(&mut self) {
        self.stale_at.get_or_insert_with(|| Instant::now() + DEBOUNCE);
    }

    /// Reads everything and publishes it.
    async fn read(&mut self) {
        match self.network.snapshot().await {
            Ok(snapshot) => {
                self.stale_at = None;
                self.publish(snapshot);
            }
            Err(error) => {
                warn!(%error, "cannot read the network, will try again");
                self.stale_at = Some(Instant::now() + RETRY);
            }
        }
    }

    fn publish(&self, snapshot: NetSnapshot) {
        self.sender.send_if_modified(|current| {
            let changed = **current != snapshot;
            if changed {
                *current = Arc::new(snapshot);
            }
            changed
        });
    }

    /// Takes in the messages of one datagram.
    fn hear(&mut self, mut datagram: &[u8]) {
        while let Some((message, rest)) = split_message(datagram) {
            datagram = rest;
            let word = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
                Ok(message) => word_of(&message.payload, &self.sender.borrow()),
                Err(error) => {
                    debug!(%error, "a message of the kernel can't be read");
                    Word::Stale
                }
            };
            match word {
                Word::Irrelevant => {}
                Word::Stale => self.stale(),
                Word::Link(snapshot) => {
                    self.publish(snapshot);
                    self.stale();
                }
            }
        }
    }
}

fn word_of(payload: &NetlinkPayload<RouteNetlinkMessage>, current: &NetSnapshot) -> Word {
    let NetlinkPayload::InnerMessage(message) = payload else {
        return Word::Stale;
    };
    match message {
        RouteNetlinkMessage::NewLink(link) => {
            let link = link_of(link);
            match current.links.get(&link.ifindex) {
                Some(known) if known.up != link.up || known.carrier != link.carrier => {
                    let mut snapshot = current.clone();
                    snapshot.links.insert(link.ifindex, link);
                    Word::Link(snapshot)
                }
                Some(known) if *known == link => Word::Irrelevant,
                _ => Word::Stale,
            }
        }
        RouteNetlinkMessage::DelLink(link) => {
            let mut snapshot = current.clone();
            snapshot.links.remove(&link.header.index);
            snapshot.addresses.retain(|address| address.ifindex != link.header.index);
            snapshot.default_routes.retain(|route| route.ifindex != link.header.index);
            Word::Link(snapshot)
        }
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => Word::Stale,
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) if is_default_route(route) => {
            Word::Stale
        }
        _ => Word::Irrelevant,
    }
}

/// Cuts the first message off a datagram.
fn split_message(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_ne_bytes(datagram.first_chunk().copied()?) as usize;
    if length < 16 || length > datagram.len() {
        return None;
    }
    let next = length.next_multiple_of(4).min(datagram.len());
    Some((&datagram[..length], &datagram[next..]))
}

fn subscribe() -> io::Result<AsyncFd<Socket>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_non_blocking(true)?;
    socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
    let groups = GROUPS.iter().fold(0, |groups, group| groups | 1 << (*group as u32 - 1));
    socket.bind(&SocketAddr::new(0, groups))?;
    // SAFETY: the `Socket` owns its descriptor, stays inside, and always gives the same one.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_splits_into_its_messages_and_never_reads_past_its_end() {
        let message = |length: u32, size: usize| {
            let mut bytes = vec![0; size];
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            bytes
        };
        let two = [message(18, 20), message(16, 16)].concat();
        let (first, rest) = split_message(&two).expect("first message");
        assert_eq!((first.len(), rest.len()), (18, 16));
        let (second, rest) = split_message(rest).expect("second message");
        assert_eq!((second.len(), rest.len()), (16, 0));
        assert!(split_message(rest).is_none());
        assert!(split_message(&message(17, 16)).is_none(), "longer than the datagram");
        assert!(split_message(&message(4, 16)).is_none(), "shorter than its header");
    }
}

//! The control socket of a userspace WireGuard: the cross-platform configuration protocol, as `wg` and
//! wireguard-control speak it (<https://www.wireguard.com/xplatform/#configuration-protocol>).

use std::fmt::{Display, Write as _};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gotatun::device::configure::{DeviceWrite, PeerStats};
use gotatun::device::uapi::command::{Request, Set, SetPeer, SetUnset};
use gotatun::device::{Device, Error, Peer};
use gotatun::x25519::{PublicKey, StaticSecret};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tracing::warn;

use super::tun::AsyncTun;
use super::udp::PatientSockets;

/// Longest request, bytes: some hundred thousand prefixes.
const LONGEST_REQUEST: u64 = 16 << 20;
/// Who doesn't finish a request in this time is sent away, for the next one's sake.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the device is made of.
type Transports = (PatientSockets, AsyncTun, AsyncTun);

/// Serves the control socket of one device.
pub struct Control {
    device: Device<Transports>,
}

impl Control {
    /// Takes the device over.
    pub fn new(device: Device<Transports>) -> Self {
        Self { device }
    }

    /// Serves one connection to its end. One at a time: requests must not overtake each other.
    pub async fn serve(&mut self, stream: UnixStream) {
        match timeout(PATIENCE, self.converse(stream)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "a control connection broke"),
            Err(_) => warn!("a control connection was too slow"),
        }
    }

    async fn converse(&mut self, stream: UnixStream) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader.take(LONGEST_REQUEST)).lines();
        let mut request = String::new();
        while let Some(line) = lines.next_line().await? {
            if !line.is_empty() {
                request.push_str(&line);
                request.push('\n');
                continue;
            }
            if request.is_empty() {
                continue;
            }
            let answer = self.answer(&request).await;
            request.clear();
            writer.write_all(answer.as_bytes()).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, request: &str) -> String {
        let errno = match request.parse() {
            Ok(Request::Get(_)) => return self.describe().await,
            Ok(Request::Set(set)) => self.change(set).await,
            Err(error) => {
                warn!("a control request can't be read: {error:#}");
                libc::EINVAL
            }
        };
        format!("errno={errno}\n\n")
    }

    async fn describe(&self) -> String {
        let (key, port, mark, peers) = self
            .device
            .read(async |device| {
                let key = device.private_key().map(|key| key.to_bytes());
                (key, device.listen_port(), device.fwmark(), device.peers().await)
            })
            .await;
        let mut text = String::new();
        let mut line = |name: &str, value: &dyn Display| {
            // Writing into a String doesn't fail.
            let _ = writeln!(text, "{name}={value}");
        };
        if let Some(key) = key {
            line("private_key", &hex::encode(key));
        }
        line("listen_port", &port);
        line("fwmark", &mark.unwrap_or(0));
        for peer in peers {
            describe_peer(&peer, &mut line);
        }
        text.push_str("errno=0\n\n");
        text
    }

    /// Carries out a change; the operating system's error number, or 0.
    async fn change(&mut self, set: Set) -> i32 {
        if set.protocol_version.as_deref().is_some_and(|version| version != "1") {
            return libc::EPROTO;
        }
        let has_key = self.device.read(async |device| device.private_key().is_some()).await;
        // Without a key the device can neither open its socket nor take a peer.
        if !has_key && set.private_key.is_none() {
            return libc::ENOKEY;
        }
        let changed = self
            .device
            .write(async |device| {
                if let Some(key) = &set.private_key {
                    device.set_private_key(StaticSecret::from(key.0)).await;
                }
                match set.fwmark {
                    Some(SetUnset::Set(mark)) => device.set_fwmark(mark.get())?,
                    Some(SetUnset::Unset) => device.set_fwmark(0)?,
                    None => {}
                }
                if let Some(port) = set.listen_port {
                    device.set_listen_port(port);
                }
                if set.replace_peers {
                    for known in device.peers().await {
                        device.remove_peer(&known.peer.public_key).await;
                    }
                }
                for peer in set.peers {
                    change_peer(device, peer).await;
                }
                Ok::<_, Error>(())
            })
            .await;
        match changed.and_then(|inner| inner) {
            Ok(()) => 0,
            Err(error) => {
                warn!("cannot change the device: {error}");
                self.take_any_port().await;
                error_number(&error)
            }
        }
    }

    /// The device has no socket after a failed change of its port, and wouldn't open one for being asked again. With
    /// any other port it has one, and whoever asks sees that it isn't the one that was wanted.
    async fn take_any_port(&self) {
        if let Err(error) = self.device.set_listen_port(0).await {
            warn!("cannot open a UDP socket: {error}");
        }
    }
}

fn describe_peer(known: &PeerStats, line: &mut impl FnMut(&str, &dyn Display)) {
    line("public_key", &hex::encode(known.peer.public_key.as_bytes()));
    if let Some(endpoint) = known.peer.endpoint {
        line("endpoint", &endpoint);
    }
    line("persistent_keepalive_interval", &known.peer.keepalive.unwrap_or(0));
    for prefix in &known.peer.allowed_ips {
        line("allowed_ip", prefix);
    }
    let handshake = known.stats.last_handshake.and_then(|age| {
        let time = SystemTime::now().checked_sub(age)?;
        time.duration_since(UNIX_EPOCH).ok()
    });
    let handshake = handshake.unwrap_or_default();
    line("last_handshake_time_sec", &handshake.as_secs());
    line("last_handshake_time_nsec", &handshake.subsec_nanos());
    line("rx_bytes", &known.stats.rx_bytes);
    line("tx_bytes", &known.stats.tx_bytes);
}

/// Adds, changes or removes a peer. A changed one keeps its session.
async fn change_peer(device: &mut DeviceWrite<'_, Transports>, change: SetPeer) {
    let public_key = PublicKey::from(change.peer.public_key.0);
    if change.remove {
        device.remove_peer(&public_key).await;
        return;
    }
    let preshared_key = change.peer.preshared_key.map(|key| match key {
        SetUnset::Set(key) => Some(key.0),
        SetUnset::Unset => None,
    });
    let known = device.peers().await;
    let gained = change.peer.allowed_ip;
    // The device leaves a prefix that moves in its former peer's list too, and gives it back to that one at its next
    // change.
    for other in known.iter().filter(|other| other.peer.public_key != public_key) {
        if other.peer.allowed_ips.iter().any(|prefix| gained.contains(prefix)) {
            let kept = other.peer.allowed_ips.iter().filter(|prefix| !gained.contains(prefix)).copied();
            device
                .modify_peer(&other.peer.public_key, |other| {
                    other.clear_allowed_ips();
                    other.add_allowed_ips(kept);
                })
                .await;
        }
    }
    if !known.iter().any(|known| known.peer.public_key == public_key) {
        if !change.update_only {
            let mut peer = Peer::new(public_key).with_allowed_ips(gained);
            peer.endpoint = change.peer.endpoint;
            peer.keepalive = change.peer.persistent_keepalive_interval.filter(|seconds| *seconds > 0);
            peer.preshared_key = preshared_key.flatten();
            device.add_peer(peer);
        }
        return;
    }
    device
        .modify_peer(&public_key, |peer| {
            if let Some(endpoint) = change.peer.endpoint {
                peer.set_endpoint(Some(endpoint));
            }
            if let Some(seconds) = change.peer.persistent_keepalive_interval {
                peer.set_keepalive(Some(seconds).filter(|seconds| *seconds > 0));
            }
            if let Some(key) = preshared_key {
                peer.set_preshared_key(key);
            }
            if change.replace_allowed_ips {
                peer.clear_allowed_ips();
            }
            peer.add_allowed_ips(gained);
        })
        .await;
}

/// The operating system's number for an error.
fn error_number(error: &Error) -> i32 {
    match error {
        Error::Bind(source, _) | Error::IoError(source) => source.raw_os_error().unwrap_or(libc::EIO),
        _ => libc::EINVAL,
    }
}

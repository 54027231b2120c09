//! Seeds: addresses of sites that are known beforehand, and the names among them resolved again and again.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::types::{DiscoveryEvent, PORT};

/// Most seeds.
pub const SEEDS_MAX: usize = 64;
/// Most addresses of one name.
const ADDRESSES_MAX: usize = 16;
const RESOLVE_AGAIN: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(10);
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// A seed: a host name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seed {
    host: String,
    port: u16,
}

/// Not a seed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a seed: write a name or address, with a port if it isn't {PORT}, such as hq.example.net:51819 or [2001:db8::1]:51819"
)]
pub struct ParseSeedError(String);

impl Seed {
    /// A host, by name or address, and its port.
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// The address, if the host is one.
    fn address(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, self.port))
    }
}

impl From<SocketAddr> for Seed {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl FromStr for Seed {
    type Err = ParseSeedError;
    fn from_str(text: &str) -> Result<Self, ParseSeedError> {
        let error = || ParseSeedError(text.into());
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(error()) } else { Ok(address.into()) };
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(SocketAddr::new(address, PORT).into());
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?),
            None => (text, PORT),
        };
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if host.len() > 253 || !host.trim_end_matches('.').split('.').all(label) {
            return Err(error());
        }
        // Digits and dots that are no address are a typing error, not a name.
        if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return Err(error());
        }
        Ok(Self { host: host.into(), port })
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Resolves the seeds as they change and from time to time. A name that fails keeps its last addresses.
pub(super) async fn resolve(
    mut wanted: watch::Receiver<Vec<Seed>>,
    resolved: watch::Sender<Vec<SocketAddr>>,
    problems: mpsc::Sender<DiscoveryEvent>,
) {
    let mut known: BTreeMap<Seed, Vec<SocketAddr>> = BTreeMap::new();
    let mut told: BTreeMap<Seed, String> = BTreeMap::new();
    loop {
        let seeds: Vec<Seed> = wanted.borrow_and_update().iter().take(SEEDS_MAX).cloned().collect();
        known.retain(|seed, _| seeds.contains(seed));
        told.retain(|seed, _| seeds.contains(seed));
        for seed in &seeds {
            if let Some(address) = seed.address() {
                known.insert(seed.clone(), vec![address]);
            }
        }
        publish(&resolved, &known);

        let mut failed = false;
        for seed in seeds.iter().filter(|seed| seed.address().is_none()) {
            match look_up(seed).await {
                Ok(addresses) => {
                    told.remove(seed);
                    known.insert(seed.clone(), addresses);
                    publish(&resolved, &known);
                }
                Err(error) => {
                    failed = true;
                    if told.insert(seed.clone(), error.clone()).as_ref() != Some(&error) {
                        // When events pile up this one may go; the next failure with another text comes again.
                        let _ = problems.try_send(DiscoveryEvent::SeedFailed { seed: seed.to_string(), error });
                    }
                }
            }
            if wanted.has_changed().unwrap_or(true) {
                break;
            }
        }
        let pause = tokio::time::sleep(if failed { RETRY } else { RESOLVE_AGAIN });
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = pause => {}
        }
    }
}

async fn look_up(seed: &Seed) -> Result<Vec<SocketAddr>, String> {
    let lookup = tokio::net::lookup_host((seed.host.as_str(), seed.port));
    match tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
        Ok(Ok(addresses)) => Ok(addresses.take(ADDRESSES_MAX).collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer from the name servers".into()),
    }
}

fn publish(resolved: &watch::Sender<Vec<SocketAddr>>, known: &BTreeMap<Seed, Vec<SocketAddr>>) {
    let all: Vec<SocketAddr> = known.values().flatten().copied().collect();
    resolved.send_if_modified(|current| {
        let differs = *current != all;
        *current = all;
        differs
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_names_or_addresses_with_or_without_a_port() {
        for (text, shown) in [
            ("192.0.2.1", "192.0.2.1:51819"),
            ("192.0.2.1:9", "192.0.2.1:9"),
            ("2001:db8::1", "[2001:db8::1]:51819"),
            ("[2001:db8::1]", "[2001:db8::1]:51819"),
            ("[2001:db8::1]:9", "[2001:db8::1]:9"),
            ("hq.example.net", "hq.example.net:51819"),
            ("hq.example.net:9", "hq.example.net:9"),
        ] {
            assert_eq!(text.parse::<Seed>().unwrap().to_string(), shown);
        }
        for text in ["", ":9", "hq:0", "hq:x", "192.0.2.1:0", "192.0.2.300", "a b", "hq..net", "http://hq"] {
            assert!(text.parse::<Seed>().is_err(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn addresses_are_there_at_once_and_names_follow() {
        let (wanted, seen) = watch::channel(vec!["192.0.2.1".parse().unwrap(), "localhost:7".parse().unwrap()]);
        let (resolved, mut addresses) = watch::channel(Vec::new());
        let (problems, _events) = mpsc::channel(4);
        let task = tokio::spawn(resolve(seen, resolved, problems));
        let has_both = |all: &Vec<SocketAddr>| {
            all.contains(&"192.0.2.1:51819".parse().unwrap()) && all.iter().any(|a| a.ip().is_loopback())
        };
        tokio::time::timeout(Duration::from_secs(5), addresses.wait_for(has_both)).await.unwrap().unwrap();
        wanted.send(vec!["192.0.2.2:8".parse().unwrap()]).unwrap();
        let only = vec!["192.0.2.2:8".parse().unwrap()];
        tokio::time::timeout(Duration::from_secs(5), addresses.wait_for(|all| *all == only)).await.unwrap().unwrap();
        drop(wanted);
        tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
    }
}

//! Gateways and the hosts behind them.

use std::net::IpAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::error::{Attempt, Result};
use super::namespace::Namespace;
use super::plan;

/// A site: its gateway's namespace, and its hosts. Derefs to the namespace.
#[derive(Debug)]
pub struct Site {
    namespace: Namespace,
    number: usize,
    hosts: Vec<Host>,
    directory: PathBuf,
}

/// A host on a site's LAN. Derefs to its namespace.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    site_number: usize,
    number: usize,
}

impl Site {
    pub(super) fn new(namespace: Namespace, number: usize, hosts: Vec<Host>, bed: &Path) -> Result<Self> {
        let directory = bed.join(namespace.name());
        std::fs::create_dir(&directory).attempt(|| format!("create {}", directory.display()))?;
        Ok(Self { namespace, number, hosts, directory })
    }

    /// The gateway's namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Number of the site, from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// A directory of its own, for its state and logs; it goes with the bed.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `10.<number>.0.0/16` and `fd00:<number>::/48`.
    pub fn prefixes(&self) -> [IpNet; 2] {
        plan::lan_prefixes(self.number)
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A host by its number, from 0.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number]
    }

    /// Names of the LAN interfaces.
    pub fn lan_interfaces(&self) -> Vec<String> {
        (0..self.hosts.len()).map(|number| format!("lan{number}")).collect()
    }
}

impl Host {
    pub(super) fn new(namespace: Namespace, site_number: usize, number: usize) -> Self {
        Self { namespace, site_number, number }
    }

    /// The host's namespace; its interface is `eth0`.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// IPv4 address.
    pub fn v4(&self) -> IpAddr {
        plan::lan_attachments(self.site_number, self.number)[0].address.addr()
    }

    /// IPv6 address.
    pub fn v6(&self) -> IpAddr {
        plan::lan_attachments(self.site_number, self.number)[1].address.addr()
    }
}

impl Deref for Site {
    type Target = Namespace;
    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl Deref for Host {
    type Target = Namespace;
    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

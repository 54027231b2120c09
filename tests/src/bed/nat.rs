//! A NAT before an uplink, as far as tunnels notice one: the ports that they are sent from are others outside, and nobody
//! gets in by a port that nothing left by. It is made of stateless rules in the site's namespace, so that a mapping can be
//! changed at any moment without a word, as a NAT does that was restarted or that forgot.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::error::{Attempt, BedError, Result};
use super::link::Link;

/// The ports of tunnels.
const TUNNELS: std::ops::RangeInclusive<u16> = 51_820..=51_883;

impl Link {
    /// Whether this machine can map ports: it takes `nft` and the kernel's nftables. Otherwise the reason.
    ///
    /// # Errors
    /// When the namespace can't be entered.
    pub fn can_map_ports(&self) -> Result<Result<(), String>> {
        match self.nft(&self.rules(TUNNELS.start() - 10_000)).and_then(|()| self.unmap_ports()) {
            Ok(()) => Ok(Ok(())),
            Err(BedError::Command { output, .. }) => Ok(Err(format!("ports can't be mapped by nftables: {output}"))),
            Err(BedError::Io { source, .. }) => Ok(Err(format!("the program `nft` can't be started: {source}"))),
            Err(error) => Err(error),
        }
    }

    /// Maps the tunnels' ports, 51820 and following, to `first` and following, instead of how they were mapped before.
    /// What is sent to the former ports, or to the tunnels' own, vanishes from now on.
    ///
    /// # Errors
    /// When nftables can't do it.
    pub fn map_ports(&self, first: u16) -> Result<()> {
        self.nft(&self.rules(first))
    }

    /// Takes the NAT away.
    ///
    /// # Errors
    /// When nftables can't do it.
    pub fn unmap_ports(&self) -> Result<()> {
        self.nft(&format!("delete table inet {}\n", self.table()))
    }

    fn table(&self) -> String {
        format!("nat-before-{}", self.uplink())
    }

    fn rules(&self, first: u16) -> String {
        let (table, uplink) = (self.table(), self.uplink());
        let (mut out, mut back) = (String::new(), String::new());
        for (inside, outside) in TUNNELS.zip(first..) {
            let _ = write!(out, "{inside} : {outside}, ");
            let _ = write!(back, "{outside} : {inside}, ");
        }
        let (low, high) = (TUNNELS.start(), TUNNELS.end());
        // The first two lines make it the same whether the table was there or not; all of it takes effect at once.
        format!(
            "table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n\
             chain out {{ type filter hook postrouting priority -150;\n\
             oifname \"{uplink}\" udp sport {low}-{high} udp sport set udp sport map {{ {out} }}\n}}\n\
             chain back {{ type filter hook prerouting priority -300;\n\
             iifname \"{uplink}\" udp dport {low}-{high} drop\n\
             iifname \"{uplink}\" udp dport set udp dport map {{ {back} }}\n}}\n}}\n"
        )
    }

    fn nft(&self, script: &str) -> Result<()> {
        let namespace = &self.parts.site;
        let mut command: Command = namespace.command("nft");
        let mut child = command
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .attempt(|| format!("start nft in {}", namespace.name()))?;
        let mut input = child.stdin.take().expect("its input is piped");
        // A write error means that the program ended early; its output says why.
        let written = input.write_all(script.as_bytes());
        drop(input);
        let output = child.wait_with_output().attempt(|| "wait for nft".into())?;
        if !output.status.success() {
            let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(BedError::Command { namespace: namespace.name().into(), command: "nft -f -".into(), output });
        }
        written.attempt(|| "write to nft".into())
    }
}

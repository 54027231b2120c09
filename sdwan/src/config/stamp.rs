//! `[stamp]`: a session reflector for other machines than the sites of the mesh.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use sdwan_common::stamp::PORT;
use serde::{Deserialize, Serialize};

use super::read::set;
use super::reader::{Notes, Section};
use crate::engine::policy::Dscp;
use crate::measure::stamp::answer::{AllowedDscp, Manner, Mode};
use crate::measure::stamp::key::{Key, KeyError};
use crate::measure::stamp::limits::Rates;
use crate::measure::stamp::reflector::Settings;

/// `[stamp]`: who is answered, where and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StampConfig {
    /// Addresses to listen on; empty: there is no such reflector.
    pub listen: Vec<Listen>,
    /// File of the key; without one, the reflector answers unauthenticated packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The key is for the TLVs of unauthenticated packets, instead of for authenticated ones.
    pub key_for_tlvs: bool,
    /// Sources that are answered; empty: all.
    pub allowed: Vec<IpNet>,
    /// Most packets per second from one source; 0: any number.
    pub source_pps: u32,
    /// Most packets per second from all sources; 0: any number.
    pub total_pps: u32,
    /// Answers carry the question's number, and nothing is remembered.
    pub stateless: bool,
    /// DSCP that answers may be asked to have; `None`: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_dscp: Option<Vec<Dscp>>,
}

/// An address to listen on, with its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen(pub SocketAddr);

/// An address that can't be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address to listen on: write ADDRESS, ADDRESS:PORT or [IPV6]:PORT")]
pub struct ListenError(String);

impl FromStr for Listen {
    type Err = ListenError;
    fn from_str(text: &str) -> Result<Self, ListenError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(SocketAddr::new(address, PORT)));
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Some(address) = bare.and_then(|text| text.parse::<IpAddr>().ok()) {
            return Ok(Self(SocketAddr::new(address, PORT)));
        }
        text.parse().map(Self).map_err(|_| ListenError(text.into()))
    }
}

impl TryFrom<String> for Listen {
    type Error = ListenError;
    fn try_from(text: String) -> Result<Self, ListenError> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.0.to_string()
    }
}

impl Default for StampConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            key_file: None,
            key_for_tlvs: false,
            allowed: Vec::new(),
            source_pps: 200,
            total_pps: 5_000,
            stateless: false,
            allowed_dscp: None,
        }
    }
}

impl StampConfig {
    /// What the reflector is set to; reads the key.
    ///
    /// # Errors
    /// When the key can't be used.
    pub fn settings(&self) -> Result<Settings, KeyError> {
        let key = self.key_file.as_deref().map(Key::load).transpose()?;
        let authenticated = key.is_some() && !self.key_for_tlvs;
        let rate = |pps: u32| (pps > 0).then_some(pps);
        Ok(Settings {
            manner: Manner {
                mode: if authenticated { Mode::Authenticated } else { Mode::Unauthenticated },
                key,
                dscp: match &self.allowed_dscp {
                    Some(allowed) => AllowedDscp::only(allowed.iter().map(|dscp| dscp.0)),
                    None => AllowedDscp::ANY,
                },
            },
            allowed: self.allowed.clone(),
            rates: Rates { per_source: rate(self.source_pps), total: rate(self.total_pps) },
            stateless: self.stateless,
            refuse_reflectors: true,
            direct_measurement: true,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listen.iter().map(|listen| listen.0).collect()
    }
}

/// Reads the section.
pub(super) fn read(stamp: &mut StampConfig, mut section: Section<'_>, notes: &mut Notes) {
    stamp.listen = section.list(notes, "listen", "an address such as \"192.0.2.1\"");
    stamp.key_file = section.take(notes, "key_file", "a path");
    set(&mut stamp.key_for_tlvs, section.take(notes, "key_for_tlvs", "true or false"));
    stamp.allowed = section.list(notes, "allowed", "a prefix such as \"192.0.2.0/24\"");
    set(&mut stamp.source_pps, section.take(notes, "source_pps", "a whole number"));
    set(&mut stamp.total_pps, section.take(notes, "total_pps", "a whole number"));
    set(&mut stamp.stateless, section.take(notes, "stateless", "true or false"));
    stamp.allowed_dscp = section.take(notes, "allowed_dscp", "a list of DSCP such as [\"ef\", 0]");
    section.finish(notes);
}

/// Notes what is wrong with it.
pub(super) fn validate(stamp: &StampConfig, notes: &mut Notes) {
    for (index, listen) in stamp.listen.iter().enumerate() {
        let key = format!("stamp.listen[{index}]");
        if listen.0.port() == 0 {
            notes.problem(&key, "port 0 is no port", format!("leave it out for {PORT}"));
        }
        if listen.0.ip().is_multicast() {
            notes.problem(&key, format!("{} is a multicast address", listen.0.ip()), "name an address of this machine");
        }
        if stamp.listen[..index].contains(listen) {
            notes.problem(&key, format!("{} is there twice", listen.0), "name each address once");
        }
    }
    if let Some(path) = stamp.key_file.as_ref().filter(|path| !path.is_absolute()) {
        let remedy = "write a path that begins with /: the daemon may run in any directory";
        notes.problem("stamp.key_file", format!("{:?} is not an absolute path", path.display().to_string()), remedy);
    }
    if stamp.key_for_tlvs && stamp.key_file.is_none() {
        notes.problem("stamp.key_for_tlvs", "there is no key", "set key_file, or leave key_for_tlvs out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_to_listen_on_reads_as_people_write_it() {
        for (text, expected) in [
            ("192.0.2.1", "192.0.2.1:862"),
            ("192.0.2.1:9000", "192.0.2.1:9000"),
            ("::1", "[::1]:862"),
            ("[::1]", "[::1]:862"),
            ("[::1]:9000", "[::1]:9000"),
        ] {
            assert_eq!(text.parse::<Listen>().map(|listen| listen.0.to_string()), Ok(expected.into()));
        }
        for text in ["", "host", "192.0.2.1:", "[::1", "192.0.2.1:99999"] {
            assert!(text.parse::<Listen>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn zero_packets_per_second_are_any_number_and_a_list_of_dscp_is_all_that_is_allowed() {
        let config =
            StampConfig { source_pps: 0, total_pps: 7, allowed_dscp: Some(vec![Dscp(46)]), ..StampConfig::default() };
        let settings = config.settings().expect("settings");
        assert_eq!(settings.rates, Rates { per_source: None, total: Some(7) });
        assert!(settings.manner.dscp.allows(46) && !settings.manner.dscp.allows(0));
    }
}

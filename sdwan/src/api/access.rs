//! Who asks, and what they may do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What somebody may do. Each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See everything but tokens and the audit log.
    Viewer,
    /// Change policies, and have paths measured.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// Its name in files and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// SHA-256 of a certificate in DER.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

/// A text that is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no fingerprint: write the 64 hexadecimal digits of `openssl x509 -noout -fingerprint -sha256`, with or \
     without colons"
)]
pub struct FingerprintError(String);

impl FromStr for Fingerprint {
    type Err = FingerprintError;
    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| FingerprintError(text.into()))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process of this machine, by the kernel's word (`SO_PEERCRED`, unix(7)). The socket's mode lets in who may.
    Local {
        /// Its effective user.
        uid: u32,
        /// Its number.
        pid: Option<i32>,
    },
    /// Somebody with a certificate of the configured authority.
    Certificate {
        /// Common name of its subject.
        name: String,
        /// Its fingerprint.
        fingerprint: Fingerprint,
        /// What the configuration lets its owner do; none: nothing.
        role: Option<Role>,
        /// Where from.
        address: String,
    },
    /// Somebody without a certificate: a token has to say who it is.
    Stranger {
        /// Where from.
        address: String,
    },
    /// Whoever reaches the dashboard on a loopback address: may look, and log in to do more.
    Browser {
        /// Where from.
        address: String,
    },
    /// Whoever reaches the port where metrics are served without a login.
    Scraper {
        /// Where from.
        address: String,
    },
}

/// Somebody who was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who: `uid 0`, `certificate alice`, `token grafana`.
    pub who: String,
    /// By which way: `unix`, `tls`, `http`.
    pub via: &'static str,
    /// Where from: a process, or an address.
    pub source: String,
    /// What they may do.
    pub role: Role,
}

impl Caller {
    /// A process of this machine. Under sudo or su, the user that logged in is told as well, where the kernel keeps it.
    pub fn local(uid: u32, pid: Option<i32>) -> Self {
        let login = pid.and_then(|pid| login_uid(pid).filter(|login| *login != uid));
        let who = match login {
            Some(login) => format!("uid {uid} (login uid {login})"),
            None => format!("uid {uid}"),
        };
        let source = pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
        Self { who, via: "unix", source, role: Role::Admin }
    }
}

/// The user that logged in to the session of a process: it survives su and sudo (`/proc/PID/loginuid`, proc(5)).
fn login_uid(pid: i32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    text.trim().parse().ok().filter(|uid| *uid != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_do_what_those_before_it_may() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
        assert_eq!(serde_json::to_value(Role::Operator).unwrap(), "operator");
    }

    #[test]
    fn fingerprints_are_read_as_openssl_prints_them() {
        let plain = "ab".repeat(32);
        let colons = ["AB"; 32].join(":");
        let fingerprint: Fingerprint = plain.parse().unwrap();
        assert_eq!(colons.parse(), Ok(fingerprint));
        assert_eq!(fingerprint.to_string(), plain);
        let error = "abcd".parse::<Fingerprint>().unwrap_err().to_string();
        assert!(error.contains("openssl x509"), "{error}");
    }

    #[test]
    fn a_local_caller_is_named_by_its_uid() {
        let caller = Caller::local(0, Some(std::process::id() as i32));
        assert!(caller.who.starts_with("uid 0"), "{caller:?}");
        assert_eq!((caller.via, caller.role), ("unix", Role::Admin));
    }
}

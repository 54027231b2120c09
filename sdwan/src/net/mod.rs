//! The kernel's network: what it looks like ([`monitor`], [`snapshot`]) and what this gateway adds to it ([`routing`],
//! [`overlay`], [`sysctl`]).
//!
//! Everything added is recognisable as ours by the numbers in [`marks`], found again after a crash, and removed by
//! [`Network::remove_all`]. Nothing else is touched.

pub mod link;
pub mod marks;
pub mod monitor;
mod netlink;
pub mod overlay;
pub mod routing;
pub mod snapshot;
pub mod sysctl;

pub use netlink::Network;
pub use snapshot::{NetSnapshot, UplinkSpec};

use std::io;
use std::path::PathBuf;

/// What can go wrong between this module and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses for want of privileges.
    #[error("no permission to {action}: run as root or with CAP_NET_ADMIN")]
    Permission {
        /// What was tried.
        action: String,
    },
    /// The netlink socket can't be used.
    #[error("cannot {action} over netlink: {source}")]
    Socket {
        /// What was tried.
        action: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("the kernel refused to {action}: {source}")]
    Refused {
        /// What was tried.
        action: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No default route to read uplinks from.
    #[error(
        "this machine has no default route to read its uplinks from: add one (`ip route add default via GATEWAY dev \
         INTERFACE`), or name the uplinks in the configuration file (`[[uplink]]`)"
    )]
    NoDefaultRoute,
    /// More uplinks than a site can have.
    #[error(
        "this machine has default routes on {count} interfaces, a site has at most {most} uplinks: name those to use in the configuration file (`[[uplink]]`)"
    )]
    TooManyUplinks {
        /// Interfaces with a default route.
        count: usize,
        /// Uplinks of one site.
        most: usize,
    },
    /// A kernel setting or the file of its former values can't be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file of former kernel settings is damaged.
    #[error("{} is damaged ({source}): set the kernel settings in it back by hand, then remove it", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// An error of the kernel in answer to a request.
    fn refused(action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Permission { action },
            _ => Self::Refused { action, source },
        }
    }

    /// The operating system's error number, where there is one.
    pub fn os_error(&self) -> Option<i32> {
        match self {
            Self::Socket { source, .. } | Self::Refused { source, .. } | Self::File { source, .. } => {
                source.raw_os_error()
            }
            Self::Permission { .. } => Some(libc::EPERM),
            _ => None,
        }
    }
}

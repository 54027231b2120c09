//! What can go wrong between the daemon and the kernel's BPF.

use std::path::PathBuf;

/// An error of the data path's user-space side.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No BPF file system where the pins go.
    #[error(
        "{path} is not on a BPF file system: mount one with `mount -t bpf bpf /sys/fs/bpf`, or set `bpffs` in \
         [dataplane] to where it is"
    )]
    NoBpffs {
        /// The directory of the pins.
        path: PathBuf,
    },
    /// Missing privileges.
    #[error("not allowed to {action}: run as root, or give the service CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Privilege {
        /// What was tried.
        action: String,
    },
    /// The object can't be loaded.
    #[error("cannot load the eBPF object: {0}")]
    Object(#[from] aya::EbpfError),
    /// A program was refused.
    #[error("cannot {action} program {program}: {source}")]
    Program {
        /// What was tried.
        action: &'static str,
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: aya::programs::ProgramError,
    },
    /// The object lacks a map or program that it must have.
    #[error("the eBPF object has no {0}: it doesn't belong to this binary")]
    Missing(String),
    /// A map operation failed.
    #[error("cannot {action} map {map}: {source}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// The map.
        map: &'static str,
        /// Why.
        #[source]
        source: aya::maps::MapError,
    },
    /// An interface can't be attached to.
    #[error("cannot attach {program} to {interface}: {source}")]
    Attach {
        /// The program.
        program: &'static str,
        /// The interface.
        interface: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The interfaces can't be listed.
    #[error("cannot list the network interfaces: {source}")]
    Interfaces {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A pin can't be made or removed.
    #[error("cannot {action} {path}: {source}")]
    Pin {
        /// What was tried.
        action: &'static str,
        /// The pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The drop rules name too many prefixes.
    #[error(
        "the drop rules name {wanted} prefixes, those that they replace included, and there is room for {capacity}: \
         merge prefixes; after many changes at once, restart the daemon once more"
    )]
    DropPrefixes {
        /// How many there are.
        wanted: usize,
        /// How many fit.
        capacity: u32,
    },
    /// More things than a map has room for.
    #[error("{what}: {wanted} are needed, and the data path is set up for {capacity}: raise `{key}` in [dataplane]")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// How many are needed.
        wanted: usize,
        /// How many fit.
        capacity: u32,
        /// The key in the configuration.
        key: &'static str,
    },
}

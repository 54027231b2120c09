//! Real maps, filled for a mesh of any size, in a file system of their own.

use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use sdwan::dataplane::{Capacities, Dataplane, Reader, Settings};

use super::world::{CLASSES, PATHS};

/// A BPF file system that only the thread sees, and that ends with this.
pub struct Place(tempfile::TempDir);

impl Place {
    /// Makes it for the calling thread, which is to end after it.
    ///
    /// # Errors
    /// Without root.
    pub fn new() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace: this needs root")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        let directory = tempfile::Builder::new().prefix("sdwan-engine-").tempdir()?;
        mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), None::<&str>)?;
        Ok(Self(directory))
    }

    /// Empty maps with room for so many sites. Those of an earlier call are gone.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub fn maps(&self, sites: u32) -> Result<Dataplane> {
        let directory = self.0.path().join("sdwan");
        sdwan::dataplane::detach_all(&directory)?;
        let capacities = Capacities {
            flows: 1_024,
            sites: sites + 1,
            classes: CLASSES,
            paths: sites * PATHS as u32 + 1,
            prefixes: 8 * (sites + 8),
        };
        Ok(Dataplane::open(&Settings { directory, capacities, tcp_rtt_per_second: 10 })?)
    }

    /// Reads maps.
    ///
    /// # Errors
    /// When they can't be opened.
    pub fn reader(&self, maps: &Dataplane) -> Result<Reader> {
        Ok(Reader::open(maps.layout())?)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let path: &Path = self.0.path();
        if let Err(error) = umount2(path, MntFlags::MNT_DETACH) {
            eprintln!("{}: {error}", path.display());
        }
    }
}

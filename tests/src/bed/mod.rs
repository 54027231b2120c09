//! The test-bed: sites, hosts and providers as network namespaces of this machine.
//!
//! ```no_run
//! use sdwan_tests::bed::{Bed, Cut, Impairment, Provider};
//!
//! let bed = Bed::builder()
//!     .providers([("isp1", Provider::Bridge), ("isp2", Provider::Routed)])
//!     .impair("a", "isp1", Impairment::delay_ms(10).loss(0.01))
//!     .build()?;
//! bed.site("a").host(0).output("ping", &["-c", "1", "10.1.0.1"])?;
//! bed.link("a", "isp1").cut(Cut::Silent)?;
//! # Ok::<(), sdwan_tests::bed::BedError>(())
//! ```
//!
//! The namespaces have no names; processes hold them, children of the bed's *keeper*. When the process that uses the
//! bed ends, by whatever end, the keeper ends everything in them. What is left when the keeper dies too is cleaned up
//! by the next bed ([`clean_stale`]).

mod build;
mod emulator;
mod error;
mod keeper;
mod link;
mod namespace;
mod nat;
mod netem;
pub mod offload;
mod plan;
mod process;
mod site;
mod stale;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};

pub use build::Builder;
pub(crate) use emulator::{Batch, PacketSocket, Received, clock};
pub use emulator::{Direction, Distribution, Impairment, LineStatistics, Loss, Pipe, PipeStatistics, Rate};
pub(crate) use error::Attempt;
pub use error::{BedError, Result};
pub use keeper::main_if_asked;
pub use link::{Cut, Link};
pub use namespace::{MARKER, Namespace};
pub use plan::{Attachment, Families, Provider};
pub use process::Process;
pub use site::{Host, Site};
pub use stale::{clean_kept, clean_stale};

/// A bed. Everything in it ends when it is dropped.
#[derive(Debug)]
pub struct Bed {
    prefix: String,
    directory: PathBuf,
    sites: Vec<Site>,
    providers: Vec<Namespace>,
    links: Vec<Link>,
    lines: Namespace,
    keeper: Arc<keeper::Keeper>,
}

impl Bed {
    /// The description of a bed to change and build.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Three sites with one host each, two bridged providers.
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    pub(self) fn assemble(
        prefix: String,
        directory: PathBuf,
        sites: Vec<Site>,
        providers: Vec<Namespace>,
        links: Vec<Link>,
        lines: Namespace,
        keeper: Arc<keeper::Keeper>,
    ) -> Self {
        Self { prefix, directory, sites, providers, links, lines, keeper }
    }

    /// What its processes are marked with; no other bed of this machine has it.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A directory of its own; it goes with the bed.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All sites.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// A site by name.
    ///
    /// # Panics
    /// When there is none.
    pub fn site(&self, name: &str) -> &Site {
        let site = self.sites.iter().find(|site| site.name() == name);
        site.unwrap_or_else(|| panic!("the bed has no site {name:?}"))
    }

    /// A provider's namespace by name.
    ///
    /// # Panics
    /// When there is none.
    pub fn provider(&self, name: &str) -> &Namespace {
        let provider = self.providers.iter().find(|provider| provider.name() == name);
        provider.unwrap_or_else(|| panic!("the bed has no provider {name:?}"))
    }

    /// All lines.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The line of a site's uplink.
    ///
    /// # Panics
    /// When there is none.
    pub fn link(&self, site: &str, uplink: &str) -> &Link {
        let link = self.links.iter().find(|link| link.site() == site && link.uplink() == uplink);
        link.unwrap_or_else(|| panic!("the bed has no link {site}-{uplink}"))
    }

    /// Starts a command, usually of [`Namespace::command`], with its output in the bed's directory.
    pub fn start(&self, name: &str, command: std::process::Command) -> Result<Process> {
        Process::start(name, command, &self.directory.join(format!("{name}.log")))
    }

    /// All namespaces: sites, hosts, providers, and the one where emulated lines have their ends.
    pub fn namespaces(&self) -> Vec<&Namespace> {
        let hosts = self.sites.iter().flat_map(|site| site.hosts().iter().map(Host::namespace));
        let sites = self.sites.iter().map(Site::namespace);
        sites.chain(hosts).chain(&self.providers).chain([&self.lines]).collect()
    }

    /// Process id of the keeper.
    pub fn keeper_pid(&self) -> u32 {
        self.keeper.pid()
    }

    /// Leaves everything running when this process ends; [`clean_kept`] ends it. Returns the lines that enter it.
    pub fn keep(mut self) -> Result<String> {
        let entries = self.namespaces().iter().map(|one| format!("{:10} {}\n", one.name(), one.enter_line())).collect();
        // The links hold the keeper as well.
        self.links.clear();
        let Some(keeper) = Arc::get_mut(&mut self.keeper) else {
            return Err(BedError::Keeper("it is still in use".into()));
        };
        keeper.keep()?;
        Ok(entries)
    }
}

/// Whether this machine can hold a bed, and if not, why.
pub fn available() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root".into());
    }
    let namespaces = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)).join();
    match namespaces {
        Ok(Ok(())) => {}
        Ok(Err(errno)) => return Err(format!("no network and mount namespaces: {errno}")),
        Err(_) => return Err("no network and mount namespaces".into()),
    }
    for program in ["ip", "tc"] {
        if find_program(program).is_none() {
            return Err(format!("no program `{program}`: install iproute2"));
        }
    }
    tool().map(drop).map_err(|error| error.to_string())
}

/// Whether a test that needs a bed can run; if not, says so as skipped.
pub fn ready(test: &str) -> bool {
    match available() {
        Ok(()) => true,
        Err(reason) => {
            eprintln!("skipped: {test}: {reason}");
            false
        }
    }
}

/// Leaves a test, as skipped by name and reason, where no bed is possible.
#[macro_export]
macro_rules! needs_bed {
    () => {
        if !$crate::bed::ready(std::thread::current().name().unwrap_or("a test")) {
            return;
        }
    };
}

/// A program of the workspace: beside the running one, or one directory above it (where tests run).
pub(crate) fn beside(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().attempt(|| "find my own program".into())?;
    let places = me.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    let found = places.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| {
        BedError::Unavailable(format!("no program `{name}` beside {}: run `cargo build --workspace`", me.display()))
    })
}

/// The program that is the keeper: this one if it calls [`main_if_asked`], or `sdwan-bed` beside it.
pub(crate) fn tool() -> Result<PathBuf> {
    let me = std::env::current_exe().attempt(|| "find my own program".into())?;
    let is_ours = ["sdwan-bed", "sdwan-demo", "sdwan-traffic"];
    if me.file_name().and_then(|name| name.to_str()).is_some_and(|name| is_ours.contains(&name)) {
        return Ok(me);
    }
    beside("sdwan-bed")
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

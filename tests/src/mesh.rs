//! Real `sdwan` daemons on a bed: a mesh authority, an admitted site at each gateway, a daemon in each.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sdwan::api::views::{ExplainView, FlowView, Listing, PathView, SiteView, StatusView};
use sdwan::dataplane::{self, Layout, Reader};
use sdwan::engine::path::PathState;
use serde::de::DeserializeOwned;

use crate::bed::{Attempt, Bed, BedError, Namespace, Process, Result, Site};

/// How long a daemon gets to end by itself.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// How sites learn of each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Discovery {
    /// By multicast on the uplinks.
    #[default]
    Multicast,
    /// All know this one site's first uplink, and nothing is multicast.
    Seed(String),
}

/// What to start on a bed.
#[derive(Clone, Debug, Default)]
pub struct MeshOptions {
    /// How sites learn of each other.
    pub discovery: Discovery,
    /// Declared rates of uplinks, the same at all sites.
    pub rates: Vec<UplinkRate>,
    /// TOML put at the end of each site's configuration: whole tables, such as `[probe]`.
    pub extra: String,
    /// Log filter of the daemons; `info` when empty.
    pub log: String,
}

/// What the configuration says about the rate of an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkRate {
    /// Name of the uplink.
    pub uplink: String,
    /// To the provider, bit/s.
    pub up: u64,
    /// From the provider, bit/s.
    pub down: u64,
}

impl UplinkRate {
    /// Rates in Mbit/s.
    pub fn mbps(uplink: &str, up: f64, down: f64) -> Self {
        Self { uplink: uplink.into(), up: (up * 1e6) as u64, down: (down * 1e6) as u64 }
    }
}

/// A mesh on a bed; it ends with its bed when it is dropped.
#[derive(Debug)]
pub struct Mesh {
    // Daemons go before the bed that they run in.
    gateways: Vec<Gateway>,
    authority: PathBuf,
    bed: Bed,
}

/// A gateway and its daemon.
#[derive(Debug)]
pub struct Gateway {
    name: String,
    namespace: Namespace,
    directory: PathBuf,
    /// What daemons that are started find in their environment besides.
    environment: Mutex<Vec<(String, PathBuf)>>,
    daemon: Mutex<Option<Process>>,
}

/// The `sdwan` binary: `$SDWAN_BIN`, or beside this program.
pub fn binary() -> Result<PathBuf> {
    match std::env::var_os("SDWAN_BIN") {
        Some(path) => Ok(path.into()),
        None => crate::bed::beside("sdwan"),
    }
}

/// Whether a test that needs a mesh can run; if not, says so as skipped.
pub fn ready(test: &str) -> bool {
    if !crate::bed::ready(test) {
        return false;
    }
    match binary() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("skipped: {test}: {error}");
            false
        }
    }
}

impl Mesh {
    /// Makes a mesh of all sites of a bed, with sites found by multicast, and starts its daemons.
    pub fn start(bed: Bed) -> Result<Self> {
        let mesh = Self::prepare(bed, &MeshOptions::default())?;
        mesh.start_daemons()?;
        Ok(mesh)
    }

    /// Makes authority, sites, certificates and configurations, and starts nothing.
    pub fn prepare(bed: Bed, options: &MeshOptions) -> Result<Self> {
        let authority = bed.directory().join("authority");
        std::fs::create_dir(&authority).attempt(|| format!("create {}", authority.display()))?;
        let mesh = Self { gateways: Vec::new(), authority, bed };
        mesh.authority(&["init", "--name", "bed"])?;
        let gateways = mesh.bed.sites().iter().map(|site| mesh.admit(site, options)).collect::<Result<_>>()?;
        Ok(Self { gateways, ..mesh })
    }

    /// Starts the daemons that don't run.
    pub fn start_daemons(&self) -> Result<()> {
        self.gateways.iter().try_for_each(Gateway::start)
    }

    /// The bed it is on.
    pub fn bed(&self) -> &Bed {
        &self.bed
    }

    /// All gateways, in the order of the bed's sites.
    pub fn gateways(&self) -> &[Gateway] {
        &self.gateways
    }

    /// A gateway by its site's name.
    ///
    /// # Panics
    /// When there is none.
    pub fn gateway(&self, site: &str) -> &Gateway {
        let gateway = self.gateways.iter().find(|gateway| gateway.name == site);
        gateway.unwrap_or_else(|| panic!("the mesh has no site {site:?}"))
    }

    /// Directory of the authority, with `authority.key`, `mesh.toml` and the certificates.
    pub fn authority_directory(&self) -> &Path {
        &self.authority
    }

    /// Runs `sdwan mesh ARGUMENTS` in the directory of the authority; returns what it prints.
    pub fn authority(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new(binary()?).arg("mesh").args(arguments).current_dir(&self.authority), "authority")
    }

    /// Paths of a site that is up completely: for each other site, each pair of uplinks of the same family.
    pub fn expected_paths(&self, site: &str) -> usize {
        let uplinks = |site: &str| self.bed.links().iter().filter(|link| link.site() == site).count();
        let others = self.bed.sites().iter().filter(|other| other.name() != site);
        others.map(|other| uplinks(site) * uplinks(other.name())).sum()
    }

    /// Waits until every gateway has all its paths up and its programs at all their ends; returns how long that took. On a
    /// slow machine the programs may still be loading when the paths are up, and nothing is in the maps before.
    pub fn wait_until_up(&self, patience: Duration) -> Result<Duration> {
        let start = Instant::now();
        for gateway in &self.gateways {
            let expected = self.expected_paths(&gateway.name);
            let left = patience.saturating_sub(start.elapsed());
            gateway.wait_for(&format!("all {expected} paths of {} are up", gateway.name), left, |gateway| {
                let paths = gateway.paths()?;
                let up = paths.iter().filter(|path| path.state == PathState::Up).count();
                if up != expected {
                    return Ok(Err(format!("{up} are up")));
                }
                // Until the programs are there, the kernel's routes carry everything.
                let attached = gateway.status()?.attached;
                let all = paths.iter().all(|path| attached.contains(&path.interface));
                Ok(if all { Ok(()) } else { Err(format!("programs at {attached:?}")) })
            })?;
        }
        Ok(start.elapsed())
    }

    /// Leaves bed and daemons running when this process ends. Returns the lines that enter the namespaces.
    pub fn keep(self) -> Result<String> {
        for gateway in &self.gateways {
            if let Some(daemon) = gateway.daemon().as_mut() {
                daemon.keep();
            }
        }
        self.bed.keep()
    }

    fn admit(&self, site: &Site, options: &MeshOptions) -> Result<Gateway> {
        let gateway = Gateway {
            name: site.name().into(),
            namespace: site.namespace().clone(),
            directory: site.directory().into(),
            environment: Mutex::default(),
            daemon: Mutex::new(None),
        };
        let (state, mesh) = (gateway.state(), self.authority.join("mesh.toml"));
        gateway.site(&["init", "--name", site.name(), "--mesh", &mesh.to_string_lossy()])?;
        let request = state.join("site.request");
        let [v4, v6] = site.prefixes().map(|prefix| prefix.to_string());
        let certificate = self.authority.join(format!("{}.cert", site.name()));
        let (request, out) = (request.to_string_lossy(), certificate.to_string_lossy());
        self.authority(&["admit", &request, "--prefix", &v4, "--prefix", &v6, "--out", &out])?;
        gateway.site(&["install", &out])?;
        let text = self.configuration(site, &gateway, options);
        std::fs::write(gateway.config(), text).attempt(|| format!("write {}", gateway.config().display()))?;
        Ok(gateway)
    }

    fn configuration(&self, site: &Site, gateway: &Gateway, options: &MeshOptions) -> String {
        let state = gateway.state();
        let mut text = format!("[site]\nstate_dir = {state:?}\ndatabase = {:?}\n", state.join("sdwan.db"));
        let write = "a string takes everything";
        writeln!(text, "lock = {:?}\n\n[lan]\ninterfaces = {:?}", state.join("lock"), site.lan_interfaces())
            .expect(write);
        if !options.log.is_empty() {
            writeln!(text, "\n[log]\nlevel = {:?}", options.log).expect(write);
        }
        if let Discovery::Seed(seed) = &options.discovery {
            let link = self.bed.links().iter().find(|link| link.site() == seed);
            let address = link.and_then(|link| link.attachments().first().map(|one| one.address.addr()));
            let seeds: Vec<String> = address.filter(|_| seed != site.name()).iter().map(ToString::to_string).collect();
            writeln!(text, "\n[discovery]\nmulticast_interfaces = []\nseeds = {seeds:?}").expect(write);
        }
        for link in self.bed.links().iter().filter(|link| link.site() == site.name()) {
            let name = link.uplink();
            writeln!(text, "\n[[uplink]]\nname = {name:?}\ninterface = {name:?}").expect(write);
            if let Some(rate) = options.rates.iter().find(|rate| rate.uplink == name) {
                writeln!(text, "rate_up = \"{}bit\"\nrate_down = \"{}bit\"", rate.up, rate.down).expect(write);
            }
        }
        if !options.extra.contains("[capacity]") {
            // Lines without a limit are as fast as the machine: filling them would take it from what is tested.
            writeln!(text, "\n[capacity]\nenabled = false").expect(write);
        }
        format!("{text}\n{}", options.extra)
    }
}

impl Gateway {
    /// Name of the site.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The gateway's namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Reads the maps of its data path. No daemon is asked: it may be dead.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn read_maps<T: Send>(
        &self,
        read: impl FnOnce(&Reader) -> std::result::Result<T, dataplane::Error> + Send,
    ) -> Result<T> {
        let layout = Layout::new(Path::new("/sys/fs/bpf/sdwan"));
        let outcome = self.namespace.run(|| read(&Reader::open(&layout)?))?;
        outcome.map_err(|error| BedError::Plan(format!("the maps of {} can't be read: {error}", self.name)))
    }

    /// Directory of the site's state.
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.join("sdwan.toml")
    }

    /// The daemon's log.
    pub fn log(&self) -> PathBuf {
        self.directory.join("daemon.log")
    }

    /// A command `sdwan` in the gateway's namespace, with its configuration.
    pub fn command(&self) -> Result<Command> {
        let mut command = self.namespace.command(binary()?);
        command.env_remove("SDWAN_SOCKET").env("SDWAN_CONFIG", self.config()).env("NO_COLOR", "1");
        Ok(command)
    }

    /// Runs `sdwan ARGUMENTS` in the namespace; returns what it prints. An exit code other than 0 is an error, except
    /// the one by which `sdwan status` says that the gateway isn't well.
    pub fn text(&self, arguments: &[&str]) -> Result<String> {
        run(self.command()?.args(arguments), &self.name)
    }

    /// Runs `sdwan ARGUMENTS -o json` in the namespace; returns what it prints.
    pub fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let text = run(self.command()?.args(arguments).args(["-o", "json"]), &self.name)?;
        serde_json::from_str(&text).map_err(|error| BedError::Command {
            namespace: self.name.clone(),
            command: format!("sdwan {} -o json", arguments.join(" ")),
            output: format!("{error}: {text}"),
        })
    }

    /// `sdwan status`.
    pub fn status(&self) -> Result<StatusView> {
        self.json(&["status"])
    }

    /// `sdwan sites`.
    pub fn sites(&self) -> Result<Vec<SiteView>> {
        Ok(self.json::<Listing<SiteView>>(&["sites"])?.items)
    }

    /// `sdwan paths`.
    pub fn paths(&self) -> Result<Vec<PathView>> {
        Ok(self.json::<Listing<PathView>>(&["paths"])?.items)
    }

    /// `sdwan flows`, at most 1,000, or of one class.
    pub fn flows(&self, class: Option<&str>) -> Result<Vec<FlowView>> {
        let class = class.map(|class| ["--class", class]);
        let arguments: Vec<&str> = ["flows", "-n", "1000"].into_iter().chain(class.into_iter().flatten()).collect();
        Ok(self.json::<Listing<FlowView>>(&arguments)?.items)
    }

    /// `sdwan explain SOURCE DESTINATION PROTOCOL`.
    pub fn explain(&self, source: &str, destination: &str, protocol: &str) -> Result<ExplainView> {
        self.json(&["explain", source, destination, protocol])
    }

    /// Sets what daemons that are started from now on find in their environment besides.
    pub fn set_environment(&self, environment: impl IntoIterator<Item = (String, PathBuf)>) {
        *self.environment.lock().unwrap_or_else(PoisonError::into_inner) = environment.into_iter().collect();
    }

    /// Puts the site's state on a disk of its own of so many MiB, in the gateway's namespaces. The daemon must not run.
    pub fn put_state_on_a_disk(&self, mebibytes: u32) -> Result<()> {
        let state = self.state();
        let state = state.to_string_lossy();
        let line = format!(
            "cp -a '{state}' '{state}.copy' && mount -t tmpfs -o size={mebibytes}m,mode=0700 none '{state}' && \
             cp -a '{state}.copy/.' '{state}/'"
        );
        self.namespace.shell(&line).map(drop)
    }

    /// Fills the disk that the site's state is on.
    pub fn fill_disk(&self) -> Result<()> {
        // dd ends with an error when nothing more fits.
        let filler = self.state().join("filler");
        let filler = filler.to_string_lossy();
        self.namespace
            .shell(&format!("dd if=/dev/zero of='{filler}' bs=4k 2> /dev/null || test -s '{filler}'"))
            .map(drop)
    }

    /// Makes room again on a disk that was filled.
    pub fn make_room_on_disk(&self) -> Result<()> {
        self.namespace.shell(&format!("rm '{}'", self.state().join("filler").display())).map(drop)
    }

    /// Sends a signal to the daemon that was started last, if it hasn't ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match self.daemon().as_ref() {
            Some(process) => process.signal(signal),
            None => Ok(()),
        }
    }

    /// Starts the daemon unless it runs.
    pub fn start(&self) -> Result<()> {
        self.start_with(&[])
    }

    /// Starts the daemon with these options of `sdwan run`, unless it runs.
    pub fn start_with(&self, options: &[&str]) -> Result<()> {
        let mut daemon = self.daemon();
        if let Some(process) = daemon.as_mut()
            && process.ended()?.is_none()
        {
            return Ok(());
        }
        let mut command = self.command()?;
        let environment = self.environment.lock().unwrap_or_else(PoisonError::into_inner).clone();
        command.arg("run").args(options).env("RUST_BACKTRACE", "1").envs(environment);
        *daemon = Some(Process::start(&format!("daemon of {}", self.name), command, &self.log())?);
        Ok(())
    }

    /// Ends the daemon by SIGTERM and waits for its end.
    pub fn stop(&self) -> Result<()> {
        match self.daemon().as_mut() {
            Some(process) => process.stop(PATIENCE).map(drop),
            None => Ok(()),
        }
    }

    /// Kills the daemon by SIGKILL.
    pub fn kill(&self) -> Result<()> {
        match self.daemon().as_mut() {
            Some(process) => process.kill().map(drop),
            None => Ok(()),
        }
    }

    /// Makes what the daemon left in the kernel that of an older ABI version, as a new release finds it. The daemon must
    /// not run.
    pub fn age_pins(&self) -> Result<()> {
        let aged = self.namespace.run(|| crate::pins::age(Path::new("/sys/fs/bpf/sdwan")))?;
        aged.map_err(std::io::Error::other).attempt(|| "make the pins those of an older version".into())
    }

    /// Puts a certificate or revocations into the site's state, as `sdwan site install` does.
    pub fn install(&self, file: &Path) -> Result<String> {
        self.site(&["install", &file.to_string_lossy()])
    }

    /// `sdwan reload`: the daemon takes in what was installed.
    pub fn reload(&self) -> Result<()> {
        self.text(&["reload"]).map(drop)
    }

    /// Process id of the daemon that was started last.
    pub fn pid(&self) -> Option<u32> {
        self.daemon().as_ref().map(Process::pid)
    }

    /// Waits until a condition holds; it tells what it sees as long as it doesn't. A command that fails counts as that.
    /// Ends early when the daemon has ended.
    pub fn wait_for(
        &self,
        what: &str,
        patience: Duration,
        condition: impl Fn(&Self) -> Result<Result<(), String>>,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            let last = match condition(self) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(seen)) => seen,
                Err(error) => error.to_string(),
            };
            if let Some(process) = self.daemon().as_mut()
                && let Some(status) = process.ended()?
            {
                let output = format!("it ended with {status}:\n{}", process.tail());
                return Err(BedError::Command { namespace: self.name.clone(), command: "sdwan run".into(), output });
            }
            if start.elapsed() > patience {
                return Err(BedError::Timeout { what: what.into(), seconds: patience.as_secs_f64(), last });
            }
            sleep(PAUSE);
        }
    }

    fn site(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(binary()?);
        run(command.arg("site").args(arguments).arg("--dir").arg(self.state()), &self.name)
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Process>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Exit code of `sdwan status` for a gateway that isn't well: it has printed its answer then.
const DEGRADED: i32 = 4;

fn run(command: &mut Command, namespace: &str) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().attempt(|| format!("start {:?}", command.get_program()))?;
    if output.status.success() || output.status.code() == Some(DEGRADED) {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    Err(BedError::Command {
        namespace: namespace.into(),
        command: words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "),
        output: format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
    })
}

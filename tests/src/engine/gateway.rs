//! A real daemon in a namespace among a thousand sites: what it takes of a processor and of memory, and how soon its
//! decisions are in the maps.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use sdwan::api::views::DecisionsView;
use sdwan::trust::state::SiteFiles;

use super::crowd::{Crowd, UPLINKS, Uplink, authority};
use super::world::PATHS;
use crate::bed::Bed;
use crate::mesh::{Gateway, Mesh, MeshOptions};
use crate::processors::pin;
use crate::tun;

/// Of all paths, these must be up before anything is measured, in thousandths.
const UP: u64 = 995;
/// How long they may take for that.
const PATIENCE: Duration = Duration::from_secs(300);
/// After that the daemon has told everybody of everybody.
const CALM: Duration = Duration::from_secs(20);
/// Its processor time is looked at for so long, so many times.
const LOOK: Duration = Duration::from_secs(15);
const LOOKS: usize = 3;
/// Paths that fall silent and come back while decisions are timed: per second, for how long each, and for how long all.
const FAULTS: u32 = 10;
const SILENCE: Duration = Duration::from_secs(8);
const FAULTY: Duration = Duration::from_secs(75);

/// What was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Paths that were up.
    pub paths: u64,
    /// Time until they were, from the first announcement on.
    pub converged: Duration,
    /// Share of one processor that the daemon took, by look.
    pub shares: Vec<f64>,
    /// The same of its userspace WireGuard, all processes together; none where the kernel's is used.
    pub wireguard: Vec<f64>,
    /// Probes per second that were answered.
    pub probes_per_second: f64,
    /// Resident memory of the daemon that came with the sites, bytes.
    pub memory: u64,
    /// How long decisions took, by cause.
    pub decisions: BTreeMap<String, DecisionsView>,
}

/// Processor time of a process so far, all threads.
fn processor_time(process: Pid) -> Result<Duration> {
    let clock = clock_getcpuclockid(process).with_context(|| format!("the clock of process {process}"))?;
    Ok(clock_gettime(clock)?.into())
}

/// Anonymous resident memory of a process, bytes.
fn resident(process: Pid) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1_024)
}

/// Processes that a process has started.
fn children(process: Pid) -> Result<Vec<Pid>> {
    let mut children = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let list = std::fs::read_to_string(thread?.path().join("children"))?;
        children.extend(list.split_whitespace().filter_map(|number| number.parse().ok()).map(Pid::from_raw));
    }
    Ok(children)
}

/// A daemon among many sites, all of whose paths are up.
pub struct Among {
    /// The mesh of one real gateway.
    pub mesh: Mesh,
    /// The sites.
    pub crowd: Crowd,
    /// The daemon.
    process: Pid,
    /// Its memory before it knew a site.
    empty: u64,
    /// Paths that are up.
    paths: u64,
    converged: Duration,
}

impl Among {
    /// Starts a daemon and `sites` sites of [`PATHS`] paths each.
    ///
    /// # Errors
    /// When the place for it can't be made, or too few paths come up.
    pub fn sites(sites: u32, say: &impl Fn(&str)) -> Result<Self> {
        let bed = Bed::builder().sites(["a"]).hosts(1).build()?;
        let mesh = Mesh::prepare(bed, &MeshOptions { log: "warn".into(), ..MeshOptions::default() })?;
        let gateway = mesh.gateway("a");
        let uplinks = [0, 1].map(|number| uplink(gateway, number));
        let [first, second] = uplinks;
        configure(gateway)?;
        let processors = std::thread::available_parallelism()?.get();
        separate(processors, 1..processors)?;
        let wireguard = SiteFiles::new(gateway.state()).load()?.wireguard.public();
        gateway.start()?;
        gateway.wait_for("the daemon answers", Duration::from_secs(60), |gateway| {
            Ok(gateway.status().map(drop).map_err(|error| error.to_string()))
        })?;
        let process = Pid::from_raw(i32::try_from(gateway.pid().context("the daemon has ended")?)?);
        sleep(Duration::from_secs(2));
        let empty = resident(process)?;
        say(&format!("{sites} sites introduce themselves"));
        let began = Instant::now();
        separate(processors, 0..1)?;
        let crowd = Crowd::start(sites, &authority(mesh.authority_directory())?, wireguard, [first?, second?])?;
        let paths = wait_until_up(gateway, u64::from(sites) * PATHS as u64, say)?;
        let converged = began.elapsed();
        say(&format!("{paths} paths are up after {:.0} s", converged.as_secs_f64()));
        Ok(Self { mesh, crowd, process, empty, paths, converged })
    }

    /// The real gateway.
    pub fn gateway(&self) -> &Gateway {
        self.mesh.gateway("a")
    }
}

/// Measures a daemon with `sites` remote sites of [`PATHS`] paths each.
///
/// # Errors
/// When the place for it can't be made, or too few paths come up.
pub fn measure(sites: u32, say: impl Fn(&str)) -> Result<Seen> {
    let among = Among::sites(sites, &say)?;
    let Among { crowd, process, empty, paths, converged, .. } = &among;
    let gateway = among.gateway();
    sleep(CALM);
    let (mut shares, mut carriers) = (Vec::new(), Vec::new());
    let answered = (crowd.answered(), Instant::now());
    for _ in 0..LOOKS {
        let carrying = children(*process)?;
        let times = || -> Result<(Duration, Duration)> {
            let carried = carrying.iter().map(|child| processor_time(*child)).sum::<Result<Duration>>()?;
            Ok((processor_time(*process)?, carried))
        };
        let (before, start) = (times()?, Instant::now());
        sleep(LOOK);
        let (after, span) = (times()?, start.elapsed().as_secs_f64());
        shares.push((after.0 - before.0).as_secs_f64() / span);
        if !carrying.is_empty() {
            carriers.push((after.1 - before.1).as_secs_f64() / span);
        }
        say(&format!("the daemon took {:.1} % of a processor", shares[shares.len() - 1] * 100.0));
    }
    let probes_per_second = (crowd.answered() - answered.0) as f64 / answered.1.elapsed().as_secs_f64();
    let memory = resident(*process)?.saturating_sub(*empty);
    say(&format!("{FAULTS} paths a second fall silent and come back"));
    faults(crowd, sites);
    let decisions = gateway.status()?.decisions;
    gateway.stop()?;
    let (paths, converged) = (*paths, *converged);
    Ok(Seen { paths, converged, shares, wireguard: carriers, probes_per_second, memory, decisions })
}

/// Ties this thread, and what it will start, to some processors where there is more than one: the crowd has the first, and
/// the gateway the others, for a gateway doesn't compete with a thousand sites for a processor.
fn separate(processors: usize, wanted: Range<usize>) -> Result<()> {
    if processors > 1 { pin(Pid::from_raw(0), wanted) } else { Ok(()) }
}

/// A TUN device as an uplink of the gateway.
fn uplink(gateway: &Gateway, number: u8) -> Result<Uplink> {
    let name = format!("wan{number}");
    let device = gateway.namespace().run(|| tun::open(&name))?.context("make a TUN device")?;
    gateway.namespace().ip(&format!(
        "address add 172.31.{number}.1/24 dev {name}\nlink set {name} txqueuelen 10000\nlink set {name} up\n"
    ))?;
    Ok(Uplink { device, gateway: Ipv4Addr::new(172, 31, number, 1) })
}

/// The configuration of the bed, with these uplinks instead of its own, and capacity measured as by default.
fn configure(gateway: &Gateway) -> Result<()> {
    let path = gateway.config();
    let text = std::fs::read_to_string(&path)?;
    let (kept, _) = text.split_once("\n[[uplink]]").context("the bed's configuration has no uplink")?;
    let mut file = std::fs::File::create(&path)?;
    writeln!(file, "{kept}\n\n[discovery]\nmulticast_interfaces = []")?;
    for number in 0..UPLINKS {
        writeln!(file, "\n[[uplink]]\nname = \"wan{number}\"\ninterface = \"wan{number}\"\nindex = {number}")?;
        writeln!(file, "gateway = \"172.31.{number}.2\"")?;
    }
    Ok(())
}

fn wait_until_up(gateway: &Gateway, paths: u64, say: &impl Fn(&str)) -> Result<u64> {
    let start = Instant::now();
    let mut told = start;
    loop {
        let states = gateway.status()?.paths;
        let up = states.get("up").copied().unwrap_or(0);
        if up * 1_000 >= paths * UP {
            return Ok(up);
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            say(&format!("paths by state: {states:?}"));
        }
        if start.elapsed() > PATIENCE {
            bail!("of {paths} paths only these came up in {} s: {states:?}", PATIENCE.as_secs());
        }
        sleep(Duration::from_secs(1));
    }
}

/// Lets paths fall silent and come back, one after the other.
fn faults(crowd: &Crowd, sites: u32) {
    let pause = Duration::from_secs(1) / FAULTS;
    let silent = (SILENCE.as_secs() as u32) * FAULTS;
    let way = |number: u32| {
        // One uplink pair of each site in turn.
        let pair = (number / sites) as usize % PATHS;
        (number % sites, pair / UPLINKS, pair % UPLINKS)
    };
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < FAULTY {
        crowd.silence(way(number), true);
        if let Some(back) = number.checked_sub(silent) {
            crowd.silence(way(back), false);
        }
        number += 1;
        sleep((start + pause * number).saturating_duration_since(Instant::now()));
    }
}

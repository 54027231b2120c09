//! What deciding costs, and how much memory it takes: `cargo xtask bench engine`.

pub mod announcements;
pub mod console;
pub mod counting;
pub mod crowd;
pub mod gateway;
pub mod maps;
pub mod memory;
pub mod pieces;
pub mod place;
pub mod world;

use std::time::{Duration, Instant};

use anyhow::Result;
use sdwan::engine::settings::Settings;

use crate::figures::Figures;
use announcements::Announcements;
use gateway::Seen;
use pieces::{Maps, SIZES, Silences, settled};
use place::Place;

/// Sites of the mesh that the daemon's figures are of.
const SITES: u32 = 1_000;
/// Meshes whose memory is counted, and whether that is the figure that the bound is for.
const COUNTED: [(u32, &str); 2] = [(SITES, "engine.bytes_per_path"), (10_000, "engine.bytes_per_path_10000_sites")];
/// For how long they are probed, in virtual time: each slice of the quarter of an hour has been begun.
const PROBED: Duration = Duration::from_secs(20 * 60);
/// Rounds of which the median counts.
const ROUNDS: usize = 7;
/// Probes of one round.
const PROBES: u32 = 2_000;

/// Which parts to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The pieces: probes, ratings, decisions, writes, by the size of the mesh
    Pieces,
    /// Announcements
    Announcements,
    /// Memory of a path, counted by the allocator
    Memory,
    /// The daemon itself among 1,000 sites
    Daemon,
    /// Commands and metrics with 400 paths and 10,000 flows
    Console,
}

/// Runs the bench, or one part of it; progress goes to standard error.
///
/// # Errors
/// None: what fails is missing from the figures, with the reason.
pub fn run(part: Option<Part>) -> Result<Figures> {
    let mut figures = Figures::new("engine");
    let start = Instant::now();
    let say = |what: &str| eprintln!("{:4.0} s: {what}", start.elapsed().as_secs_f64());
    let wanted = |this| part.is_none_or(|part| part == this);
    if wanted(Part::Memory) {
        for (sites, name) in COUNTED {
            say(&format!("memory of each path among {sites} sites, 20 minutes of virtual time"));
            figures.tell(name, "bytes", 4 * u64::from(sites), memory(sites));
        }
    }
    if wanted(Part::Announcements) {
        say("announcements");
        announced(&mut figures);
    }
    if wanted(Part::Pieces) {
        // The mount namespace is the thread's, and ends with it.
        let pieces = std::thread::scope(|scope| scope.spawn(|| pieces_of_all_sizes(&say)).join());
        pieces.map_err(|_| anyhow::anyhow!("a piece panicked"))?.into_iter().for_each(|measured| {
            let Measured { name, unit, n, value } = measured;
            figures.tell(&name, unit, n, value);
        });
    }
    if wanted(Part::Daemon) {
        daemon(&mut figures, gateway::measure(SITES, say));
    }
    if wanted(Part::Console) {
        looks(&mut figures, console::measure(say));
    }
    say("done");
    Ok(figures)
}

fn memory(sites: u32) -> Result<f64> {
    let memory = memory::measure(sites, Settings::default(), PROBED)?;
    eprintln!("        the engine {:.0}, the reconciler {:.0} bytes", memory.engine, memory.reconciler);
    anyhow::ensure!(memory.engine > 1.0, "this program doesn't count what it allocates");
    Ok(memory.whole())
}

fn announced(figures: &mut Figures) {
    let per_second = |strangers: bool| -> Result<f64> {
        let mut announcements = Announcements::new(SITES)?;
        announcements.round()?;
        let round = |_| {
            if strangers {
                announcements.forget()?;
            }
            announcements.round()
        };
        let times = (0..ROUNDS).map(round).collect::<Result<Vec<_>>>()?;
        Ok(f64::from(SITES) / median(times).as_secs_f64())
    };
    let n = u64::from(SITES) * ROUNDS as u64;
    figures.tell("engine.announcements_per_s", "1/s", n, per_second(false));
    figures.tell("engine.announcements_of_strangers_per_s", "1/s", n, per_second(true));
}

/// The daemon's figures.
fn daemon(figures: &mut Figures, seen: Result<Seen>) {
    let names = [
        ("engine.core_share_1000_sites", ""),
        ("engine.result_to_map_p99_ms", "ms"),
        ("engine.result_to_map_p50_ms", "ms"),
        ("engine.deadline_to_map_p99_ms", "ms"),
        ("engine.wireguard_share_1000_sites", ""),
        ("engine.probes_per_s_1000_sites", "1/s"),
        ("engine.resident_bytes_per_path", "bytes"),
        ("engine.converge_1000_sites_s", "s"),
    ];
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => {
            eprintln!("        the daemon: {error:#}");
            return names.iter().for_each(|(name, unit)| figures.missing(name, unit, format!("{error:#}")));
        }
    };
    let share = |mut shares: Vec<f64>| {
        shares.sort_by(f64::total_cmp);
        shares.get(shares.len() / 2).copied()
    };
    let looks = seen.shares.len() as u64;
    let of = |cause: &str| seen.decisions.get(cause).copied();
    let count = |cause: &str| of(cause).map_or(0, |decisions| decisions.count);
    let (answer, due) = (of("answer"), of("due"));
    let (answers, deadlines) = (count("answer"), count("due"));
    let values = [
        (share(seen.shares), looks),
        (answer.map(|decisions| decisions.p99_ms), answers),
        (answer.map(|decisions| decisions.p50_ms), answers),
        (due.map(|decisions| decisions.p99_ms), deadlines),
        (share(seen.wireguard), looks),
        (Some(seen.probes_per_second), looks),
        (Some(seen.memory as f64 / seen.paths.max(1) as f64), seen.paths),
        (Some(seen.converged.as_secs_f64()), 1),
    ];
    for ((name, unit), (value, n)) in names.into_iter().zip(values) {
        let missing = || anyhow::anyhow!("there was nothing to measure: no decision, or the kernel's WireGuard");
        figures.tell(name, unit, n, value.ok_or_else(missing));
    }
}

/// What it takes to look: the median, and the longest of all.
fn looks(figures: &mut Figures, times: Result<Vec<Vec<Duration>>>) {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    match times {
        Ok(times) => {
            for (name, times) in console::NAMES.into_iter().zip(times) {
                let longest = times.iter().max().copied().unwrap_or_default();
                let n = times.len() as u64;
                figures.add(name, milliseconds(median(times)), "ms", n);
                figures.add(&name.replace("_ms", "_max_ms"), milliseconds(longest), "ms", n);
            }
        }
        Err(error) => {
            eprintln!("        the console: {error:#}");
            console::NAMES.iter().for_each(|name| figures.missing(name, "ms", format!("{error:#}")));
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A figure of a piece.
struct Measured {
    name: String,
    unit: &'static str,
    n: u64,
    value: Result<f64>,
}

/// Every piece at every size, µs each.
fn pieces_of_all_sizes(say: &impl Fn(&str)) -> Vec<Measured> {
    let mut all = Vec::new();
    let place = Place::new();
    for sites in SIZES {
        say(&format!("the pieces among {sites} sites"));
        let paths = sites as usize * world::PATHS;
        let mut put = |what: &str, n: usize, value: Result<Duration>| {
            let name = format!("engine.{what}_us_{sites}_sites");
            all.push(Measured { name, unit: "us", n: n as u64, value: value.map(|time| time.as_secs_f64() * 1e6) });
        };
        match settled(sites) {
            Ok(mut world) => {
                let probe = || (0..PROBES).for_each(|_| drop(world.one_probe()));
                put("probe", ROUNDS * PROBES as usize, Ok(rounds(probe) / PROBES));
                world.run(Duration::from_secs(5));
                // All paths of a mesh, each time.
                put("rating", ROUNDS * paths, Ok(rounds(|| world.rate()) / paths as u32));
                world.run(Duration::from_secs(5));
                put("decision", sites as usize, Ok(Silences::new(sites).time(&mut world, sites.into()) / sites));
            }
            Err(error) => put("probe", 0, Err(error)),
        }
        let maps =
            place.as_ref().map_err(|error| anyhow::anyhow!("{error:#}")).and_then(|place| Maps::new(place, sites));
        let mut maps = match maps {
            Ok(maps) => maps,
            Err(error) => {
                put("write", 0, Err(error));
                continue;
            }
        };
        put("fill", 1, Ok(maps.filled));
        put("state", ROUNDS, of_rounds(|| maps.apply()));
        put("write", ROUNDS * 100, of_rounds(|| (0..100).try_for_each(|_| maps.flip_one())).map(|time| time / 100));
        put("write_batched", ROUNDS * paths, of_rounds(|| maps.flip_all()).map(|time| time / paths as u32));
        put("write_unbatched", ROUNDS * paths, of_rounds(|| maps.flip_each()).map(|time| time / paths as u32));
        put("read_batched", ROUNDS * paths, of_rounds(|| maps.read_all()).map(|time| time / paths as u32));
        put("read_unbatched", ROUNDS * paths, of_rounds(|| maps.read_each()).map(|time| time / paths as u32));
    }
    all
}

/// The median time of some rounds.
fn rounds(mut round: impl FnMut()) -> Duration {
    let times = (0..ROUNDS).map(|_| {
        let began = Instant::now();
        round();
        began.elapsed()
    });
    median(times.collect())
}

/// The same of what may fail.
fn of_rounds<T>(mut round: impl FnMut() -> Result<T>) -> Result<Duration> {
    let times = (0..ROUNDS).map(|_| {
        let began = Instant::now();
        round()?;
        Ok(began.elapsed())
    });
    Ok(median(times.collect::<Result<_>>()?))
}

//! The pieces that deciding is made of, for both the figures and the reports for developers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sdwan::dataplane::desired::{Change, Desired};
use sdwan::dataplane::{Dataplane, Reader};
use sdwan::engine::settings::Settings;
use sdwan::engine::types::PathKey;

use super::place::Place;
use super::world::{PATHS, World, paths_of};

/// Remote sites of the meshes that are measured.
pub const SIZES: [u32; 4] = [10, 100, 1_000, 10_000];
/// Interface of all tunnels.
const IFINDEX: u32 = 7;

/// A mesh that has been up for a while, with the default settings.
///
/// # Errors
/// When it can't be made.
pub fn settled(sites: u32) -> Result<World> {
    let mut world = World::new(sites, Settings::default())?;
    world.settle();
    Ok(world)
}

/// Paths that fall silent, each once until all are up again.
pub struct Silences {
    sites: u32,
    next: u32,
}

impl Silences {
    /// Of a mesh of so many sites.
    pub fn new(sites: u32) -> Self {
        Self { sites, next: 0 }
    }

    /// How long the engine takes to decide about so many.
    ///
    /// # Panics
    /// When no path is up: nothing would be decided.
    pub fn time(&mut self, world: &mut World, count: u64) -> Duration {
        let mut time = Duration::ZERO;
        let (mut decided, mut in_vain) = (0, 0);
        while decided < count {
            if self.next == self.sites {
                self.next = 0;
                // Back through its hold, which is longer each time.
                world.run(Duration::from_secs(180));
            }
            let path = paths_of(self.next).next().expect("a site has paths");
            self.next += 1;
            let began = Instant::now();
            let changes = world.silent(path);
            let took = began.elapsed();
            // A path that wasn't up is no decision.
            if changes.states.is_empty() {
                in_vain += 1;
                assert!(in_vain <= 2 * self.sites, "hardly a path of {} sites is up", self.sites);
                continue;
            }
            assert_eq!(changes.states.len(), 1, "{changes:?}");
            assert!(changes.sets.iter().all(|(site, _)| *site == path.site), "only the site's own sets: {changes:?}");
            in_vain = 0;
            decided += 1;
            time += took;
        }
        time
    }
}

/// Real maps of a mesh.
pub struct Maps {
    maps: Dataplane,
    reader: Reader,
    desired: Desired,
    paths: Vec<PathKey>,
    up: bool,
    /// How long the first whole state took.
    pub filled: Duration,
}

impl Maps {
    /// Filled.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub fn new(place: &Place, sites: u32) -> Result<Self> {
        let desired = settled(sites)?.desired(IFINDEX);
        let paths: Vec<PathKey> = desired.paths.keys().copied().collect();
        ensure!(paths.len() == sites as usize * PATHS, "{} paths are to be in the maps", paths.len());
        let mut maps = place.maps(sites)?;
        let began = Instant::now();
        maps.apply(&desired)?;
        let filled = began.elapsed();
        let reader = place.reader(&maps)?;
        Ok(Self { maps, reader, desired, paths, up: true, filled })
    }

    /// A whole state that finds nothing to do.
    ///
    /// # Errors
    /// When the kernel refuses something.
    pub fn apply(&mut self) -> Result<()> {
        Ok(self.maps.apply(&self.desired)?)
    }

    /// One path goes down or comes up, with the set of a class.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn flip_one(&mut self) -> Result<()> {
        self.up = !self.up;
        let path = *self.paths.first().context("there is no path")?;
        Ok(self.maps.change(&[Change::PathState(path, self.up)])?)
    }

    /// All paths go down or come up, in one order.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn flip_all(&mut self) -> Result<()> {
        self.up = !self.up;
        let changes: Vec<Change> = self.paths.iter().map(|path| Change::PathState(*path, self.up)).collect();
        Ok(self.maps.change(&changes)?)
    }

    /// The same in as many orders as there are paths.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn flip_each(&mut self) -> Result<()> {
        self.up = !self.up;
        self.paths.iter().try_for_each(|path| Ok(self.maps.change(&[Change::PathState(*path, self.up)])?))
    }

    /// Reads what all paths carried, together.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn read_all(&self) -> Result<usize> {
        Ok(self.reader.all_path_stats(self.paths.len() as u32)?.len())
    }

    /// The same one by one.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn read_each(&self) -> Result<usize> {
        let read = |number| Ok(self.reader.path_counters(number)?.stats);
        Ok((0..self.paths.len() as u32).map(read).collect::<Result<Vec<_>>>()?.len())
    }
}

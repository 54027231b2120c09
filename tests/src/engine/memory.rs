//! What a path takes of the daemon's memory.

use std::time::Duration;

use anyhow::Result;
use sdwan::dataplane::{Capacities, Reconciler};
use sdwan::engine::settings::Settings;

use super::counting::heap_bytes;
use super::maps::nowhere;
use super::world::{PATHS, World};

/// Bytes of the heap for each path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PathMemory {
    /// The engine: probes in flight, estimators, path sets, deadlines, and what it knows of the site.
    pub engine: f64,
    /// What the reconciler remembers of the maps.
    pub reconciler: f64,
}

impl PathMemory {
    /// Both together.
    pub fn whole(self) -> f64 {
        self.engine + self.reconciler
    }
}

/// Measures it in a mesh of so many sites that has been probed for `span`. Needs [`super::counting::Counting`].
///
/// # Errors
/// When the mesh can't be made.
pub fn measure(sites: u32, settings: Settings, span: Duration) -> Result<PathMemory> {
    let mut world = World::new(sites, settings)?;
    world.run(span);
    let paths = sites * PATHS as u32;
    let capacities =
        Capacities { sites: sites + 1, paths: paths + 1, prefixes: 8 * (sites + 8), ..Capacities::default() };
    let mut reconciler = Reconciler::new(nowhere(), capacities)?;
    reconciler.apply(&world.desired(7))?;
    // The compiled policies are as large as ports are many, however many paths there are.
    let _policies = world.engine.compilation().clone();
    let each = |bytes: usize| bytes as f64 / f64::from(paths);
    let reconciler = each(heap_bytes(reconciler));
    Ok(PathMemory { engine: each(heap_bytes(world.engine)), reconciler })
}

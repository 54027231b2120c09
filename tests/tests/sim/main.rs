//! The engine under virtual time: whole meshes in one process, with the real engine, the real desired state and
//! reconciler, and the functions that the eBPF programs decide by. Random cases, laws that must hold at every moment, and
//! what was once broken as small cases in `cases/`.
//!
//! ```sh
//! cargo test -p sdwan-tests --test sim                           # what runs always
//! SDWAN_SIM=500 cargo test -p sdwan-tests --test sim      # 500 seeds, and the large mesh for longer
//! SDWAN_SIM_SEED=17 cargo test -p sdwan-tests --test sim  # this seed alone
//! ```
//! A case that breaks a law is made smaller and printed; put it into `cases/` with the mend.

mod case;
mod laws;
mod lines;
mod maps;
mod node;
mod random;
mod runs;
mod scenes;
mod shrink;
mod world;

use case::Case;
use laws::{Broken, Laws};
use world::World;

/// Runs a case to its end.
fn run(case: &Case) -> Result<(World, Laws), Broken> {
    let mut world = World::new(case.clone());
    let mut laws = Laws::default();
    world.begin(None);
    let end = world.ms(case.calm_ms() + case.settle_ms);
    world.run(end, &mut laws)?;
    laws.at_rest(&world)?;
    Ok((world, laws))
}

//! Programs of others that tests and benches call, where `cargo xtask setup` puts them.

use std::path::PathBuf;

/// The program at a place below the target directory's `tools`; without it the calling test is skipped by name.
pub fn find(place: &str) -> Option<PathBuf> {
    let place = format!("tools/{place}");
    let me = std::env::current_exe().expect("my own program");
    let found = me.ancestors().map(|directory| directory.join(&place)).find(|path| path.is_file());
    if found.is_none() {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        eprintln!("skipped: {test}: no program target/{place}: `cargo xtask setup` gets it");
    }
    found
}

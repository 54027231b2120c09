//! The keeper of test-beds, and a bed to look around in.

use anyhow::{Result, bail};
use sdwan_tests::bed::{self, Bed};

fn main() -> Result<()> {
    bed::main_if_asked();
    match std::env::args().nth(1).as_deref() {
        Some("up") => {
            print!("{}", Bed::new()?.keep()?);
            println!("`sdwan-bed clean` ends it");
        }
        Some("run") => {
            let bed = Bed::new()?;
            for namespace in bed.namespaces() {
                println!("{:10} {}", namespace.name(), namespace.enter_line());
            }
            println!("{} is kept by process {}; it ends with the input", bed.prefix(), bed.keeper_pid());
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
        }
        Some("clean") => {
            for prefix in bed::clean_kept()? {
                println!("ended {prefix}");
            }
        }
        _ => bail!("usage: sdwan-bed run | up | clean"),
    }
    Ok(())
}

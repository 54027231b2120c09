//! `sdwan userspace-wireguard` as a program of its own: tests of the tunnels need it, and must not wait for all of
//! `sdwan` to be built.
//!
//! With `SDWAN_TEST_TIED` set it dies with the thread that started it, so that a test that is killed leaves nothing.

use clap::Parser;
use sdwan::cli::userspace_wireguard::Args;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn main() -> anyhow::Result<()> {
    if std::env::var_os("SDWAN_TEST_TIED").is_some() {
        // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory of ours.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    }
    Cli::parse().args.run()
}

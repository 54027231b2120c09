//! `cargo xtask vm`: runs a command on a stock kernel of the distribution, in a virtual machine.
//!
//! Kernel packages are fetched by the package manager and unpacked into `target/vm`; nothing is installed or changed
//! outside of it.

mod boot;
pub mod cpio;
pub mod image;
mod kernel;
mod modules;
mod programs;
mod vmlinux;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cargo::workspace;
use crate::setup::{self, For};
pub use boot::{Acceleration, EMULATOR, RunDirectory};
use boot::{Console, Run};
pub use kernel::{Kernel, SERIES};
use programs::Program;
pub use programs::build as programs;
pub use vmlinux::decompress;

/// Arguments of `vm`.
#[derive(clap::Args)]
pub struct Vm {
    /// Series of the distribution's kernel, such as 6.1 or 6.12, or path of a kernel package or an unpacked one
    #[arg(long, short, default_value = SERIES[1])]
    kernel: String,
    /// End the virtual machine after so many seconds
    #[arg(long, default_value_t = 1800, value_name = "SECONDS")]
    timeout: u64,
    /// The command with its arguments; tests are called by their name, such as `mesh --test-threads=1`
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Vm {
    /// Runs the command and hands on its exit status.
    ///
    /// # Errors
    /// When this machine can't run a virtual machine, or the virtual machine crashes or takes too long.
    pub fn run(&self) -> Result<ExitCode> {
        let kernel = prepare(&self.kernel)?;
        let programs = programs::build()?;
        programs::forget_old(&programs, &cache()?)?;
        run_programs(&kernel, &programs, &self.command, Duration::from_secs(self.timeout), Console::Output)
    }
}

/// Runs a bench, optimized, and hands on its exit status. Of its streams only standard output gets to that of this
/// process, when it has ended.
///
/// # Errors
/// As [`Vm::run`].
pub fn bench(kernel: &str, timeout: Duration, binary: &str, arguments: Vec<OsString>) -> Result<ExitCode> {
    let kernel = prepare(kernel)?;
    // The bench's daemons, and what holds its namespaces.
    let programs = programs::build_optimized(&["sdwan", "sdwan-bed", binary])?;
    let command: Vec<OsString> = std::iter::once(binary.into()).chain(arguments).collect();
    run_programs(&kernel, &programs, &command, timeout, Console::Errors)
}

fn run_programs(
    kernel: &Kernel,
    programs: &[Program],
    command: &[OsString],
    timeout: Duration,
    console: Console,
) -> Result<ExitCode> {
    let cache = cache()?;
    let base = image::base(kernel, &cache)?;
    let directory = RunDirectory::create(&cache)?;
    let archive = directory.file("programs.cpio");
    programs::archive(programs, &cache, &archive)?;
    let acceleration = Acceleration::find(kernel, &base, &cache, &directory)?;
    let run = Run { kernel, acceleration, timeout, console };
    let line = shell_line(command, acceleration.pace(), console)?;
    run.boot(&[&base, &archive], &line, &directory).map(ExitCode::from)
}

/// Installs what virtual machines take, and makes a kernel ready.
///
/// # Errors
/// Why this machine can't boot that kernel.
pub fn prepare(kernel: &str) -> Result<Kernel> {
    if env::consts::ARCH != "x86_64" {
        bail!("virtual machines are set up for x86_64, and this is {}", env::consts::ARCH);
    }
    if !setup::has_apt() {
        bail!("kernels come from Debian's packages, and this system has no apt");
    }
    setup::setup(For::Machines)?;
    Kernel::find(kernel, &cache()?)
}

/// How this machine runs virtual ones.
///
/// # Errors
/// As [`Acceleration::find`].
pub fn acceleration(kernel: &Kernel, directory: &RunDirectory) -> Result<Acceleration> {
    let cache = cache()?;
    Acceleration::find(kernel, &image::base(kernel, &cache)?, &cache, directory)
}

/// Directory of everything that is kept from one run to the next.
///
/// # Errors
/// When it can't be made.
pub fn cache() -> Result<PathBuf> {
    let cache = workspace().join("target/vm");
    fs::create_dir_all(&cache).with_context(|| format!("can't create {}", cache.display()))?;
    Ok(cache)
}

/// A program by name, as administrators have it in their `PATH`; its directory without symbolic links.
///
/// # Errors
/// When there is none.
pub fn tool(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // The system's own first: what else is in the `PATH` may be a wrapper.
    let places = ["/usr/sbin", "/usr/bin"].map(PathBuf::from).into_iter().chain(env::split_paths(&path));
    let found = places.map(|directory| directory.join(name)).find(|path| path.is_file());
    let found = found.with_context(|| format!("there is no program `{name}`: run `cargo xtask setup`"))?;
    Ok(image::without_directory_links(&found))
}

/// The command as a line of shell: each word in quotes.
fn shell_line(command: &[OsString], pace: &str, console: Console) -> Result<String> {
    let directory = quoted(&workspace().join("tests").to_string_lossy());
    // What `sdwan_tests::pace` reads.
    let mut line = format!("cd {directory}\nexport SDWAN_TEST_PACE={pace}\nexec");
    for word in command {
        let word = word.to_str().with_context(|| format!("{word:?} is not UTF-8"))?;
        line.push(' ');
        line.push_str(&quoted(word));
    }
    if console == Console::Errors {
        line.push_str(&format!(" >{}", boot::OUTPUT_DEVICE));
    }
    line.push('\n');
    Ok(line)
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reaches_the_command_as_it_was_typed() {
        let command = ["sh", "-c", "echo 'a b' $HOME"].map(OsString::from);
        let line = shell_line(&command, "1", Console::Output).expect("it is text");
        assert!(line.ends_with(" 'sh' '-c' 'echo '\\''a b'\\'' $HOME'\n"), "{line}");
        let apart = shell_line(&command, "1", Console::Errors).expect("it is text");
        assert!(apart.ends_with(" $HOME' >/dev/ttyS2\n"), "{apart}");
    }
}

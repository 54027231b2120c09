//! The only home of how the eBPF object is built: `sdwan/build` builds it with this crate, and `cargo xtask setup`
//! and `cargo xtask ci-lint` ask it for the toolchain. No dependencies, so that it costs nothing to build.
//!
//! Two toolchains serve, in this order:
//! 1. the distribution's `/usr/bin/rustc` with a prebuilt `core` for the eBPF target (Debian: `rustc-web` and
//!    `libstd-rust-web-dev-bpf`);
//! 2. a nightly of rustup with `rust-src`, which builds `core` itself.
//!
//! Both need a `bpf-linker` that was built for the LLVM of the compiler.
#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Version of bpf-linker that the build is tried with; `cargo xtask setup` installs it.
pub const BPF_LINKER_VERSION: &str = "0.13.0";
/// Name of the package, of its binary, and of the object.
pub const PACKAGE: &str = "sdwan-ebpf";
/// The compiler of the distribution.
pub const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
/// Crates that may use unstable features when the compiler is a stable one.
const BOOTSTRAP: &str = "aya_ebpf,sdwan_ebpf";

/// Version of the eBPF instruction set: kernel 5.1 and later. Below it there are no 32-bit jumps, and LLVM 22 then compares
/// a zero-extended `u32` with a sign-extended constant: `x == u32::MAX` is never true.
const CPU: &str = "v3";

/// Why there is no eBPF object.
#[derive(Debug)]
pub enum Error {
    /// Neither toolchain is installed.
    NoToolchain {
        /// The target that none of them can build for.
        target: &'static str,
    },
    /// No bpf-linker of [`BPF_LINKER_VERSION`] was found.
    NoLinker {
        /// LLVM major version of the toolchain.
        llvm: u32,
    },
    /// Cargo could not be started.
    Spawn {
        /// The program.
        program: OsString,
        /// Why not.
        source: std::io::Error,
    },
    /// The build failed.
    Build {
        /// What cargo printed.
        output: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoToolchain { target } => write!(
                f,
                "no Rust toolchain for the eBPF target {target}. `cargo xtask setup` installs one. By hand, either \
                 `apt-get install rustc-web libstd-rust-web-dev-bpf` (Debian 12 and later), or \
                 `rustup toolchain install nightly --component rust-src`"
            ),
            Self::NoLinker { llvm } => write!(
                f,
                "no bpf-linker {BPF_LINKER_VERSION}. `cargo xtask setup` installs it. By hand, with the development \
                 files of LLVM {llvm}: `LLVM_PREFIX=/usr/lib/llvm-{llvm} cargo install bpf-linker --locked --version \
                 {BPF_LINKER_VERSION} --no-default-features --features llvm-{llvm}`"
            ),
            Self::Spawn { program, source } => write!(f, "can't start {}: {source}", program.display()),
            Self::Build { output } => write!(f, "the eBPF programs don't build:\n{output}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Spawn { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The machine that the programs will run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine<'a> {
    /// As in `CARGO_CFG_TARGET_ARCH`.
    pub arch: &'a str,
    /// Byte order: chooses between the two eBPF targets.
    pub little_endian: bool,
}

impl Machine<'static> {
    /// The machine that this code was compiled for.
    pub const HOST: Self = Self { arch: env::consts::ARCH, little_endian: cfg!(target_endian = "little") };
}

impl Machine<'_> {
    /// The eBPF target of the machine's byte order.
    pub const fn target(&self) -> &'static str {
        if self.little_endian { "bpfel-unknown-none" } else { "bpfeb-unknown-none" }
    }
}

/// A toolchain that builds for the eBPF target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// A compiler with a prebuilt `core`.
    Prebuilt {
        /// The compiler.
        rustc: PathBuf,
        /// Its LLVM's major version.
        llvm: u32,
    },
    /// A nightly of rustup with `rust-src`.
    Nightly {
        /// Its LLVM's major version.
        llvm: u32,
    },
}

impl Toolchain {
    /// The first toolchain that is there.
    ///
    /// # Errors
    /// [`Error::NoToolchain`]; its text says how to get one.
    pub fn find(target: &'static str) -> Result<Self, Error> {
        Self::prebuilt(target).or_else(Self::nightly).ok_or(Error::NoToolchain { target })
    }

    fn prebuilt(target: &str) -> Option<Self> {
        let rustc = PathBuf::from(SYSTEM_RUSTC);
        let sysroot = stdout_of(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib").join(target);
        if !core.is_dir() {
            return None;
        }
        let llvm = llvm_major(&stdout_of(Command::new(&rustc).arg("-vV"))?)?;
        Some(Self::Prebuilt { rustc, llvm })
    }

    fn nightly() -> Option<Self> {
        let rustc = |arguments: &[&str]| {
            // Without this rustup would download a missing toolchain in the middle of a build.
            let mut command = Command::new("rustup");
            command.env("RUSTUP_AUTO_INSTALL", "0").args(["run", "nightly", "rustc"]).args(arguments);
            stdout_of(&mut command)
        };
        let sysroot = rustc(&["--print", "sysroot"])?;
        if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir() {
            return None;
        }
        Some(Self::Nightly { llvm: llvm_major(&rustc(&["-vV"])?)? })
    }

    /// Major version of the compiler's LLVM, which bpf-linker must share.
    pub const fn llvm(&self) -> u32 {
        match self {
            Self::Prebuilt { llvm, .. } | Self::Nightly { llvm } => *llvm,
        }
    }

    /// A cargo command for the eBPF crate with everything set but what to build; `subcommand` is `build` or `clippy`.
    pub fn cargo(&self, subcommand: &str, workspace: &Path, machine: &Machine<'_>, linker: &Path) -> Command {
        let mut command = match self {
            Self::Prebuilt { rustc, .. } if subcommand == "clippy" => {
                // clippy's driver is bound to its compiler: it is the distribution's own, not rustup's.
                let mut command = Command::new(rustc.with_file_name("cargo-clippy"));
                command.arg("clippy").env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", BOOTSTRAP);
                command
            }
            Self::Prebuilt { rustc, .. } => {
                let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                command.arg(subcommand).env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", BOOTSTRAP);
                command
            }
            Self::Nightly { .. } => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo", subcommand, "-Zbuild-std=core"]);
                for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
                    command.env_remove(variable);
                }
                command
            }
        };
        // What the outer cargo set for its own compiler must not reach this one.
        for variable in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_TARGET", "TARGET"] {
            command.env_remove(variable);
        }
        let target = machine.target();
        let linker_variable = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
        let flags = format!(
            "--cfg=bpf_target_arch=\"{}\"\x1f-Ctarget-cpu={CPU}\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf",
            bpf_target_arch(machine.arch)
        );
        command
            // Inside the crate, so that only its own features are resolved.
            .current_dir(workspace.join(PACKAGE))
            .env(linker_variable, linker)
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .args(["--release", "--bins", "--target", target, "--target-dir"])
            // One directory for debug, release, test and clippy builds of user space.
            .arg(workspace.join("target/ebpf"));
        command
    }
}

/// Where `cargo xtask setup` installs bpf-linker for an LLVM: a directory with `bin/` in it.
pub fn tools_root(workspace: &Path, llvm: u32) -> PathBuf {
    workspace.join("target/tools").join(format!("llvm-{llvm}"))
}

/// Finds bpf-linker of [`BPF_LINKER_VERSION`]: in the tools directory, in `PATH`, in cargo's own directory.
///
/// # Errors
/// [`Error::NoLinker`]; its text says how to get it.
pub fn find_linker(workspace: &Path, llvm: u32) -> Result<PathBuf, Error> {
    let mut directories = vec![tools_root(workspace, llvm).join("bin")];
    directories.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
    if let Some(home) = env::var_os("CARGO_HOME").map(PathBuf::from) {
        directories.push(home.join("bin"));
    } else if let Some(home) = env::var_os("HOME").map(PathBuf::from) {
        directories.push(home.join(".cargo/bin"));
    }
    let right_version = |path: &PathBuf| {
        path.is_file()
            && stdout_of(Command::new(path).arg("--version"))
                .is_some_and(|text| text.split_whitespace().nth(1) == Some(BPF_LINKER_VERSION))
    };
    directories
        .into_iter()
        .map(|directory| directory.join("bpf-linker"))
        .find(right_version)
        .ok_or(Error::NoLinker { llvm })
}

/// Builds the eBPF object and returns its path, `<workspace>/target/ebpf/<target>/release/sdwan-ebpf`.
///
/// # Errors
/// Any [`Error`].
pub fn build(workspace: &Path, machine: &Machine<'_>) -> Result<PathBuf, Error> {
    let toolchain = Toolchain::find(machine.target())?;
    let linker = find_linker(workspace, toolchain.llvm())?;
    let mut command = toolchain.cargo("build", workspace, machine, &linker);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Spawn { program: command.get_program().to_owned(), source })?;
    if !output.status.success() {
        return Err(Error::Build { output: String::from_utf8_lossy(&output.stderr).into_owned() });
    }
    Ok(workspace.join("target/ebpf").join(machine.target()).join("release").join(PACKAGE))
}

/// The number after "LLVM version:" in the output of `rustc -vV`.
fn llvm_major(verbose_version: &str) -> Option<u32> {
    let version = verbose_version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// aya names all RISC-V machines of 64 bits alike.
fn bpf_target_arch(arch: &str) -> &str {
    if arch.starts_with("riscv64") { "riscv64" } else { arch }
}

fn stdout_of(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).stdin(Stdio::null()).output().ok()?;
    if output.status.success() { String::from_utf8(output.stdout).ok() } else { None }
}

#[cfg(test)]
mod tests;

//! One run of a virtual machine.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use super::kernel::Kernel;
use crate::progress::step;

/// What runs virtual machines.
pub const EMULATOR: &str = "qemu-system-x86_64";
/// The third serial line, in the machine.
pub const OUTPUT_DEVICE: &str = "/dev/ttyS2";
/// Room for the image twice (as it is loaded and as it is unpacked) and for a mesh of daemons with their maps, MiB.
const MEMORY_MIB: u32 = 2_560;
/// How long a virtual machine that only says that it lives gets to do so.
const TRIAL: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// How instructions are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// By the processor.
    Kvm,
    /// By emulation. Time in there follows from the instructions carried out, a billion a second, and sleep takes none:
    /// what the tests measure doesn't depend on how fast or busy this machine is. That takes a single processor.
    Emulation,
}

impl Acceleration {
    /// KVM where it is there and a kernel boots under it: there are machines where the one is true without the other.
    /// The answer is kept for as long as this machine runs its kernel.
    ///
    /// # Errors
    /// When the answer can't be kept.
    pub fn find(kernel: &Kernel, base: &Path, cache: &Path, directory: &RunDirectory) -> Result<Self> {
        if File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(Self::Emulation);
        }
        let host = fs::read_to_string("/proc/sys/kernel/osrelease").context("can't read this kernel's release")?;
        let kept = cache.join(format!("kvm-{}", host.trim()));
        if let Ok(answer) = fs::read_to_string(&kept) {
            return Ok(if answer == "works" { Self::Kvm } else { Self::Emulation });
        }
        step("trying KVM");
        let run = Run { kernel, acceleration: Self::Kvm, timeout: TRIAL, console: Console::Nothing };
        let works = run.boot(&[base], "true", directory).is_ok_and(|status| status == 0);
        fs::write(&kept, if works { "works" } else { "hangs" })
            .with_context(|| format!("can't write {}", kept.display()))?;
        if !works {
            step("a kernel doesn't boot under KVM here: going on under emulation");
        }
        Ok(if works { Self::Kvm } else { Self::Emulation })
    }

    /// At what share of their usual rates tests send. An emulated machine carries some 50 Mbit/s through WireGuard, and
    /// some thousand packets a second.
    pub const fn pace(self) -> &'static str {
        match self {
            Self::Kvm => "1",
            Self::Emulation => "0.1",
        }
    }

    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host", "-smp", "2"],
            Self::Emulation => {
                &["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-cpu", "max", "-smp", "1"]
            }
        }
    }
}

/// Where what the machine prints goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// To standard output.
    Output,
    /// To standard error; what the command writes to [`OUTPUT_DEVICE`] goes to standard output in the end.
    Errors,
    /// Nowhere.
    Nothing,
}

/// How a virtual machine is run.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// KVM or emulation.
    pub acceleration: Acceleration,
    /// The machine is ended after this.
    pub timeout: Duration,
    /// Where what it prints goes.
    pub console: Console,
}

impl Run<'_> {
    /// Boots with these archives as the initial file system, runs a shell line and returns its exit status. What the
    /// line prints goes where [`Self::console`] says as it comes.
    ///
    /// # Errors
    /// When the machine can't be started, takes too long, or ends without having told a status.
    pub fn boot(&self, archives: &[&Path], line: &str, directory: &RunDirectory) -> Result<u8> {
        let (image, status) = (directory.file("image.cpio"), directory.file("status"));
        concatenate(archives, line, &image)?;
        // That of an earlier run must not be taken for this one's.
        fs::write(&status, "").with_context(|| format!("can't write {}", status.display()))?;
        let output = directory.file("output");
        let mut machine =
            self.command(&image, &status, &output).spawn().with_context(|| format!("can't start {EMULATOR}"))?;
        self.wait(&mut machine, &status)?;
        if self.console == Console::Errors {
            let output = fs::read(&output).with_context(|| format!("can't read {}", output.display()))?;
            // A terminal in there may end lines in its own way.
            let plain: Vec<u8> = output.into_iter().filter(|byte| *byte != b'\r').collect();
            io::stdout().write_all(&plain).context("can't write what the command printed")?;
        }
        let told = fs::read_to_string(&status).with_context(|| format!("can't read {}", status.display()))?;
        match told.trim().parse() {
            Ok(status) => Ok(status),
            Err(_) => bail!(
                "Linux {} ended without telling the status of the command: it crashed, or ran out of memory",
                self.kernel.release
            ),
        }
    }

    fn command(&self, image: &Path, status: &Path, output: &Path) -> Command {
        // The machine ends when this process does, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", EMULATOR]).args(self.acceleration.arguments());
        command.args(["-rtc", "base=utc,clock=host", "-machine", "q35", "-m", &MEMORY_MIB.to_string()]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        command.arg("-serial").arg(prefixed("file:", status));
        command.arg("-serial").arg(prefixed("file:", output));
        command.arg("-kernel").arg(&self.kernel.vmlinux).arg("-initrd").arg(image);
        // The image is tmpfs: a test's files may fill more than half of the memory. Only what ends the kernel is shown.
        command.args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=on"]);
        command.stdin(Stdio::null());
        match self.console {
            Console::Output => {}
            Console::Errors => drop(command.stdout(Stdio::from(io::stderr()))),
            Console::Nothing => drop(command.stdout(Stdio::null()).stderr(Stdio::null())),
        }
        command
    }

    /// Waits until the machine ends, or has told the status of the command and is ended.
    fn wait(&self, machine: &mut Child, status: &Path) -> Result<()> {
        let start = Instant::now();
        loop {
            if machine.try_wait().context("waiting for the virtual machine")?.is_some() {
                return Ok(());
            }
            let told = fs::read(status).is_ok_and(|text| text.ends_with(b"\n"));
            let late = start.elapsed() > self.timeout;
            if told || late {
                machine.kill().context("ending the virtual machine")?;
                machine.wait().context("waiting for the virtual machine")?;
            }
            if told {
                return Ok(());
            }
            if late {
                bail!("Linux {} was ended after {} s", self.kernel.release, self.timeout.as_secs());
            }
            sleep(PAUSE);
        }
    }
}

/// A directory of one run; it goes with it.
pub struct RunDirectory(PathBuf);

impl RunDirectory {
    const PREFIX: &str = "run-";

    /// Makes one, and removes what killed runs left.
    ///
    /// # Errors
    /// When something can't be made or removed.
    pub fn create(cache: &Path) -> Result<Self> {
        Self::sweep(cache)?;
        let path = cache.join(format!("{}{}", Self::PREFIX, std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("can't create {}", path.display()))?;
        Ok(Self(path))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Removes those of runs that were killed.
    fn sweep(cache: &Path) -> Result<()> {
        for entry in fs::read_dir(cache).with_context(|| format!("can't read {}", cache.display()))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix(Self::PREFIX);
            if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
                fs::remove_dir_all(entry.path()).with_context(|| format!("can't remove {name}"))?;
            }
        }
        Ok(())
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        // What stays is swept by the next run.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The kernel unpacks archives that follow one another into one file system.
fn concatenate(archives: &[&Path], line: &str, to: &Path) -> Result<()> {
    let unwritable = || format!("can't write {}", to.display());
    let mut image = File::create(to).with_context(unwritable)?;
    for archive in archives {
        let mut from = File::open(archive).with_context(|| format!("can't open {}", archive.display()))?;
        io::copy(&mut from, &mut image).with_context(unwritable)?;
    }
    let mut last = Archive::new(image);
    last.bytes(Path::new("/command"), 0o644, line.as_bytes())?;
    last.finish().map(drop)
}

fn prefixed(prefix: &str, path: &Path) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from(prefix);
    text.push(path);
    text
}

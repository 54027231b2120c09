//! Virtual machines with a whole Debian system in them, systemd included, joined by lines of their own. What they change
//! is thrown away at their end.

mod disk;
mod initial;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::progress::step;
use crate::setup::{self, For};
use crate::vm::{self, Acceleration, EMULATOR, Kernel, RunDirectory};

/// MiB: systemd, a daemon and its maps take less than half of it.
const MEMORY_MIB: u32 = 1_024;
/// How long a system gets to start under emulation on a busy machine.
const START: Duration = Duration::from_secs(240);
/// Lines that join two machines; in there they are `eth0`, `eth1` and so on.
pub const LINES: usize = 2;

/// What machines of one run have in common.
pub struct Ground {
    kernel: Kernel,
    acceleration: Acceleration,
    disk: PathBuf,
    directory: RunDirectory,
}

impl Ground {
    /// Makes ready what machines with this kernel take. `files` appear below `/mnt` in each.
    ///
    /// # Errors
    /// Why this machine can't have such machines.
    pub fn prepare(series: &str, files: &[(&str, &Path)]) -> Result<Self> {
        let kernel = vm::prepare(series)?;
        setup::setup(For::Systems)?;
        let disk = disk::system(&kernel)?;
        let directory = RunDirectory::create(&vm::cache()?)?;
        let acceleration = vm::acceleration(&kernel, &directory)?;
        initial::write(&kernel, &directory, &directory.file("initial.cpio"))?;
        let place = directory.file("files");
        fs::create_dir(&place).with_context(|| format!("can't make {}", place.display()))?;
        let mut bytes = 0;
        for (name, path) in files {
            bytes += fs::copy(path, place.join(name)).with_context(|| format!("can't copy {}", path.display()))?;
        }
        disk::from_directory(&place, &directory.file("files.ext4"), &format!("{}M", 16 + (bytes >> 20) * 5 / 4))?;
        Ok(Self { kernel, acceleration, disk, directory })
    }

    /// As `uname -r` says it in the machines.
    pub fn release(&self) -> &str {
        &self.kernel.release
    }
}

/// What a script in a machine came to.
pub struct Answer {
    /// Its exit status.
    pub status: i32,
    /// Both of its streams.
    pub output: String,
}

/// A machine that runs; it ends with this value.
pub struct Machine {
    name: String,
    process: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    console: PathBuf,
    asked: u32,
}

impl Machine {
    /// Starts one of a pair. `number` is 0 or 1.
    ///
    /// # Errors
    /// When the emulator can't be started.
    pub fn start(ground: &Ground, name: &str, number: usize) -> Result<Self> {
        let console = ground.directory.file(&format!("console-{number}"));
        let mut process =
            command(ground, number, &console).spawn().with_context(|| format!("can't start {EMULATOR}"))?;
        let input = process.stdin.take().context("a pipe to the machine")?;
        let output = process.stdout.take().context("a pipe from the machine")?;
        let (to, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { name: name.into(), process, input, answers, console, asked: 0 })
    }

    /// What it was called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until it has started.
    ///
    /// # Errors
    /// When it takes too long; the text has the end of its console.
    pub fn wait_until_started(&mut self) -> Result<()> {
        let start = Instant::now();
        self.answer_to("ready", START).with_context(|| format!("{} didn't start:\n{}", self.name, self.console()))?;
        step(&format!("{} has started after {} s", self.name, start.elapsed().as_secs()));
        Ok(())
    }

    /// Runs a script of bash as root and waits for its end.
    ///
    /// # Errors
    /// When the machine doesn't answer in time.
    pub fn ask(&mut self, script: &str, patience: Duration) -> Result<Answer> {
        self.asked += 1;
        let number = self.asked.to_string();
        let line = format!("{number} {}\n", BASE64.encode(script));
        self.input.write_all(line.as_bytes()).and_then(|()| self.input.flush()).context("can't ask the machine")?;
        self.answer_to(&number, patience).with_context(|| format!("{} was asked:\n{script}", self.name))
    }

    fn answer_to(&mut self, number: &str, patience: Duration) -> Result<Answer> {
        let deadline = Instant::now() + patience;
        loop {
            let line = match self.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => bail!("no answer within {} s", patience.as_secs()),
                Err(RecvTimeoutError::Disconnected) => bail!("the machine ended:\n{}", self.console()),
            };
            let mut words = line.split_whitespace();
            // An answer that came after its question was given up is passed over.
            if words.next() != Some(number) {
                continue;
            }
            let status = words.next().and_then(|word| word.parse().ok()).context("an answer without a status")?;
            let output = BASE64.decode(words.next().unwrap_or_default()).context("an answer that is no base64")?;
            return Ok(Answer { status, output: String::from_utf8_lossy(&output).into_owned() });
        }
    }

    /// The end of what it printed on its console.
    fn console(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(ground: &Ground, number: usize, console: &Path) -> Command {
    // The machine ends when this process does, however that ends.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", EMULATOR]);
    // Two machines talk with each other: their time is the real one.
    command.args(match ground.acceleration {
        Acceleration::Kvm => ["-accel", "kvm", "-cpu", "host"],
        Acceleration::Emulation => ["-accel", "tcg,thread=multi", "-cpu", "max"],
    });
    command.args(["-smp", "1", "-m", &MEMORY_MIB.to_string(), "-machine", "q35", "-rtc", "base=utc,clock=host"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.arg("-kernel").arg(&ground.kernel.vmlinux).arg("-initrd").arg(ground.directory.file("initial.cpio"));
    command.args(["-append", "console=ttyS0 net.ifnames=0 loglevel=3 panic=-1 random.trust_cpu=on"]);
    for disk in [&ground.disk, &ground.directory.file("files.ext4")] {
        // What is written goes to a file without a name.
        command.args(["-drive", &format!("file={},format=raw,if=virtio,snapshot=on,cache=unsafe", disk.display())]);
    }
    command.args(["-serial", &format!("file:{}", console.display())]);
    command.args(["-chardev", "stdio,id=agent,signal=off", "-serial", "chardev:agent"]);
    for line in 0..LINES {
        let other = 1 - number;
        command.args([
            "-netdev",
            &format!(
                "dgram,id=n{line},local.type=unix,local.path=line{line}-{number},\
                 remote.type=unix,remote.path=line{line}-{other}"
            ),
            "-device",
            &format!("virtio-net-pci,netdev=n{line},mac=52:54:00:00:0{number}:0{line}"),
        ]);
    }
    // Names of sockets are short: they are relative.
    command.current_dir(ground.directory.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

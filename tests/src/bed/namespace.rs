//! One network namespace with a mount namespace of its own, held by a process of the bed's keeper.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::error::{Attempt, BedError, Result};

/// Environment variable that marks every process started in a bed, with the bed's prefix as its value.
pub const MARKER: &str = "SDWAN_BED";

/// A namespace of a bed. Clones are the same namespace.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    bed: String,
    pid: u32,
    net: File,
    mount: File,
}

impl Namespace {
    /// Opens the namespaces of the process that holds them.
    pub(crate) fn open(bed: &str, name: &str, pid: u32) -> Result<Self> {
        let open = |kind: &str| {
            let path = format!("/proc/{pid}/ns/{kind}");
            File::open(&path).attempt(|| format!("open {path}"))
        };
        let inner = Inner { name: name.into(), bed: bed.into(), pid, net: open("net")?, mount: open("mnt")? };
        Ok(Self(Arc::new(inner)))
    }

    /// The namespaces of this process.
    pub fn current() -> Result<Self> {
        Self::open("none", "current", std::process::id())
    }

    /// Name within the bed, such as `a`, `a-h0` or `isp1`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Prefix of the bed that it belongs to.
    pub fn bed(&self) -> &str {
        &self.0.bed
    }

    /// The process that holds it: `nsenter -t PID -n -m` enters.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// The command line that enters it from outside.
    pub fn enter_line(&self) -> String {
        format!("nsenter -t {} -n -m", self.pid())
    }

    /// A command that runs inside. It has a process group of its own and ends with the bed at the latest.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env(MARKER, self.bed()).process_group(0);
        let inner = self.0.clone();
        // SAFETY: between fork and exec only setns and chdir are called; both are async-signal-safe.
        unsafe {
            command.pre_exec(move || inner.enter());
        }
        command
    }

    /// Runs a command inside to its end. An exit status other than success is an error that carries its output.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let output = self
            .command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .attempt(|| format!("start {program} in {}", self.name()))?;
        self.checked(output, &format!("{program} {}", arguments.join(" ")))
    }

    /// Runs a shell line inside, for what is shortest said in shell; returns its standard output.
    pub fn shell(&self, line: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.output("sh", &["-c", line])?.stdout).into_owned())
    }

    /// Runs lines of `ip -batch` inside: each line is an `ip` command without the word `ip`.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.batch("ip", lines)
    }

    /// Runs lines of `tc -batch` inside.
    pub fn tc(&self, lines: &str) -> Result<()> {
        self.batch("tc", lines)
    }

    /// Writes sysctls of the namespace, such as `("net/ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                let path = format!("/proc/sys/{key}");
                std::fs::write(&path, value).attempt(|| format!("write {value:?} to {path}"))?;
            }
            Ok(())
        })?
    }

    /// Runs a function on a thread inside the namespaces and waits for it. A panic in it goes on in the caller.
    pub fn run<T: Send>(&self, function: impl FnOnce() -> T + Send) -> Result<T> {
        let inner = &self.0;
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| {
                    inner.enter_thread()?;
                    io::Result::Ok(function())
                })
                .join()
        });
        match outcome {
            Ok(result) => result.attempt(|| format!("enter namespace {}", self.name())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts a thread inside the namespaces.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        function: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let namespace = self.clone();
        thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                namespace.0.enter_thread().attempt(|| format!("enter namespace {}", namespace.name()))?;
                Ok(function())
            })
            .attempt(|| format!("start thread {name}"))
    }

    /// Number of the network namespace, as `/proc/PID/ns/net` shows it.
    pub(crate) fn network_number(&self) -> Result<u64> {
        Ok(self.0.net.metadata().attempt(|| format!("look at namespace {}", self.name()))?.ino())
    }

    /// Index of an interface inside.
    pub fn ifindex(&self, interface: &str) -> Result<u32> {
        self.run(|| nix::net::if_::if_nametoindex(interface))?
            .attempt(|| format!("look up interface {interface} in {}", self.name()))
    }

    /// The MAC address of an interface inside, as `02:00:00:00:00:01`.
    pub fn mac(&self, interface: &str) -> Result<String> {
        Ok(self.shell(&format!("cat /sys/class/net/{interface}/address"))?.trim().to_owned())
    }

    /// One counter of `/sys/class/net/INTERFACE/statistics`, such as `tx_packets`.
    pub fn statistic(&self, interface: &str, counter: &str) -> Result<u64> {
        let path = PathBuf::from(format!("/sys/class/net/{interface}/statistics/{counter}"));
        let text = self
            .run(|| std::fs::read_to_string(&path))?
            .attempt(|| format!("read {} in {}", path.display(), self.name()))?;
        text.trim().parse().map_err(|error| BedError::Io {
            what: format!("parse {}", path.display()),
            source: io::Error::new(io::ErrorKind::InvalidData, error),
        })
    }

    /// Waits until every interface that has a carrier also carries packets. Until the kernel's link watch has run, a new
    /// interface drops what it should send.
    pub(crate) fn wait_until_up(&self, patience: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let waiting = self.run(waiting_interfaces)?.attempt(|| format!("list interfaces in {}", self.name()))?;
            if waiting.is_empty() {
                // The link watch works under the lock that this takes: it is through when this returns.
                return self.ip("link set lo up\n");
            }
            if start.elapsed() > patience {
                let what = format!("interfaces of {} come up", self.name());
                let last = format!("waiting for {}", waiting.join(", "));
                return Err(BedError::Timeout { what, seconds: patience.as_secs_f64(), last });
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn batch(&self, program: &str, lines: &str) -> Result<()> {
        let mut child = self
            .command(program)
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .attempt(|| format!("start {program} in {}", self.name()))?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // A write error means that the program ended early; its output says why.
        let written = stdin.write_all(lines.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().attempt(|| format!("wait for {program}"))?;
        let output = self.checked(output, &format!("{program} -batch: {}", lines.trim()))?;
        written.attempt(|| format!("write to {program} in {}", self.name()))?;
        drop(output);
        Ok(())
    }

    fn checked(&self, output: Output, command: &str) -> Result<Output> {
        if output.status.success() {
            return Ok(output);
        }
        let text = [&output.stderr[..], &output.stdout[..]].concat();
        Err(BedError::Command {
            namespace: self.name().into(),
            command: command.into(),
            output: format!("{}: {}", output.status, String::from_utf8_lossy(&text).trim()),
        })
    }
}

impl Inner {
    /// Moves the calling process into the namespaces; its working directory becomes `/`.
    fn enter(&self) -> io::Result<()> {
        set_namespace(&self.net, libc::CLONE_NEWNET)?;
        set_namespace(&self.mount, libc::CLONE_NEWNS)
    }

    /// Moves the calling thread alone into the namespaces.
    fn enter_thread(&self) -> io::Result<()> {
        // SAFETY: unshare takes no pointers. The thread gets file system attributes of its own, as setns asks for.
        if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
            return Err(io::Error::last_os_error());
        }
        self.enter()
    }
}

/// Interfaces of the calling thread's namespace that aren't operational yet.
fn waiting_interfaces() -> io::Result<Vec<String>> {
    let mut waiting = Vec::new();
    for entry in std::fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        // The carrier of an interface that is down can't be read; the loopback's state is unknown.
        if read("carrier").trim() == "1" && !matches!(read("operstate").trim(), "up" | "unknown") {
            waiting.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(waiting)
}

fn set_namespace(file: &File, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: setns takes no pointers; the descriptor is open for as long as `file` lives.
    if unsafe { libc::setns(file.as_raw_fd(), kind) } != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

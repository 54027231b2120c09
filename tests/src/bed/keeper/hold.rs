//! The process that holds one namespace: it makes it, mounts what belongs into it, and sleeps.

use std::io::Write;
use std::os::unix::process::parent_id;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::bed::error::{Attempt, BedError, Result};

/// What a namespace is for, hence what is mounted in it. Each has a sysfs of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A host, a provider, a place for lines.
    Plain,
    /// A gateway: its own `/run`, with `/run/wireguard`, and its own bpffs at `/sys/fs/bpf`.
    Site,
}

impl Kind {
    /// As an argument of the holder.
    pub(crate) const fn argument(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Site => "site",
        }
    }
}

/// Makes the namespaces, says `ready` on standard output and sleeps until its parent dies or it is killed.
pub(super) fn hold(name: &str, kind: &str) -> Result<()> {
    let parent = parent_id();
    prctl::set_pdeathsig(Signal::SIGKILL).attempt(|| "ask for the parent's death signal".into())?;
    if parent_id() != parent {
        return Err(BedError::Keeper("it died before its holder was ready".into()));
    }
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).attempt(|| format!("make namespace {name}"))?;
    let none: Option<&str> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).attempt(|| "make mounts private".into())?;
    mount_new("sysfs", "/sys", None)?;
    if kind == Kind::Site.argument() {
        mount_new("bpf", "/sys/fs/bpf", Some("mode=0700"))?;
        mount_new("tmpfs", "/run", Some("mode=0755,size=64m"))?;
        if !Path::new("/var/run").is_symlink() {
            mount_new("tmpfs", "/var/run", Some("mode=0755,size=64m"))?;
        }
        for directory in ["/run/wireguard", "/var/run/wireguard"] {
            std::fs::create_dir_all(directory).attempt(|| format!("create {directory}"))?;
        }
    }
    let mut stdout = std::io::stdout();
    stdout.write_all(b"ready\n").and_then(|()| stdout.flush()).attempt(|| "tell the keeper".into())?;
    loop {
        nix::unistd::pause();
    }
}

fn mount_new(kind: &str, target: &str, options: Option<&str>) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(kind), target, Some(kind), flags, options).attempt(|| format!("mount {kind} on {target}"))
}

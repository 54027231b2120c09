//! The disk of a machine: the distribution's own packages, put together by its own tool, with the modules of a kernel.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::fetch::{entries, fresh_directory, text_of};
use crate::progress::{run, step};
use crate::vm::{self, Kernel};

/// What a small installation has beside what is essential, and what the checks look with.
const PACKAGES: &str = "systemd-sysv,dbus,udev,kmod,iproute2,iputils-ping,procps,sqlite3";
const SIZE: &str = "3G";
const AGENT: &str = include_str!("agent.sh");
const AGENT_UNIT: &str = include_str!("agent.service");
const AGENT_PATH: &str = "usr/local/sbin/host-agent";
const AGENT_UNIT_PATH: &str = "etc/systemd/system/host-agent.service";

/// The disk with the system of this machine's own release, for a kernel; made unless the cache has it.
///
/// # Errors
/// When packages can't be fetched, or a program is missing or fails.
pub fn system(kernel: &Kernel) -> Result<PathBuf> {
    let release = codename()?;
    let mut hasher = DefaultHasher::new();
    (PACKAGES, SIZE, AGENT, AGENT_UNIT, include_str!("disk.rs"), &release).hash(&mut hasher);
    let place = vm::cache()?.join("systems");
    let name = format!("{release}-{}", kernel.release);
    let disk = place.join(format!("{name}-{:016x}.ext4", hasher.finish()));
    if disk.is_file() {
        return Ok(disk);
    }
    fs::create_dir_all(&place).with_context(|| format!("can't make {}", place.display()))?;
    let root = fresh_directory(&place.join(&name))?;
    let made = fill(&root, &base(&release, &place)?, kernel).and_then(|()| from_directory(&root, &disk, SIZE));
    fs::remove_dir_all(&root).with_context(|| format!("can't remove {}", root.display()))?;
    made?;
    // Disks that were made another way before.
    for old in entries(&place)?.into_iter().filter(|path| path != &disk) {
        let old_name = old.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if old_name.starts_with(&name) && old_name.ends_with(".ext4") {
            fs::remove_file(&old).with_context(|| format!("can't remove {}", old.display()))?;
        }
    }
    Ok(disk)
}

/// A file system with what is in a directory, in a file of its own.
///
/// # Errors
/// When `mke2fs` is missing or fails.
pub fn from_directory(directory: &Path, disk: &Path, size: &str) -> Result<()> {
    let fresh = disk.with_extension(format!("{}.new", std::process::id()));
    run(Command::new(vm::tool("mke2fs")?).args(["-q", "-t", "ext4", "-d"]).arg(directory).arg(&fresh).arg(size))?;
    fs::rename(&fresh, disk).with_context(|| format!("can't rename {}", fresh.display()))
}

/// The name of this machine's own release, as the distribution's archive has it.
fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("can't read /etc/os-release")?;
    let found = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(found.context("/etc/os-release has no VERSION_CODENAME")?.trim_matches('"').to_owned())
}

/// All packages of a small installation, as an archive that is kept.
fn base(release: &str, place: &Path) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    PACKAGES.hash(&mut hasher);
    let archive = place.join(format!("{release}-{:016x}.tar", hasher.finish()));
    if !archive.is_file() {
        step(&format!("fetching the packages of a {release} system (some minutes, once)"));
        let fresh = archive.with_extension(format!("{}.new.tar", std::process::id()));
        let mut command = Command::new("mmdebstrap");
        command.args(["--variant=minbase", "--mode=root", &format!("--include={PACKAGES}"), release]).arg(&fresh);
        run(&mut command).context("a system's packages can't be put together: it takes root and the archive")?;
        fs::rename(&fresh, &archive).with_context(|| format!("can't rename {}", fresh.display()))?;
    }
    Ok(archive)
}

fn fill(root: &Path, base: &Path, kernel: &Kernel) -> Result<()> {
    step(&format!("making the disk of a system with Linux {}", kernel.release));
    // Its device nodes come from the kernel.
    run(Command::new("tar").args(["--extract", "--exclude=./dev/*", "--file"]).arg(base).arg("--directory").arg(root))?;
    let modules = Path::new("lib/modules").join(&kernel.release);
    let to = root.join("usr/lib/modules");
    fs::create_dir_all(&to).with_context(|| format!("can't make {}", to.display()))?;
    run(Command::new("cp").arg("--archive").arg(kernel.package.join(&modules)).arg(&to))?;
    run(Command::new(vm::tool("depmod")?).arg("--basedir").arg(root).arg(&kernel.release))?;
    let write = |path: &str, text: &str, mode: u32| {
        let path = root.join(path);
        fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
        fs::set_permissions(&path, PermissionsExt::from_mode(mode))
            .with_context(|| format!("can't change {}", path.display()))
    };
    write(AGENT_PATH, AGENT, 0o755)?;
    write(AGENT_UNIT_PATH, AGENT_UNIT, 0o644)?;
    write("etc/machine-id", "uninitialized\n", 0o444)?;
    write("etc/hostname", "gateway\n", 0o644)?;
    let wanted = root.join("etc/systemd/system/multi-user.target.wants/host-agent.service");
    symlink("../host-agent.service", &wanted).with_context(|| format!("can't make {}", wanted.display()))
}

/// Modules that reach a disk, with what they need, in the order in which they are loaded.
///
/// # Errors
/// When `modprobe` doesn't know them.
pub fn modules_of_disks(kernel: &Kernel) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for module in ["virtio_pci", "virtio_blk", "ext4"] {
        let mut command = Command::new(vm::tool("modprobe")?);
        command.args(["--show-depends", "--set-version", &kernel.release, "--dirname"]).arg(&kernel.package);
        let shown = text_of(command.arg(module))?;
        // What is built in isn't to be loaded.
        for path in shown.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            let path = PathBuf::from(path.trim());
            if !files.contains(&path) {
                files.push(path);
            }
        }
    }
    Ok(files)
}

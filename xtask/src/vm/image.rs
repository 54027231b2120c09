//! The initial file system: programs of this machine with their libraries, kernel modules, an init script.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use super::kernel::Kernel;
use crate::progress::step;

/// Programs that tests and operators call; the distribution's own, for their options differ from busybox's.
const TOOLS: [&str; 90] = [
    // Networking.
    "ip",
    "tc",
    "ss",
    "bridge",
    "bpftool",
    "wg",
    "nft",
    "tcpdump",
    "iperf3",
    "ping",
    "irtt",
    "traceroute",
    // System.
    "mount",
    "umount",
    "mountpoint",
    "nsenter",
    "unshare",
    "setpriv",
    "setsid",
    "dmesg",
    "sysctl",
    "modprobe",
    "lsmod",
    "insmod",
    "rmmod",
    "hostname",
    "uname",
    "stty",
    "sync",
    "ps",
    "pgrep",
    "kill",
    "taskset",
    "nice",
    "chrt",
    "free",
    "uptime",
    "findmnt",
    "flock",
    "strace",
    // Shells and text.
    "sh",
    "bash",
    "env",
    "cat",
    "ls",
    "cp",
    "mv",
    "rm",
    "ln",
    "mkdir",
    "rmdir",
    "touch",
    "chmod",
    "chown",
    "stat",
    "readlink",
    "realpath",
    "basename",
    "dirname",
    "pwd",
    "test",
    "[",
    "true",
    "false",
    "echo",
    "printf",
    "sleep",
    "timeout",
    "date",
    "seq",
    "id",
    "head",
    "tail",
    "cut",
    "sort",
    "uniq",
    "wc",
    "tr",
    "tee",
    "grep",
    "sed",
    "awk",
    "xargs",
    "find",
    "od",
    "xxd",
    "dd",
    "df",
    "mktemp",
    "md5sum",
];
/// Programs that are convenient but not everywhere.
const OPTIONAL: [&str; 4] = ["strace", "xxd", "traceroute", "irtt"];
/// Files and directories that programs read.
const DATA: [&str; 8] = [
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/etc/protocols",
    "/etc/services",
    "/etc/nsswitch.conf",
    "/etc/iproute2",
    "/usr/lib/tc",
];
const INIT: &str = include_str!("init.sh");

/// The image of a kernel without test programs, made unless the cache has it.
///
/// # Errors
/// When a program is missing or something can't be read or written.
pub fn base(kernel: &Kernel, cache: &Path) -> Result<PathBuf> {
    let files = files()?;
    let images = cache.join("images");
    let image = images.join(format!("{}-{:016x}.cpio", kernel.release, fingerprint(kernel, &files)?));
    if image.is_file() {
        return Ok(image);
    }
    step(&format!("building the image for Linux {}", kernel.release));
    fs::create_dir_all(&images).with_context(|| format!("can't create {}", images.display()))?;
    let fresh = image.with_extension(format!("{}.new", std::process::id()));
    let mut archive = Archive::create(&fresh)?;
    for (link, target) in [("/bin", "usr/bin"), ("/sbin", "usr/sbin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64")] {
        archive.link(Path::new(link), Path::new(target))?;
    }
    for directory in ["/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/etc", "/var/lib", "/sdwan", "/usr/local/bin"]
    {
        archive.directory(Path::new(directory))?;
    }
    archive.link(Path::new("/var/run"), Path::new("/run"))?;
    archive.link(Path::new("/etc/mtab"), Path::new("/proc/self/mounts"))?;
    // The kernel opens it for the first process, before anything is mounted.
    archive.device(Path::new("/dev/console"), 5, 1)?;
    archive.device(Path::new("/dev/null"), 1, 3)?;
    archive.bytes(Path::new("/init"), 0o755, INIT.as_bytes())?;
    for file in &files {
        archive.file(file, file)?;
    }
    for data in DATA.map(Path::new) {
        if data.is_dir() {
            archive.tree(data, data)?;
        } else if data.is_file() {
            archive.file(data, data)?;
        }
    }
    archive.tree(Path::new("/lib/modules"), &kernel.modules.join("lib/modules"))?;
    archive.finish()?;
    fs::rename(&fresh, &image).with_context(|| format!("can't rename {}", fresh.display()))?;
    forget_others(&images, &kernel.release, &image)?;
    Ok(image)
}

/// The libraries of a program, and its loader.
///
/// # Errors
/// When `ldd` can't be run, or one of the libraries isn't found.
pub fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("can't start ldd")?;
    if !output.status.success() {
        // A script or a static program: ldd complains, and nothing is needed.
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if let Some(missing) = text.lines().find(|line| line.ends_with("not found")) {
        bail!("{}: {}", program.display(), missing.trim());
    }
    Ok(library_paths(&text).into_iter().map(|path| without_directory_links(&path)).collect())
}

fn library_paths(ldd: &str) -> Vec<PathBuf> {
    let paths = ldd.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    paths.map(PathBuf::from).collect()
}

/// All programs and libraries, by the path that they have on this machine.
fn files() -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for name in TOOLS {
        let program = match super::tool(name) {
            Ok(program) => program,
            Err(_) if OPTIONAL.contains(&name) => continue,
            Err(error) => return Err(error),
        };
        files.extend(libraries(&program)?);
        files.insert(program);
    }
    Ok(files)
}

/// `/usr/lib/x` for `/lib/x` where `/lib` is a link. The name of the file itself stays: it is what programs ask for.
pub fn without_directory_links(path: &Path) -> PathBuf {
    let directory = path.parent().and_then(|parent| parent.canonicalize().ok());
    match (directory, path.file_name()) {
        (Some(directory), Some(name)) => directory.join(name),
        _ => path.to_owned(),
    }
}

/// A number that changes with whatever the image is made of.
fn fingerprint(kernel: &Kernel, files: &BTreeSet<PathBuf>) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    // Changes of what this module does count, too.
    (INIT, include_str!("image.rs"), include_str!("cpio.rs"), &kernel.modules).hash(&mut hasher);
    stamp(&kernel.vmlinux)?.hash(&mut hasher);
    for file in files {
        (file, stamp(file)?).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// Size and time of the last change of a file.
///
/// # Errors
/// When there is no such file.
pub fn stamp(path: &Path) -> Result<(u64, Option<SystemTime>)> {
    let metadata = fs::metadata(path).with_context(|| format!("can't look at {}", path.display()))?;
    Ok((metadata.len(), metadata.modified().ok()))
}

/// Removes older images of the same kernel.
fn forget_others(images: &Path, release: &str, kept: &Path) -> Result<()> {
    for entry in fs::read_dir(images).with_context(|| format!("can't read {}", images.display()))? {
        let path = entry.with_context(|| format!("can't read {}", images.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path != kept && name.starts_with(&format!("{release}-")) && name.ends_with(".cpio") {
            // Another run may use it right now; it keeps the file open.
            fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_taken_and_the_kernels_own_is_not() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let paths = library_paths(text);
        assert_eq!(paths, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from));
    }
}

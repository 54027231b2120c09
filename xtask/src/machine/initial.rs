//! The initial file system, which finds the disk.

use std::path::Path;

use anyhow::{Context, Result};

use super::disk;
use crate::vm::cpio::Archive;
use crate::vm::image::libraries;
use crate::vm::{self, Kernel, RunDirectory};

const INIT: &str = include_str!("init.sh");
const TOOLS: [&str; 5] = ["sh", "mount", "umount", "insmod", "switch_root"];

/// Writes it to a file of the run.
///
/// # Errors
/// When a program is missing, or something can't be read or written.
pub fn write(kernel: &Kernel, directory: &RunDirectory, to: &Path) -> Result<()> {
    let mut archive = Archive::create(to)?;
    for (link, target) in [("/bin", "usr/bin"), ("/sbin", "usr/sbin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64")] {
        archive.link(Path::new(link), Path::new(target))?;
    }
    for place in ["/dev", "/proc", "/new"] {
        archive.directory(Path::new(place))?;
    }
    archive.device(Path::new("/dev/console"), 5, 1)?;
    for name in TOOLS {
        let program = vm::tool(name)?;
        for library in libraries(&program)? {
            archive.file(&library, &library)?;
        }
        archive.file(&program, &program)?;
    }
    let mut list = String::new();
    for module in disk::modules_of_disks(kernel)? {
        let name = module.file_name().context("a module without a name")?.to_string_lossy().into_owned();
        let (plain, program) = match name.rsplit_once(".ko.") {
            Some((stem, "xz")) => (format!("{stem}.ko"), Some("xz")),
            Some((stem, "zst")) => (format!("{stem}.ko"), Some("zstd")),
            _ => (name, None),
        };
        let unpacked = directory.file(&plain);
        let source = match program {
            Some(program) => {
                vm::decompress(program, &module, &unpacked)?;
                &unpacked
            }
            None => &module,
        };
        archive.file(&Path::new("/").join(&plain), source)?;
        list.push_str(&format!("/{plain}\n"));
    }
    archive.bytes(Path::new("/modules"), 0o644, list.as_bytes())?;
    archive.bytes(Path::new("/init"), 0o755, INIT.as_bytes())?;
    archive.finish().map(drop)
}

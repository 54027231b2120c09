//! The programs under test, as cargo builds them, in an archive of their own: it changes with every build.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::cpio::Archive;
use super::image;
use crate::cargo::{self, cargo, workspace};
use crate::progress::{run, step};

/// Where programs are found by name in the virtual machine; it is in the `PATH` there.
const DIRECTORY: &str = "/sdwan";

/// A program that cargo built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Name in the virtual machine: that of the binary or test; unit tests are `unit-PACKAGE`.
    pub name: String,
    /// Where cargo put it.
    pub path: PathBuf,
}

/// Builds all binaries and tests of user space and returns them.
///
/// # Errors
/// When the build fails.
pub fn build() -> Result<Vec<Program>> {
    build_with(&["--lib", "--bins", "--tests"])
}

/// Builds these binaries, optimized, and returns them.
///
/// # Errors
/// When the build fails.
pub fn build_optimized(binaries: &[&str]) -> Result<Vec<Program>> {
    let chosen: Vec<&str> = binaries.iter().flat_map(|binary| ["--bin", binary]).chain(["--release"]).collect();
    build_with(&chosen)
}

fn build_with(arguments: &[&str]) -> Result<Vec<Program>> {
    let mut command = cargo("build");
    command.args(cargo::USER_SPACE).args(arguments).args(["--message-format", "json-render-diagnostics"]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("can't start cargo")?;
    if !output.status.success() {
        bail!("the programs under test don't build: {}", output.status);
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

fn parse(messages: &str) -> Vec<Program> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = Vec::new();
    for message in messages.filter(|message| message["reason"] == "compiler-artifact") {
        let Some(path) = message["executable"].as_str() else { continue };
        let (kind, test) = (&message["target"]["kind"][0], message["profile"]["test"] == true);
        let name = message["target"]["name"].as_str().unwrap_or_default();
        let name = match kind.as_str() {
            Some("test") => name.to_owned(),
            Some("bin") if !test => name.to_owned(),
            Some("lib") if test => format!("unit-{name}"),
            // Unit tests of binaries: there is next to nothing in them, and the names would clash.
            _ => continue,
        };
        programs.push(Program { name, path: path.into() });
    }
    programs
}

/// An archive of the programs: at the path that they have here, since tests were told such paths when they were built,
/// and by name in a directory of the `PATH`.
///
/// # Errors
/// When something can't be read or written.
pub fn archive(programs: &[Program], cache: &Path, to: &Path) -> Result<()> {
    let mut archive = Archive::create(to)?;
    for program in programs {
        // This program is of no use in there.
        if program.name == "xtask" || program.name == "unit-xtask" {
            continue;
        }
        for library in image::libraries(&program.path)? {
            archive.file(&library, &library)?;
        }
        archive.file(&program.path, &stripped(&program.path, cache)?)?;
        archive.link(&Path::new(DIRECTORY).join(&program.name), &program.path)?;
    }
    let target = ebpf_build::Machine::HOST.target();
    let object = workspace().join("target/ebpf").join(target).join("release").join(ebpf_build::PACKAGE);
    archive.file(&object, &object)?;
    // Where tests run, and what they read of the repository.
    archive.directory(&workspace().join("tests"))?;
    archive.tree(&workspace().join("docs"), &workspace().join("docs"))?;
    archive.finish().map(drop)
}

/// A copy without debug information, which is most of a test program.
fn stripped(program: &Path, cache: &Path) -> Result<PathBuf> {
    let directory = cache.join("stripped");
    fs::create_dir_all(&directory).with_context(|| format!("can't create {}", directory.display()))?;
    let mut hasher = DefaultHasher::new();
    (program, image::stamp(program)?).hash(&mut hasher);
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let target = directory.join(format!("{name}-{:016x}", hasher.finish()));
    if !target.is_file() {
        let fresh = target.with_extension(format!("{}.new", std::process::id()));
        run(Command::new("strip").arg("--strip-debug").arg("-o").arg(&fresh).arg(program))?;
        fs::rename(&fresh, &target).with_context(|| format!("can't rename {}", fresh.display()))?;
    }
    Ok(target)
}

/// Removes stripped copies that belong to none of these programs as they are now.
///
/// # Errors
/// When one can't be removed.
pub fn forget_old(programs: &[Program], cache: &Path) -> Result<()> {
    let current = programs.iter().map(|program| stripped(&program.path, cache)).collect::<Result<Vec<_>>>()?;
    let directory = cache.join("stripped");
    let mut removed = 0;
    for entry in fs::read_dir(&directory).with_context(|| format!("can't read {}", directory.display()))? {
        let path = entry.with_context(|| format!("can't read {}", directory.display()))?.path();
        if !current.contains(&path) {
            match fs::remove_file(&path) {
                Ok(()) => removed += 1,
                // Another run of this program does the same at this moment.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("can't remove {}", path.display())),
            }
        }
    }
    if removed > 0 {
        step(&format!("removed {removed} outdated copies of programs"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_binaries_and_unit_tests_are_told_apart() {
        let artifact = |name: &str, kind: &str, test: bool, path: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"{name}","kind":["{kind}"]}},"profile":{{"test":{test}}},"executable":"{path}"}}"#
            )
        };
        let lines = [
            artifact("mesh", "test", true, "/t/mesh-1"),
            artifact("sdwan", "bin", false, "/t/sdwan"),
            artifact("sdwan", "bin", true, "/t/sdwan-2"),
            artifact("sdwan", "lib", true, "/t/sdwan-3"),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let names: Vec<_> = parse(&lines.join("\n")).into_iter().map(|program| program.name).collect();
        assert_eq!(names, ["mesh", "sdwan", "unit-sdwan"]);
    }
}

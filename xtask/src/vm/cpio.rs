//! Archives in the format of an initial file system: cpio "newc", as in the kernel's `buffer-format.rst`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;
/// The kernel's own limit for a name.
const MOST_NAME: usize = 4_096;

/// An archive that is being written. Parent directories come by themselves; what is added twice is written once.
pub struct Archive<W: Write> {
    to: W,
    written: u64,
    number: u32,
    seen: BTreeSet<PathBuf>,
    /// Symbolic links to directories, to write what lies behind them where they lead.
    links: Vec<(PathBuf, PathBuf)>,
}

impl Archive<BufWriter<File>> {
    /// An archive in a new file.
    ///
    /// # Errors
    /// When the file can't be created.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("can't create {}", path.display()))?;
        Ok(Self::new(BufWriter::with_capacity(1 << 20, file)))
    }
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(to: W) -> Self {
        Self { to, written: 0, number: 0, seen: BTreeSet::new(), links: Vec::new() }
    }

    /// Adds a directory and those above it.
    ///
    /// # Errors
    /// When the archive can't be written.
    pub fn directory(&mut self, path: &Path) -> Result<()> {
        let path = self.place(path)?;
        if path.as_os_str().is_empty() || !self.seen.insert(path.clone()) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.entry(&path, DIRECTORY | 0o755, [0, 0], 0, &mut io::empty())
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// When the archive can't be written.
    pub fn link(&mut self, path: &Path, target: &Path) -> Result<()> {
        let Some(path) = self.new_place(path)? else { return Ok(()) };
        let resolved = path.parent().unwrap_or(Path::new("")).join(target);
        let text = target.as_os_str().as_encoded_bytes();
        self.entry(&path, SYMLINK | 0o777, [0, 0], text.len() as u64, &mut &*text)?;
        self.links.push((path, resolved));
        Ok(())
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// When the archive can't be written.
    pub fn device(&mut self, path: &Path, major: u32, minor: u32) -> Result<()> {
        let Some(path) = self.new_place(path)? else { return Ok(()) };
        self.entry(&path, CHARACTER | 0o600, [major, minor], 0, &mut io::empty())
    }

    /// Adds a file with this content.
    ///
    /// # Errors
    /// When the archive can't be written.
    pub fn bytes(&mut self, path: &Path, permissions: u32, content: &[u8]) -> Result<()> {
        let Some(path) = self.new_place(path)? else { return Ok(()) };
        self.entry(&path, REGULAR | permissions, [0, 0], content.len() as u64, &mut &*content)
    }

    /// Adds a copy of a file, with its permissions; of the file that it leads to where it is a symbolic link.
    ///
    /// # Errors
    /// When the file can't be read or the archive can't be written.
    pub fn file(&mut self, path: &Path, from: &Path) -> Result<()> {
        let Some(path) = self.new_place(path)? else { return Ok(()) };
        let mut file = File::open(from).with_context(|| format!("can't open {}", from.display()))?;
        let metadata = file.metadata().with_context(|| format!("can't look at {}", from.display()))?;
        let mode = REGULAR | metadata.permissions().mode() & 0o777;
        self.entry(&path, mode, [0, 0], metadata.size(), &mut file)
            .with_context(|| format!("copying {}", from.display()))
    }

    /// Adds everything below a directory of this machine.
    ///
    /// # Errors
    /// When something can't be read or the archive can't be written.
    pub fn tree(&mut self, path: &Path, from: &Path) -> Result<()> {
        self.directory(path)?;
        let unreadable = || format!("can't read {}", from.display());
        for entry in fs::read_dir(from).with_context(unreadable)? {
            let entry = entry.with_context(unreadable)?;
            let (inside, outside) = (path.join(entry.file_name()), entry.path());
            if fs::metadata(&outside).with_context(unreadable)?.is_dir() {
                self.tree(&inside, &outside)?;
            } else {
                self.file(&inside, &outside)?;
            }
        }
        Ok(())
    }

    /// Ends the archive; returns what it was written to.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn finish(mut self) -> Result<W> {
        self.entry(Path::new("TRAILER!!!"), 0, [0, 0], 0, &mut io::empty())?;
        self.to.flush().context("writing an archive")?;
        Ok(self.to)
    }

    /// Where something goes that isn't there yet; its directory is added first.
    fn new_place(&mut self, path: &Path) -> Result<Option<PathBuf>> {
        let path = self.place(path)?;
        if self.seen.contains(&path) {
            return Ok(None);
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.seen.insert(path.clone());
        Ok(Some(path))
    }

    /// A path without its leading slash and with known links followed.
    fn place(&self, path: &Path) -> Result<PathBuf> {
        let mut place = PathBuf::new();
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => {
                    place.push(name);
                    if let Some((_, target)) = self.links.iter().find(|(link, _)| *link == place) {
                        place.clone_from(target);
                    }
                }
                Component::ParentDir | Component::Prefix(_) => bail!("{} is no place in an archive", path.display()),
            }
        }
        Ok(place)
    }

    fn entry(
        &mut self,
        path: &Path,
        mode: u32,
        [major, minor]: [u32; 2],
        size: u64,
        content: &mut dyn io::Read,
    ) -> Result<()> {
        let name = path.as_os_str().as_encoded_bytes();
        if name.len() >= MOST_NAME || size > u64::from(u32::MAX) {
            bail!("{} doesn't fit an archive", path.display());
        }
        self.number += 1;
        // Magic, inode, mode, user, group, links, modification time, size, device of the file, device number, length of
        // the name with its end, checksum.
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{major:08x}{minor:08x}{:08x}{:08x}",
            self.number,
            0,
            0,
            1,
            0,
            0,
            0,
            name.len() + 1,
            0
        );
        let failed = "writing an archive";
        self.to.write_all(header.as_bytes()).context(failed)?;
        self.to.write_all(name).context(failed)?;
        self.to.write_all(&[0]).context(failed)?;
        self.written += (header.len() + name.len() + 1) as u64;
        self.pad().context(failed)?;
        let copied = io::copy(content, &mut self.to).context(failed)?;
        if copied != size {
            bail!("{} changed while it was read", path.display());
        }
        self.written += copied;
        self.pad().context(failed)
    }

    /// Fills up to a multiple of four bytes.
    fn pad(&mut self) -> io::Result<()> {
        let missing = (4 - self.written % 4) % 4;
        self.written += missing;
        self.to.write_all(&[0; 3][..missing as usize])
    }
}

#[cfg(test)]
mod tests;

//! Writes a Debian package: an `ar` archive of `debian-binary`, `control.tar.gz` and `data.tar.gz` (deb(5)). Equal content
//! gives equal bytes.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest, Md5};

/// A file of the package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is installed, without the slash at the beginning.
    pub path: String,
    /// Its mode.
    pub mode: u32,
    /// What is in it; none: an empty directory.
    pub content: Option<Vec<u8>>,
}

impl Entry {
    /// A file of mode 0644.
    pub fn file(path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode: 0o644, content: Some(content.into()) }
    }

    /// A file of mode 0755.
    pub fn program(path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Self { mode: 0o755, ..Self::file(path, content) }
    }

    /// A directory that is there even when nothing is in it.
    pub fn directory(path: impl Into<String>, mode: u32) -> Self {
        Self { path: path.into(), mode, content: None }
    }
}

/// A package.
pub struct Package {
    /// Fields of its control file; `Installed-Size` is added.
    pub control: Vec<(&'static str, String)>,
    /// Scripts of its maintainer, by name.
    pub scripts: Vec<(&'static str, String)>,
    /// Files that are the operator's to change.
    pub conffiles: Vec<String>,
    /// What it installs.
    pub files: Vec<Entry>,
    /// Modification time of everything in it, Unix time in seconds.
    pub time_unix_s: u64,
}

impl Package {
    /// Writes it to a file, which appears whole or not at all.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let bytes = self.bytes().with_context(|| format!("can't make {}", file.display()))?;
        let early = file.with_extension("deb.new");
        std::fs::write(&early, bytes).with_context(|| format!("can't write {}", early.display()))?;
        std::fs::rename(&early, file).with_context(|| format!("can't write {}", file.display()))
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let (control, data) = (self.control_archive()?, self.archive(&self.files)?);
        let mut archive = ar::Builder::new(Vec::new());
        for (name, content) in [("debian-binary", &b"2.0\n"[..]), ("control.tar.gz", &control), ("data.tar.gz", &data)]
        {
            let mut header = ar::Header::new(name.into(), content.len() as u64);
            header.set_mode(0o100_644);
            header.set_mtime(self.time_unix_s);
            archive.append(&header, content)?;
        }
        Ok(archive.into_inner()?)
    }

    fn control_archive(&self) -> Result<Vec<u8>> {
        let size: usize = self.files.iter().filter_map(|file| file.content.as_ref()).map(Vec::len).sum();
        let mut text = String::new();
        for (name, value) in &self.control {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text.push_str(&format!("Installed-Size: {}\n", size.div_ceil(1_024)));
        let mut sums = String::new();
        for file in &self.files {
            if let Some(content) = &file.content {
                sums.push_str(&format!("{}  {}\n", hex::encode(Md5::digest(content)), file.path));
            }
        }
        let mut entries = vec![Entry::file("control", text), Entry::file("md5sums", sums)];
        if !self.conffiles.is_empty() {
            let lines: String = self.conffiles.iter().map(|path| format!("/{path}\n")).collect();
            entries.push(Entry::file("conffiles", lines));
        }
        entries.extend(self.scripts.iter().map(|(name, script)| Entry::program(*name, script.as_bytes())));
        self.archive(&entries)
    }

    /// A compressed archive, with every directory before what is in it.
    fn archive(&self, entries: &[Entry]) -> Result<Vec<u8>> {
        let encoder = GzEncoder::new(Vec::new(), Compression::best());
        let mut archive = tar::Builder::new(encoder);
        let mut directories = BTreeSet::new();
        let explicit: BTreeSet<&str> =
            entries.iter().filter(|entry| entry.content.is_none()).map(|entry| entry.path.as_str()).collect();
        self.append(&mut archive, "./", 0o755, None)?;
        for entry in entries {
            let above = entry.path.match_indices('/').map(|(end, _)| &entry.path[..end]);
            for directory in above.filter(|directory| !explicit.contains(directory)) {
                if directories.insert(directory.to_owned()) {
                    self.append(&mut archive, &format!("./{directory}/"), 0o755, None)?;
                }
            }
            let slash = if entry.content.is_some() { "" } else { "/" };
            self.append(&mut archive, &format!("./{}{slash}", entry.path), entry.mode, entry.content.as_deref())?;
        }
        Ok(archive.into_inner()?.finish()?)
    }

    fn append(
        &self,
        archive: &mut tar::Builder<impl Write>,
        path: &str,
        mode: u32,
        content: Option<&[u8]>,
    ) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        // As it is: the library would leave out the "./" that dpkg expects.
        let name = header.as_old_mut();
        anyhow::ensure!(path.len() < name.name.len(), "{path} is too long a name");
        name.name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_username("root")?;
        header.set_groupname("root")?;
        header.set_mtime(self.time_unix_s);
        header.set_entry_type(if content.is_some() { tar::EntryType::Regular } else { tar::EntryType::Directory });
        header.set_size(content.map_or(0, |content| content.len() as u64));
        header.set_cksum();
        archive.append(&header, content.unwrap_or_default())?;
        Ok(())
    }
}

//! Kernel settings that a gateway needs, and putting them back.
//!
//! Before a setting is changed, its former value goes into a file in the state directory, and that file reaches the
//! disk first. The first remembered value wins: a daemon that crashed and started again doesn't take its own values
//! for the operator's. At the end a setting is put back only if it still has the value that we gave it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;

/// Where the kernel shows its settings. It shows those of the network namespace of the thread that looks.
const ROOT: &str = "/proc/sys";
/// Name of the file with the former values.
pub(crate) const FILE: &str = "sysctl.json";

/// A setting that should have a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Path below `/proc/sys`, such as `net/ipv4/ip_forward`.
    pub path: String,
    /// The value.
    pub value: &'static str,
    /// Change it only if it has this value now.
    pub only_from: Option<&'static str>,
}

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Path below `/proc/sys`.
    pub path: String,
    /// Value before.
    pub from: String,
    /// Value now.
    pub to: String,
}

/// What applying did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Settings that were changed.
    pub changed: Vec<Change>,
    /// Settings that this kernel doesn't have: no IPv6, or the interface is gone.
    pub missing: Vec<String>,
}

/// A value that we changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Remembered {
    /// The operator's value.
    former: String,
    /// Ours.
    ours: String,
}

/// Changes kernel settings and remembers what they were.
pub struct Sysctl {
    root: PathBuf,
    file: PathBuf,
}

/// The settings that a gateway needs: forwarding, loose reverse path filters where asymmetric routing is the normal
/// case, and router advertisements still accepted on uplinks that live by them.
pub fn needed_settings<'a>(
    uplinks: impl IntoIterator<Item = &'a str>,
    tunnels: impl IntoIterator<Item = &'a str>,
) -> Vec<Setting> {
    let set = |path: String, value| Setting { path, value, only_from: None };
    let mut settings = Vec::new();
    for uplink in uplinks {
        // An interface stops accepting advertisements when forwarding is switched on, unless told twice.
        let path = format!("net/ipv6/conf/{uplink}/accept_ra");
        settings.push(Setting { path, value: "2", only_from: Some("1") });
        // The strictest of this and `all` holds, and 2 is the largest: loose, whatever `all` says.
        settings.push(set(format!("net/ipv4/conf/{uplink}/rp_filter"), "2"));
        settings.push(set(format!("net/ipv4/conf/{uplink}/src_valid_mark"), "1"));
    }
    for tunnel in tunnels {
        settings.push(set(format!("net/ipv4/conf/{tunnel}/rp_filter"), "2"));
    }
    settings.push(set("net/ipv4/ip_forward".into(), "1"));
    settings.push(set("net/ipv6/conf/all/forwarding".into(), "1"));
    settings
}

impl Sysctl {
    /// Remembers former values in `state_directory`.
    pub fn new(state_directory: &Path) -> Self {
        Self { root: ROOT.into(), file: state_directory.join(FILE) }
    }

    /// Gives the settings their values, and tells what it changed. Settings of interfaces of ours (tunnels) need no
    /// remembering but do no harm: at the end they are gone.
    pub fn apply(&self, settings: &[Setting]) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        let mut remembered = self.load()?;
        let changes = self.differences(settings, &mut applied.missing)?;
        if changes.is_empty() {
            return Ok(applied);
        }
        for (setting, value) in &changes {
            for (path, former) in self.companions(&setting.path) {
                remembered.entry(path).or_insert(Remembered { former, ours: setting.value.into() });
            }
            let memory = Remembered { former: value.clone(), ours: setting.value.into() };
            remembered.entry(setting.path.clone()).or_insert(memory).ours = setting.value.into();
        }
        self.store(&remembered)?;
        for (setting, from) in changes {
            match self.write(&setting.path, setting.value) {
                Ok(()) => {
                    let (path, to) = (setting.path.clone(), setting.value.to_owned());
                    applied.changed.push(Change { path, from, to });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => applied.missing.push(setting.path.clone()),
                Err(source) => return Err(self.error("write", &setting.path, source)),
            }
        }
        Ok(applied)
    }

    /// What [`Self::apply`] would change now.
    pub fn pending(&self, settings: &[Setting]) -> Result<Vec<Change>, Error> {
        let differences = self.differences(settings, &mut Vec::new())?;
        let change = |(setting, from): (&Setting, String)| Change {
            path: setting.path.clone(),
            from,
            to: setting.value.to_owned(),
        };
        Ok(differences.into_iter().map(change).collect())
    }

    /// Settings that don't have their values, with what they have.
    fn differences<'a>(
        &self,
        settings: &'a [Setting],
        missing: &mut Vec<String>,
    ) -> Result<Vec<(&'a Setting, String)>, Error> {
        let mut differences = Vec::new();
        for setting in settings {
            match self.read(&setting.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(setting.path.clone()),
                Err(source) => return Err(self.error("read", &setting.path, source)),
                Ok(value) if value == setting.value => {}
                Ok(value) if setting.only_from.is_some_and(|from| from != value) => {}
                Ok(value) => differences.push((setting, value)),
            }
        }
        Ok(differences)
    }

    /// Puts the former values back and forgets them. A setting that somebody changed after us stays as it is.
    pub fn restore(&self) -> Result<Vec<Change>, Error> {
        let remembered = self.load()?;
        let mut changed = Vec::new();
        let mut put_back = Vec::new();
        for (path, memory) in &remembered {
            match self.read(path) {
                Ok(value) if value == memory.ours || is_companion(path) => put_back.push((path, memory, value)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(self.error("read", path, source)),
            }
        }
        // Those that change others along with them first.
        put_back.sort_by_key(|(path, ..)| follower_pattern(path).is_none());
        for (path, memory, from) in put_back {
            match self.write(path, &memory.former) {
                Ok(()) if from == memory.former => {}
                Ok(()) => changed.push(Change { path: path.clone(), from, to: memory.former.clone() }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(self.error("write", path, source)),
            }
        }
        match fs::remove_file(&self.file) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::File { action: "remove", path: self.file.clone(), source })
            }
            _ => Ok(changed),
        }
    }

    /// Settings per interface that the kernel overwrites when this one is written, with their values.
    fn companions(&self, path: &str) -> Vec<(String, String)> {
        let Some((directory, name)) = follower_pattern(path) else { return Vec::new() };
        let Ok(interfaces) = fs::read_dir(self.root.join(directory)) else { return Vec::new() };
        let paths = interfaces.flatten().filter_map(|entry| {
            let interface = entry.file_name().into_string().ok()?;
            Some(format!("{directory}/{interface}/{name}")).filter(|companion| companion != path)
        });
        paths.filter_map(|companion| self.read(&companion).ok().map(|value| (companion, value))).collect()
    }

    fn read(&self, path: &str) -> io::Result<String> {
        fs::read_to_string(self.root.join(path)).map(|text| text.trim().to_owned())
    }

    fn write(&self, path: &str, value: &str) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).truncate(true).open(self.root.join(path))?;
        file.write_all(value.as_bytes())
    }

    fn error(&self, action: &'static str, path: &str, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::PermissionDenied => Error::Permission { action: format!("{action} {ROOT}/{path}") },
            _ => Error::File { action, path: self.root.join(path), source },
        }
    }

    fn load(&self) -> Result<BTreeMap<String, Remembered>, Error> {
        match fs::read(&self.file) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| Error::Damaged { path: self.file.clone(), source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(source) => Err(Error::File { action: "read", path: self.file.clone(), source }),
        }
    }

    /// Replaces the file as a whole, and not before its content is on the disk.
    fn store(&self, remembered: &BTreeMap<String, Remembered>) -> Result<(), Error> {
        let draft = self.file.with_extension("json.new");
        let write = || {
            let mut file = File::create(&draft)?;
            file.write_all(&serde_json::to_vec_pretty(remembered)?)?;
            file.sync_all()?;
            fs::rename(&draft, &self.file)?;
            self.file.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
        };
        write().map_err(|source| Error::File { action: "write", path: self.file.clone(), source })
    }
}

/// Directory and name of the settings that follow this one.
fn follower_pattern(path: &str) -> Option<(&'static str, &'static str)> {
    match path {
        "net/ipv4/ip_forward" => Some(("net/ipv4/conf", "forwarding")),
        "net/ipv6/conf/all/forwarding" => Some(("net/ipv6/conf", "forwarding")),
        _ => None,
    }
}

/// Is this one of the settings that only follow others?
fn is_companion(path: &str) -> bool {
    path.ends_with("/forwarding") && follower_pattern(path).is_none()
}

#[cfg(test)]
#[path = "sysctl_tests.rs"]
mod tests;

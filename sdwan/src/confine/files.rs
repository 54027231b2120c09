//! Landlock (landlock(7)): from here on this process and those that it starts write nowhere but where the daemon's files
//! are. Reading isn't restricted: a reload may name files anywhere.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus,
};

use crate::config::Config;
use crate::tunnel::device;

/// Renaming across directories and truncating are in it; older kernels take what they know of it.
const VERSION: ABI = ABI::V3;

/// Why files can't be confined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory that has to be there first.
    #[error("cannot make {path}: {source}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A directory can't be opened.
    #[error(transparent)]
    Path(#[from] PathFdError),
    /// The kernel refuses the rules.
    #[error(transparent)]
    Rules(#[from] RulesetError),
}

/// Restricts this thread and those that it starts; `false` where the kernel can't. `made` gets the directories that had
/// to be made, the innermost first.
pub(super) fn restrict(config: &Config, recording: Option<&Path>, made: &mut Vec<PathBuf>) -> Result<bool, Error> {
    let mut rules = Ruleset::default().handle_access(AccessFs::from_write(VERSION))?.create()?;
    for directory in directories(config, recording, made)? {
        rules = rules.add_rule(PathBeneath::new(PathFd::new(&directory)?, AccessFs::from_write(VERSION)))?;
    }
    // What was made is removed at the end, and made again by who needs it.
    for directory in made.iter().filter_map(|directory| directory.parent()) {
        rules = rules.add_rule(PathBeneath::new(PathFd::new(directory)?, AccessFs::MakeDir | AccessFs::RemoveDir))?;
    }
    Ok(rules.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

/// Where the daemon writes. What has to be made is made first, since a rule stands on something that is there.
fn directories(config: &Config, recording: Option<&Path>, made: &mut Vec<PathBuf>) -> Result<Vec<PathBuf>, Error> {
    let mut make = |path: &Path, mode: u32| {
        made.extend(path.ancestors().take_while(|ancestor| !ancestor.exists()).map(Path::to_owned));
        let outcome = DirBuilder::new().recursive(true).mode(mode).create(path);
        outcome.map(|()| path.to_owned()).map_err(|source| Error::Directory { path: path.into(), source })
    };
    let beside = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
    let site = &config.site;
    let mut directories = vec![
        make(&site.state_dir, 0o700)?,
        make(&beside(&site.database), 0o700)?,
        make(&beside(&site.lock), 0o700)?,
        make(&beside(&site.socket), 0o755)?,
        make(device::socket_directory(), 0o700)?,
    ];
    // The directory of the pins is itself made and removed.
    directories.push(beside(&config.dataplane.bpffs));
    directories.extend(recording.map(beside));
    // Settings of interfaces and forwarding, TUN devices, and what swallows output.
    directories.extend(["/proc/sys", "/dev"].map(PathBuf::from));
    directories.retain(|directory| directory.exists());
    Ok(directories)
}

//! One daemon at a time on one state directory.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Why the lock couldn't be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("another sdwan{pid} uses {directory} already: stop it with `sdwan down` or `systemctl stop sdwan`", pid = process(*pid), directory = directory.display())]
    Held {
        /// The state directory.
        directory: PathBuf,
        /// Its process id, if it said so.
        pid: Option<u32>,
    },
    /// The file can't be made or locked.
    #[error("cannot lock {path}: {source}. Run as root, and check `state_dir` in [site]", path = path.display())]
    File {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// Holds the lock until dropped, or until the process ends, however it ends.
#[derive(Debug)]
pub struct StateLock {
    _file: Flock<File>,
}

impl StateLock {
    /// Takes the lock, makes its directory (mode 0700) if there is none, and leaves our process id in the file.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let error = |source| LockError::File { path: path.into(), source };
        let directory = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(error)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
            .open(path)
            .map_err(error)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0).map_err(error)?;
                file.rewind().map_err(error)?;
                writeln!(file, "{}", std::process::id()).map_err(error)?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let read = Read::by_ref(&mut file).take(32).read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse().ok());
                Err(LockError::Held { directory: directory.into(), pid })
            }
            Err((_, errno)) => Err(error(errno.into())),
        }
    }
}

//! Files of keys, requests, certificates and revocations: one line that says what it is, then base64.
//!
//! Files appear whole or not at all (temporary file, fsync, rename). Secret ones are readable by their owner alone and
//! are never overwritten.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use zeroize::Zeroizing;

use super::keys::Secret;

/// Largest file that is read, bytes.
const FILE_MAX: u64 = 256 * 1024;
/// Bytes of base64 per line.
const LINE: usize = 76;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// The mesh authority's secret key.
    AuthorityKey,
    /// A site's secret identity key.
    IdentityKey,
    /// A site's secret WireGuard key.
    WireGuardKey,
    /// A site's request for a certificate.
    Request,
    /// A certificate.
    Certificate,
    /// The revocation list.
    Revocations,
}

impl FileKind {
    const ALL: [Self; 6] = [
        Self::AuthorityKey,
        Self::IdentityKey,
        Self::WireGuardKey,
        Self::Request,
        Self::Certificate,
        Self::Revocations,
    ];

    /// The tag in the first line.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::AuthorityKey => "authority-key",
            Self::IdentityKey => "identity-key",
            Self::WireGuardKey => "wireguard-key",
            Self::Request => "site-request",
            Self::Certificate => "certificate",
            Self::Revocations => "revocations",
        }
    }

    /// Whether only its owner may read the file.
    pub const fn is_secret(self) -> bool {
        matches!(self, Self::AuthorityKey | Self::IdentityKey | Self::WireGuardKey)
    }

    const fn describe(self) -> &'static str {
        match self {
            Self::AuthorityKey => "the secret key of a mesh authority",
            Self::IdentityKey => "the secret identity key of a site",
            Self::WireGuardKey => "the secret WireGuard key of a site",
            Self::Request => "a site's request (from `sdwan site init`)",
            Self::Certificate => "a certificate (from `sdwan mesh admit`)",
            Self::Revocations => "a revocation list (from `sdwan mesh revoke`)",
        }
    }
}

/// A file that can't be written, read or believed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There already.
    #[error("{} exists and is not overwritten: move it away if it is not needed any more", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A secret that others may read.
    #[error(
        "{} holds a secret but its mode is {mode:04o}: run `chmod 600 {}`, and make a new key if others had access",
        path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another kind of file.
    #[error("{} is {found}, expected {expected}", path.display())]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What was needed.
        expected: &'static str,
    },
    /// Damaged content.
    #[error("{} is damaged ({why}): restore it from where it came from", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Writes a file that must not exist yet. Secret kinds get mode 0600, others 0644.
pub fn create(path: &Path, kind: FileKind, note: &str, content: &[u8]) -> Result<(), FileError> {
    write(path, &armour(kind, note, content), kind.is_secret(), false)
}

/// Writes a public file, replacing what is there.
pub fn replace(path: &Path, kind: FileKind, note: &str, content: &[u8]) -> Result<(), FileError> {
    write(path, &armour(kind, note, content), kind.is_secret(), true)
}

/// Writes public text as it is.
pub fn write_text(path: &Path, text: &str, overwrite: bool) -> Result<(), FileError> {
    write(path, text.as_bytes(), false, overwrite)
}

/// Reads a file of this kind. Secret kinds that anybody but the owner may read are refused.
pub fn read(path: &Path, kind: FileKind) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let (found, content) = read_any(path)?;
    if found != kind {
        let expected = kind.describe();
        return Err(FileError::WrongKind { path: path.into(), found: found.describe().into(), expected });
    }
    Ok(content)
}

/// Reads a file of any of our kinds.
pub fn read_any(path: &Path) -> Result<(FileKind, Zeroizing<Vec<u8>>), FileError> {
    let text = read_bytes(path, |text| kind_of(text).is_some_and(FileKind::is_secret))?;
    let unknown = || FileError::WrongKind {
        path: path.into(),
        found: "not a key, request, certificate or revocation list of sdwan".into(),
        expected: "a first line such as `# sdwan certificate v1`",
    };
    let damaged = |why: String| FileError::Damaged { path: path.into(), why };
    let kind = kind_of(&text).ok_or_else(unknown)?;
    let body = text.iter().position(|byte| *byte == b'\n').map_or(&[][..], |end| &text[end..]);
    let digits: Zeroizing<Vec<u8>> =
        Zeroizing::new(body.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect());
    let content = STANDARD.decode(&*digits).map(Zeroizing::new).map_err(|error| damaged(error.to_string()))?;
    Ok((kind, content))
}

/// Reads a secret key of this kind.
pub fn read_secret(path: &Path, kind: FileKind) -> Result<Secret, FileError> {
    let content = read(path, kind)?;
    let secret: [u8; 32] = content
        .as_slice()
        .try_into()
        .map_err(|_| FileError::Damaged { path: path.into(), why: format!("{} bytes instead of 32", content.len()) })?;
    Ok(Zeroizing::new(secret))
}

/// Reads public text, at most 256 KiB.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    let bytes = read_bytes(path, |_| false)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| FileError::Damaged { path: path.into(), why: "not UTF-8".into() })
}

/// Makes a directory for secrets, mode 0700, with its parents.
pub fn create_directory(path: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))
}

fn armour(kind: FileKind, note: &str, content: &[u8]) -> Zeroizing<Vec<u8>> {
    let digits = Zeroizing::new(STANDARD.encode(content));
    let mut text = Zeroizing::new(Vec::with_capacity(digits.len() * 2 + 128));
    text.extend_from_slice(format!("# sdwan {} v1: {note}\n", kind.tag()).as_bytes());
    for line in digits.as_bytes().chunks(LINE) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text
}

fn kind_of(text: &[u8]) -> Option<FileKind> {
    let line = text.split(|byte| *byte == b'\n').next()?;
    let rest = std::str::from_utf8(line).ok()?.strip_prefix("# sdwan ")?;
    let (tag, rest) = rest.split_once(' ')?;
    let version = rest.split([':', ' ']).next()?;
    FileKind::ALL.into_iter().find(|kind| kind.tag() == tag && version.trim_end() == "v1")
}

fn read_bytes(path: &Path, secret: impl Fn(&[u8]) -> bool) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let metadata = file.metadata().map_err(io_error("read", path))?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len().min(FILE_MAX) as usize + 1));
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(FileError::Damaged { path: path.into(), why: "larger than 256 KiB".into() });
    }
    let mode = metadata.mode() & 0o7777;
    if secret(&bytes) && mode & 0o077 != 0 {
        return Err(FileError::Exposed { path: path.into(), mode });
    }
    Ok(bytes)
}

fn write(path: &Path, content: &[u8], secret: bool, overwrite: bool) -> Result<(), FileError> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| FileError::Io {
        action: "write",
        path: path.into(),
        source: io::Error::new(io::ErrorKind::InvalidInput, "not a file name"),
    })?;
    let temporary = directory.join(format!(".{}.{:016x}.tmp", name.to_string_lossy(), rand::random::<u64>()));
    let written = write_through(&temporary, content, if secret { 0o600 } else { 0o644 }).and_then(|()| {
        let flags = if overwrite { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
        renameat2(AT_FDCWD, &temporary, AT_FDCWD, path, flags).map_err(io::Error::from)?;
        File::open(directory)?.sync_all()
    });
    written.map_err(|error| {
        // Best effort: the error to tell is the first one, and after a successful rename there is nothing left.
        let _ = fs::remove_file(&temporary);
        match error.kind() {
            io::ErrorKind::AlreadyExists => FileError::Exists { path: path.into() },
            _ => io_error("write", path)(error),
        }
    })
}

fn write_through(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::Io { action, path: path.into(), source }
}

#[cfg(test)]
mod tests;

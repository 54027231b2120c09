//! The directories of a site and of a mesh authority: which file is where, and what must fit together.

use std::path::{Path, PathBuf};

use super::certificate::{Certificate, SiteRequest};
use super::files::{self, FileError, FileKind};
use super::keys::{IdentityKey, WireGuardKey};
use super::mesh::{Mesh, MeshError};
use super::revocation::{ListError, RevocationList};
use super::wire::DecodeError;

/// Where a site keeps its state unless told otherwise.
pub const SITE_DIRECTORY: &str = "/var/lib/sdwan";

/// The files of a site.
#[derive(Clone, Debug)]
pub struct SiteFiles {
    directory: PathBuf,
}

/// What a site holds.
#[derive(Debug)]
pub struct SiteState {
    /// The mesh.
    pub mesh: Mesh,
    /// Its identity.
    pub identity: IdentityKey,
    /// Its WireGuard key.
    pub wireguard: WireGuardKey,
    /// Its request.
    pub request: SiteRequest,
    /// Its certificate, verified; `None` before `sdwan site install`.
    pub certificate: Option<Certificate>,
    /// The revocations installed by hand; discovery brings newer ones.
    pub revocations: RevocationList,
}

/// State that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The description of the mesh.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// No site here.
    #[error("{} holds no site: run `sdwan site init --name NAME --mesh mesh.toml --dir {}`", path.display(), path.display())]
    NoSite {
        /// The directory.
        path: PathBuf,
    },
    /// A certificate or request that can't be read.
    #[error("{}: {source}: restore the file", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: DecodeError,
    },
    /// A request that isn't whole.
    #[error("{}: {source}", path.display())]
    Request {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: super::certificate::RequestError,
    },
    /// A certificate that is not for this site.
    #[error("{}: {why}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What doesn't fit, and what to do.
        why: &'static str,
    },
    /// Revocations that can't be believed.
    #[error("{}: {source}", path.display())]
    Revocations {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ListError,
    },
}

impl SiteFiles {
    /// Names the directory; nothing is read yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Public description of the mesh.
    pub fn mesh(&self) -> PathBuf {
        self.directory.join("mesh.toml")
    }

    /// Secret identity key.
    pub fn identity(&self) -> PathBuf {
        self.directory.join("identity.key")
    }

    /// Secret WireGuard key.
    pub fn wireguard(&self) -> PathBuf {
        self.directory.join("wireguard.key")
    }

    /// Request for a certificate.
    pub fn request(&self) -> PathBuf {
        self.directory.join("site.request")
    }

    /// Certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("site.cert")
    }

    /// Revocations.
    pub fn revocations(&self) -> PathBuf {
        self.directory.join("revocations")
    }

    /// Makes identity, WireGuard key and request. Files of an earlier run that was cut off are used again; a complete
    /// site is left alone and is an error.
    pub fn init(&self, name: &str, mesh: &Mesh, now_unix: u64) -> Result<SiteRequest, StateError> {
        let request_path = self.request();
        if request_path.exists() {
            return Err(FileError::Exists { path: request_path }.into());
        }
        super::wire::check_name(name).map_err(|why| MeshError::Name { name: name.into(), why })?;
        files::create_directory(&self.directory)?;
        let identity = match files::read_secret(&self.identity(), FileKind::IdentityKey) {
            Ok(secret) => IdentityKey::from_secret(&secret),
            Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let identity = IdentityKey::generate();
                let note = format!("secret, site {}", identity.site());
                files::create(&self.identity(), FileKind::IdentityKey, &note, &*identity.secret())?;
                identity
            }
            Err(error) => return Err(error.into()),
        };
        if !self.wireguard().exists() {
            let key = WireGuardKey::generate();
            files::create(&self.wireguard(), FileKind::WireGuardKey, "secret", &*key.secret())?;
        }
        files::write_text(&self.mesh(), &mesh.to_toml(), true)?;
        let request = SiteRequest::sign(mesh.id, name, now_unix, &identity)
            .map_err(|_| MeshError::Name { name: name.into(), why: "not a name" })?;
        let note = format!("{name} asks to join {}; give it to `sdwan mesh admit`", mesh.name);
        files::create(&request_path, FileKind::Request, &note, request.bytes())?;
        Ok(request)
    }

    /// Reads and checks everything.
    pub fn load(&self) -> Result<SiteState, StateError> {
        if !self.request().exists() {
            return Err(StateError::NoSite { path: self.directory.clone() });
        }
        let mesh = Mesh::read(&self.mesh())?;
        let identity = IdentityKey::from_secret(&files::read_secret(&self.identity(), FileKind::IdentityKey)?);
        let wireguard = WireGuardKey::from_secret(&files::read_secret(&self.wireguard(), FileKind::WireGuardKey)?);
        let request = SiteRequest::open(&files::read(&self.request(), FileKind::Request)?)
            .map_err(|source| StateError::Request { path: self.request(), source })?;
        let certificate = match self.certificate().exists() {
            true => Some(read_certificate(&self.certificate(), &mesh, &identity)?),
            false => None,
        };
        let revocations = match self.revocations().exists() {
            true => read_revocations(&self.revocations(), &mesh)?,
            false => RevocationList::default(),
        };
        Ok(SiteState { mesh, identity, wireguard, request, certificate, revocations })
    }

    /// Checks a certificate for this site and puts it in place.
    pub fn install_certificate(&self, path: &Path) -> Result<Certificate, StateError> {
        let state = self.load()?;
        let certificate = read_certificate(path, &state.mesh, &state.identity)?;
        if state.revocations.revokes(&certificate) {
            let why = "this certificate is revoked: ask the mesh authority for another";
            return Err(StateError::Certificate { path: path.into(), why });
        }
        let note = certificate_note(&certificate);
        files::replace(&self.certificate(), FileKind::Certificate, &note, certificate.bytes())?;
        Ok(certificate)
    }

    /// Checks revocations and adds those pages that are newer than the installed ones.
    pub fn install_revocations(&self, path: &Path) -> Result<RevocationList, StateError> {
        let mut state = self.load()?;
        let list = read_revocations(path, &state.mesh)?;
        for page in list.pages() {
            state.revocations.insert(page.clone());
        }
        let note = format!("of {}", state.mesh.name);
        files::replace(&self.revocations(), FileKind::Revocations, &note, &state.revocations.to_file())?;
        Ok(state.revocations)
    }
}

/// First line of a certificate's file.
pub fn certificate_note(certificate: &Certificate) -> String {
    format!("{}, site {}", certificate.content.name, certificate.site)
}

/// Reads the revocations of a mesh.
pub fn read_revocations(path: &Path, mesh: &Mesh) -> Result<RevocationList, StateError> {
    let bytes = files::read(path, FileKind::Revocations)?;
    RevocationList::from_file(&bytes, &mesh.authority)
        .map_err(|source| StateError::Revocations { path: path.into(), source })
}

fn read_certificate(path: &Path, mesh: &Mesh, identity: &IdentityKey) -> Result<Certificate, StateError> {
    let certificate = Certificate::decode(&files::read(path, FileKind::Certificate)?)
        .map_err(|source| StateError::Decode { path: path.into(), source })?;
    let wrong = |why| StateError::Certificate { path: path.into(), why };
    if certificate.content.mesh != mesh.id {
        return Err(wrong("the certificate belongs to another mesh: give this site's request to the right authority"));
    }
    certificate
        .verify(&mesh.authority)
        .map_err(|_| wrong("the mesh authority's signature does not match: fetch the certificate again"))?;
    if certificate.site != identity.site() {
        return Err(wrong("the certificate is for another site: install the one made from this site's request"));
    }
    Ok(certificate)
}

//! A small authority for the certificates of gateways and users, for those who have none. Nothing here is needed by the
//! daemon, and certificates of any other authority do as well.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

/// Certificate of the authority, in its directory.
pub const AUTHORITY_CERTIFICATE: &str = "api-ca.crt";
/// Its key.
pub const AUTHORITY_KEY: &str = "api-ca.key";

/// Clocks differ: a certificate begins this much before it is made.
const BEFORE: Duration = Duration::hours(1);

/// A certificate that can't be made; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CertificateProblem {
    /// A file.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There already.
    #[error("{path} exists and is not overwritten: move it away if it is not needed any more", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Refused by the library.
    #[error("cannot make the certificate: {0}")]
    Refused(#[from] rcgen::Error),
}

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A gateway, called by these names and addresses.
    Gateway {
        /// DNS names.
        names: Vec<String>,
        /// Addresses.
        addresses: Vec<IpAddr>,
    },
    /// A user.
    User,
}

/// The authority: a key, and a certificate that it signed itself.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    key: String,
}

/// A certificate and its key, as PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

fn validity(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    // One that has ended already, as tests need it, began before its end.
    params.not_after = now + Duration::days(days);
    params.not_before = (now - BEFORE).min(params.not_after - BEFORE);
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

impl Authority {
    /// Makes one that is valid for so many days.
    ///
    /// # Errors
    /// When the name can't be one.
    pub fn make(name: &str, days: i64) -> Result<Self, CertificateProblem> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = named(name);
        // Nobody below it may be an authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, days);
        let certificate = params.self_signed(&key)?.pem();
        let text = key.serialize_pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate, key: text })
    }

    /// Reads one from its directory.
    ///
    /// # Errors
    /// When its files can't be read, or are something else.
    pub fn open(directory: &Path) -> Result<Self, CertificateProblem> {
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path).map_err(|source| CertificateProblem::File { action: "read", path, source })
        };
        let (certificate, key) = (read(AUTHORITY_CERTIFICATE)?, read(AUTHORITY_KEY)?);
        let issuer = Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&key)?)?;
        Ok(Self { issuer, certificate, key })
    }

    /// Writes its files, which must not exist yet.
    ///
    /// # Errors
    /// When they do, or can't be written.
    pub fn save(&self, directory: &Path) -> Result<(), CertificateProblem> {
        std::fs::create_dir_all(directory).map_err(|source| CertificateProblem::File {
            action: "make",
            path: directory.into(),
            source,
        })?;
        write(&directory.join(AUTHORITY_KEY), &self.key, 0o600)?;
        write(&directory.join(AUTHORITY_CERTIFICATE), &self.certificate, 0o644)
    }

    /// Its certificate, as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate with a new key, valid for so many days. A name as common name says who it is.
    ///
    /// # Errors
    /// When a name can't be one.
    pub fn issue(&self, name: &str, purpose: &Purpose, days: i64) -> Result<Issued, CertificateProblem> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(match purpose {
            Purpose::Gateway { names, .. } => names.clone(),
            Purpose::User => Vec::new(),
        })?;
        params.distinguished_name = named(name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        match purpose {
            Purpose::Gateway { addresses, .. } => {
                params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }
            Purpose::User => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
        }
        validity(&mut params, days);
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }
}

impl Issued {
    /// Writes `NAME.key` (mode 0600) and `NAME.crt`, which must not exist yet; returns their paths.
    ///
    /// # Errors
    /// When they do, or can't be written.
    pub fn save(&self, directory: &Path, name: &str) -> Result<(PathBuf, PathBuf), CertificateProblem> {
        let (certificate, key) = (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
        if certificate.exists() {
            return Err(CertificateProblem::Exists { path: certificate });
        }
        write(&key, &self.key, 0o600)?;
        write(&certificate, &self.certificate, 0o644)?;
        Ok((certificate, key))
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertificateProblem> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => CertificateProblem::Exists { path: path.into() },
        _ => CertificateProblem::File { action: "write", path: path.into(), source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_that_was_saved_issues_on_and_overwrites_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::make("test", 10).unwrap();
        authority.save(directory.path()).unwrap();
        assert!(matches!(authority.save(directory.path()), Err(CertificateProblem::Exists { .. })));
        let again = Authority::open(directory.path()).unwrap();
        let user = again.issue("alice", &Purpose::User, 1).unwrap();
        let (certificate, key) = user.save(directory.path(), "alice").unwrap();
        assert!(user.save(directory.path(), "alice").is_err());
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&key), mode(&certificate)), (0o600, 0o644));
        assert_eq!(mode(&directory.path().join(AUTHORITY_KEY)), 0o600);
    }
}

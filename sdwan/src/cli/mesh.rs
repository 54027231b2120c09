//! `sdwan mesh`: the mesh authority. Runs on a machine that is kept offline; needs no daemon.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::output::Output;
use crate::engine::types::SiteId;
use crate::trust::certificate::{Certificate, CertificateContent, SiteRequest};
use crate::trust::files::{self, FileKind};
use crate::trust::keys::AuthorityKey;
use crate::trust::mesh::Mesh;
use crate::trust::revocation::{RevocationList, Revoked};
use crate::trust::state::{certificate_note, read_revocations};

const DAY: u64 = 86_400;
/// Longest life of a certificate, days.
const DAYS_MAX: u64 = 3_650;

/// Commands of the mesh authority.
#[derive(Debug, Subcommand)]
pub enum MeshCommand {
    /// Make a mesh: its authority's secret key, and mesh.toml, which every site gets.
    Init(InitArgs),
    /// Admit a site: check its request and sign a certificate.
    Admit(AdmitArgs),
    /// Revoke a site or one certificate.
    Revoke(RevokeArgs),
    /// Show the mesh, the sites admitted and what is revoked.
    Show(ShowArgs),
}

/// Arguments of `sdwan mesh init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Name of the mesh: letters, digits and . _ -
    #[arg(long)]
    name: String,
    /// Prefix of the overlay addresses, such as 100.64.0.0/10 [default: an IPv6 /48 of its own]
    #[arg(long, value_name = "PREFIX")]
    overlay_prefix: Option<IpNet>,
    /// Directory of the authority
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// Arguments of `sdwan mesh admit`.
#[derive(Debug, Args)]
pub struct AdmitArgs {
    /// The site's request, from `sdwan site init`
    request: PathBuf,
    /// A prefix that the site may announce; may be repeated
    #[arg(long = "prefix", value_name = "PREFIX")]
    prefixes: Vec<IpNet>,
    /// Days that the certificate is valid, 1 to 3650
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=DAYS_MAX))]
    days: u64,
    /// Valid from this time: Unix seconds or YYYY-MM-DD (UTC) [default: an hour ago, for clocks that differ]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    not_before: Option<u64>,
    /// The site's name in the mesh [default: the name in the request]
    #[arg(long)]
    name: Option<String>,
    /// Admit it although another site may announce an overlapping prefix
    #[arg(long)]
    allow_overlap: bool,
    /// Directory of the authority
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// File for the certificate [default: NAME.cert]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Arguments of `sdwan mesh revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// A site's id or name (its identity, for ever), or a certificate's file (that certificate only)
    #[arg(value_name = "SITE|CERT")]
    what: String,
    /// Directory of the authority
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// Arguments of `sdwan mesh show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Directory of the authority
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

impl MeshCommand {
    /// Runs the command and prints its result.
    pub(super) fn run(self, output: &Output) -> anyhow::Result<()> {
        let (value, text) = match self {
            Self::Init(args) => init(args)?,
            Self::Admit(args) => admit(args)?,
            Self::Revoke(args) => revoke(args)?,
            Self::Show(args) => show(args)?,
        };
        output.print(&value, |_| format!("{}\n", text.trim_end()))?;
        Ok(())
    }
}

/// What a command prints, as JSON and as text.
pub(super) type Printed = (Value, String);

/// Unix time, s.
pub(super) fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// `YYYY-MM-DD HH:MM UTC`.
pub(super) fn format_time(unix: u64) -> String {
    // Gregorian calendar from a day count: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let days = (unix / DAY) as i64 + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let minutes = unix % DAY / 60;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

fn parse_time(text: &str) -> Result<u64, String> {
    let error = || format!("{text:?} is not a time: write Unix seconds, or a date such as 2027-01-31");
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let fields: Vec<i64> = text.split('-').map(|field| field.parse().map_err(|_| error())).collect::<Result<_, _>>()?;
    let [year, month, day] = fields[..] else { return Err(error()) };
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err(error());
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let seconds = ((era * 146_097 + day_of_era - 719_468) * DAY as i64) as u64;
    // The 31st of a shorter month comes out as a day of the next one.
    if format_time(seconds).starts_with(&format!("{year:04}-{month:02}-{day:02}")) { Ok(seconds) } else { Err(error()) }
}

/// The files of the authority.
struct Authority {
    directory: PathBuf,
}

impl Authority {
    fn key(&self) -> PathBuf {
        self.directory.join("authority.key")
    }

    fn mesh(&self) -> PathBuf {
        self.directory.join("mesh.toml")
    }

    fn revocations(&self) -> PathBuf {
        self.directory.join("revocations")
    }

    fn admitted(&self) -> PathBuf {
        self.directory.join("admitted")
    }

    fn read_mesh(&self) -> anyhow::Result<Mesh> {
        ensure!(
            self.mesh().exists(),
            "{} holds no mesh: give --dir DIR, or make one with `sdwan mesh init --name NAME`",
            self.directory.display()
        );
        Ok(Mesh::read(&self.mesh())?)
    }

    fn read_key(&self, mesh: &Mesh) -> anyhow::Result<AuthorityKey> {
        let key = AuthorityKey::from_secret(&files::read_secret(&self.key(), FileKind::AuthorityKey)?);
        ensure!(
            key.mesh() == mesh.id,
            "{} is the key of another mesh than {}: put the two files of one mesh together",
            self.key().display(),
            self.mesh().display()
        );
        Ok(key)
    }

    fn read_revocations(&self, mesh: &Mesh) -> anyhow::Result<RevocationList> {
        let path = self.revocations();
        if path.exists() { Ok(read_revocations(&path, mesh)?) } else { Ok(RevocationList::default()) }
    }

    /// Every certificate signed so far.
    fn certificates(&self, mesh: &Mesh) -> anyhow::Result<Vec<Certificate>> {
        let directory = self.admitted();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", directory.display())),
        };
        let mut certificates = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| format!("cannot read {}", directory.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "cert") {
                certificates.push(read_certificate(&path, mesh)?);
            }
        }
        certificates
            .sort_by(|a, b| (&a.content.name, a.content.not_before).cmp(&(&b.content.name, b.content.not_before)));
        Ok(certificates)
    }
}

fn read_certificate(path: &Path, mesh: &Mesh) -> anyhow::Result<Certificate> {
    let certificate = Certificate::decode(&files::read(path, FileKind::Certificate)?)
        .with_context(|| format!("{} can't be read: restore it", path.display()))?;
    certificate.verify(&mesh.authority).with_context(|| format!("{} is not from this mesh", path.display()))?;
    Ok(certificate)
}

fn init(args: InitArgs) -> anyhow::Result<Printed> {
    let authority = Authority { directory: args.dir };
    files::create_directory(&authority.directory)?;
    ensure!(
        !authority.mesh().exists(),
        "{} exists: there is a mesh in this directory already; give --dir DIR for another",
        authority.mesh().display()
    );
    // A key without mesh.toml is left from a run that was cut off, or one the operator brought along.
    let key = if authority.key().exists() {
        AuthorityKey::from_secret(&files::read_secret(&authority.key(), FileKind::AuthorityKey)?)
    } else {
        AuthorityKey::generate()
    };
    let mesh = Mesh::new(&args.name, args.overlay_prefix, &key)?;
    if !authority.key().exists() {
        let note = format!("secret, mesh {}; keep it offline", mesh.name);
        files::create(&authority.key(), FileKind::AuthorityKey, &note, &*key.secret())?;
    }
    files::write_text(&authority.mesh(), &mesh.to_toml(), false)?;
    let value = json!({
        "version": 1, "mesh": mesh.id, "name": mesh.name, "overlay_prefix": mesh.overlay,
        "mesh_file": authority.mesh(), "key_file": authority.key(),
    });
    let text = format!(
        "Mesh {} ({}), overlay {}.\n{}: secret. Keep it offline, and a copy in a safe place.\n{}: copy it to every site, \
         then run there: sdwan site init --name NAME --mesh mesh.toml",
        mesh.name,
        mesh.id,
        mesh.overlay,
        authority.key().display(),
        authority.mesh().display()
    );
    Ok((value, text))
}

fn admit(args: AdmitArgs) -> anyhow::Result<Printed> {
    let authority = Authority { directory: args.dir };
    let mesh = authority.read_mesh()?;
    let key = authority.read_key(&mesh)?;
    let request = SiteRequest::open(&files::read(&args.request, FileKind::Request)?)
        .with_context(|| args.request.display().to_string())?;
    ensure!(
        request.mesh == mesh.id,
        "{} asks to join the mesh {}, this is {} ({}): make the request again with this mesh's mesh.toml",
        args.request.display(),
        request.mesh,
        mesh.name,
        mesh.id
    );
    let site = request.site();
    ensure!(
        !authority.read_revocations(&mesh)?.contains(Revoked::Site(site)),
        "site {site} is revoked for ever: move its state directory away and run `sdwan site init` there again"
    );
    let name = args.name.unwrap_or_else(|| request.name.clone());
    let known = authority.certificates(&mesh)?;
    check_prefixes(&args.prefixes, &mesh)?;
    check_conflicts(&name, site, &args.prefixes, args.allow_overlap, &known, &mesh)?;

    let now = now_unix();
    let not_before = args.not_before.unwrap_or(now.saturating_sub(3_600));
    let not_after = args.not_before.unwrap_or(now) + args.days * DAY;
    ensure!(not_after > now, "the certificate would end before now: give a later --not-before or more --days");
    let content = CertificateContent {
        mesh: mesh.id,
        identity: request.identity,
        name,
        not_before,
        not_after,
        prefixes: args.prefixes,
    };
    let certificate = Certificate::sign(content, &key)?;
    let content = &certificate.content;
    let out = args.out.unwrap_or_else(|| PathBuf::from(format!("{}.cert", content.name)));
    let note = certificate_note(&certificate);
    files::create_directory(&authority.admitted())?;
    let fingerprint = hex::encode(certificate.fingerprint());
    let copy = authority.admitted().join(format!("{site}-{fingerprint}.cert"));
    files::replace(&copy, FileKind::Certificate, &note, certificate.bytes())?;
    files::replace(&out, FileKind::Certificate, &note, certificate.bytes())?;
    let value = json!({
        "version": 1, "site": site, "name": content.name, "prefixes": content.prefixes, "not_before": not_before,
        "not_after": not_after, "fingerprint": fingerprint, "overlay": mesh.overlay_address(site), "file": out,
    });
    let text = format!(
        "Admitted {} ({site}) until {}, prefixes {}.\nCopy {} to the site and run there: sdwan site install {}",
        content.name,
        format_time(not_after),
        list(&content.prefixes),
        out.display(),
        out.file_name().unwrap_or_default().to_string_lossy()
    );
    Ok((value, text))
}

fn check_prefixes(prefixes: &[IpNet], mesh: &Mesh) -> anyhow::Result<()> {
    for prefix in prefixes {
        ensure!(
            prefix.addr() == prefix.network(),
            "--prefix {prefix}: bits are set past the prefix length; did you mean {}?",
            prefix.trunc()
        );
        ensure!(
            !mesh.overlay.contains(prefix),
            "--prefix {prefix} lies in the overlay prefix {}: take another prefix for the LAN",
            mesh.overlay
        );
    }
    Ok(())
}

fn check_conflicts(
    name: &str,
    site: SiteId,
    prefixes: &[IpNet],
    allow_overlap: bool,
    known: &[Certificate],
    mesh: &Mesh,
) -> anyhow::Result<()> {
    let now = now_unix();
    for other in known.iter().filter(|other| other.site != site && other.content.not_after > now) {
        let their = &other.content;
        ensure!(
            mesh.overlay_address(other.site) != mesh.overlay_address(site),
            "the overlay address {} of this site is that of {} already: move the site's state directory away, run \
             `sdwan site init` there again, and admit the new request",
            mesh.overlay_address(site),
            their.name
        );
        ensure!(
            their.name != name,
            "the name {name} is that of site {} already: give --name NAME, or revoke the other one if it is gone",
            other.site
        );
        let overlap = prefixes.iter().find_map(|prefix| {
            their
                .prefixes
                .iter()
                .find(|held| held.contains(prefix) || prefix.contains(*held))
                .map(|held| (prefix, held))
        });
        if let Some((prefix, held)) = overlap
            && !allow_overlap
        {
            bail!(
                "--prefix {prefix} overlaps {held} of {}: choose another, or give --allow-overlap if both sites really \
                 serve it",
                their.name
            );
        }
    }
    Ok(())
}

fn revoke(args: RevokeArgs) -> anyhow::Result<Printed> {
    let authority = Authority { directory: args.dir };
    let mesh = authority.read_mesh()?;
    let key = authority.read_key(&mesh)?;
    let mut list = authority.read_revocations(&mesh)?;
    let (entry, what) = find(&args.what, &authority, &mesh)?;
    let new = list.revoke(entry, now_unix(), &key)?.is_some();
    if new {
        let note = format!("of {}", mesh.name);
        files::replace(&authority.revocations(), FileKind::Revocations, &note, &list.to_file())?;
    }
    let path = authority.revocations();
    let value = json!({
        "version": 1, "revoked": what, "new": new, "entries": list.entries().count(), "file": path,
    });
    let text = if new {
        format!(
            "Revoked {what}.\nCopy {} to any site and run there: sdwan site install {}\nThat site tells all others.",
            path.display(),
            path.file_name().unwrap_or_default().to_string_lossy()
        )
    } else {
        format!("{what} was revoked before.")
    };
    Ok((value, text))
}

fn find(what: &str, authority: &Authority, mesh: &Mesh) -> anyhow::Result<(Revoked, String)> {
    if let Ok(site) = what.parse::<SiteId>() {
        return Ok((Revoked::Site(site), format!("site {site}")));
    }
    if Path::new(what).is_file() {
        let certificate = read_certificate(Path::new(what), mesh)?;
        let fingerprint = certificate.fingerprint();
        let text = format!("certificate {} of {}", hex::encode(fingerprint), certificate.content.name);
        return Ok((Revoked::Certificate(fingerprint), text));
    }
    let mut sites: Vec<SiteId> = authority
        .certificates(mesh)?
        .iter()
        .filter(|certificate| certificate.content.name == what)
        .map(|certificate| certificate.site)
        .collect();
    sites.sort_unstable();
    sites.dedup();
    match sites[..] {
        [site] => Ok((Revoked::Site(site), format!("site {what} ({site})"))),
        [] => bail!(
            "{what} is neither a site's id, nor a certificate's file, nor the name of a site admitted here: \
                     `sdwan mesh show` lists them"
        ),
        _ => bail!("several sites had the name {what}: revoke by id; `sdwan mesh show` lists them"),
    }
}

fn show(args: ShowArgs) -> anyhow::Result<Printed> {
    let authority = Authority { directory: args.dir };
    let mesh = authority.read_mesh()?;
    let revocations = authority.read_revocations(&mesh)?;
    let now = now_unix();
    let mut rows = comfy_table::Table::new();
    rows.load_style(comfy_table::presets::NOTHING);
    rows.set_header(["SITE", "ID", "OVERLAY", "PREFIXES", "VALID UNTIL", "STATE"]);
    let mut sites = Vec::new();
    for certificate in authority.certificates(&mesh)? {
        let content = &certificate.content;
        let state = if revocations.revokes(&certificate) {
            "revoked"
        } else if now >= content.not_after {
            "expired"
        } else if now < content.not_before {
            "not yet valid"
        } else {
            "valid"
        };
        let overlay = mesh.overlay_address(certificate.site);
        let until = format_time(content.not_after);
        let prefixes = list(&content.prefixes);
        let id = certificate.site.to_string();
        rows.add_row([content.name.as_str(), &id, &overlay.to_string(), &prefixes, &until, state]);
        sites.push(json!({
            "name": content.name, "site": certificate.site, "overlay": overlay, "prefixes": content.prefixes,
            "not_before": content.not_before, "not_after": content.not_after,
            "fingerprint": hex::encode(certificate.fingerprint()), "state": state,
        }));
    }
    let revoked: Vec<Value> = revocations
        .entries()
        .map(|entry| match entry {
            Revoked::Site(site) => json!({ "site": site }),
            Revoked::Certificate(fingerprint) => json!({ "certificate": hex::encode(fingerprint) }),
        })
        .collect();
    let has_key = authority.key().exists();
    let text = format!(
        "Mesh {} ({}), overlay {}, {} entries revoked{}.\n\n{}",
        mesh.name,
        mesh.id,
        mesh.overlay,
        revoked.len(),
        if has_key { "" } else { ", authority's key not here" },
        if sites.is_empty() {
            "No site admitted yet: sdwan mesh admit REQUEST --prefix PREFIX".into()
        } else {
            rows.to_string()
        }
    );
    let value = json!({
        "version": 1, "mesh": mesh.id, "name": mesh.name, "overlay_prefix": mesh.overlay, "has_key": has_key,
        "sites": sites, "revoked": revoked,
    });
    Ok((value, text))
}

/// Prefixes, separated by commas.
pub(super) fn list(prefixes: &[IpNet]) -> String {
    if prefixes.is_empty() {
        return "none".into();
    }
    prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;

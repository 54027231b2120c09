//! `sdwan site`: this machine's place in a mesh. Needs no daemon.

use std::path::PathBuf;

use anyhow::bail;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::json;

use super::mesh::{Printed, format_time, list, now_unix};
use super::output::Output;
use crate::trust::files::{self, FileKind};
use crate::trust::mesh::Mesh;
use crate::trust::state::{SITE_DIRECTORY, SiteFiles};

/// Commands of a site.
#[derive(Debug, Subcommand)]
pub enum SiteCommand {
    /// Make this site's keys and its request for a certificate.
    Init(InitArgs),
    /// Put a certificate or a revocation list in place.
    Install(InstallArgs),
    /// Show this site: ids, keys, certificate.
    Show(ShowArgs),
}

/// Arguments of `sdwan site init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Name of the site: letters, digits and . _ -
    #[arg(long)]
    name: String,
    /// The description of the mesh, from its authority
    #[arg(long, value_name = "FILE", default_value = "mesh.toml")]
    mesh: PathBuf,
    /// Directory of the site's state
    #[arg(long, default_value = SITE_DIRECTORY)]
    dir: PathBuf,
}

/// Arguments of `sdwan site install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// A certificate from `sdwan mesh admit`, or the revocations from `sdwan mesh revoke`
    #[arg(value_name = "CERT")]
    file: PathBuf,
    /// Directory of the site's state
    #[arg(long, default_value = SITE_DIRECTORY)]
    dir: PathBuf,
}

/// Arguments of `sdwan site show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Directory of the site's state
    #[arg(long, default_value = SITE_DIRECTORY)]
    dir: PathBuf,
}

impl SiteCommand {
    /// Runs the command and prints its result.
    pub(super) fn run(self, output: &Output) -> anyhow::Result<()> {
        let (value, text) = match self {
            Self::Init(args) => init(args)?,
            Self::Install(args) => install(args)?,
            Self::Show(args) => show(args)?,
        };
        output.print(&value, |_| format!("{}\n", text.trim_end()))?;
        Ok(())
    }
}

fn init(args: InitArgs) -> anyhow::Result<Printed> {
    let mesh = Mesh::read(&args.mesh)?;
    let files = SiteFiles::new(args.dir);
    let request = files.init(&args.name, &mesh, now_unix())?;
    let site = request.site();
    let value = json!({
        "version": 1, "site": site, "name": args.name, "mesh": mesh.id, "mesh_name": mesh.name,
        "overlay": mesh.overlay_address(site), "request_file": files.request(),
    });
    let text = format!(
        "Site {} ({site}) for mesh {}, overlay address {}.\nCopy {} to the mesh authority and run there:\n  sdwan mesh \
         admit {} --prefix YOUR-LAN-PREFIX\nThen bring the certificate back: sdwan site install {}.cert",
        args.name,
        mesh.name,
        mesh.overlay_address(site),
        files.request().display(),
        files.request().file_name().unwrap_or_default().to_string_lossy(),
        args.name
    );
    Ok((value, text))
}

fn install(args: InstallArgs) -> anyhow::Result<Printed> {
    let site_files = SiteFiles::new(args.dir);
    let (kind, _) = files::read_any(&args.file)?;
    match kind {
        FileKind::Certificate => {
            let certificate = site_files.install_certificate(&args.file)?;
            let content = &certificate.content;
            let now = now_unix();
            let warning = if now >= content.not_after {
                "\nIt has ended already: ask the mesh authority for a new one."
            } else if now < content.not_before {
                "\nIt is not valid yet: check this machine's clock, or wait."
            } else {
                ""
            };
            let value = json!({
                "version": 1, "installed": "certificate", "site": certificate.site, "name": content.name,
                "prefixes": content.prefixes, "not_before": content.not_before, "not_after": content.not_after,
                "file": site_files.certificate(),
            });
            let text = format!(
                "Installed the certificate of {} ({}), valid from {} until {}, prefixes {}.{warning}\nStart the daemon, \
                 or `sdwan reload` if it runs.",
                content.name,
                certificate.site,
                format_time(content.not_before),
                format_time(content.not_after),
                list(&content.prefixes)
            );
            Ok((value, text))
        }
        FileKind::Revocations => {
            let revocations = site_files.install_revocations(&args.file)?;
            let entries = revocations.entries().count();
            let value = json!({
                "version": 1, "installed": "revocations", "entries": entries, "file": site_files.revocations(),
            });
            let text = format!(
                "Installed the revocations: {entries} entries.\n`sdwan reload` makes a running daemon apply \
                 them and tell the other sites."
            );
            Ok((value, text))
        }
        _ => bail!(
            "{} is a file of sdwan, but neither a certificate nor revocations: install what `sdwan mesh admit` or \
             `sdwan mesh revoke` made",
            args.file.display()
        ),
    }
}

fn show(args: ShowArgs) -> anyhow::Result<Printed> {
    let state = SiteFiles::new(args.dir).load()?;
    let site = state.identity.site();
    let wireguard = STANDARD.encode(state.wireguard.public());
    let overlay = state.mesh.overlay_address(site);
    let now = now_unix();
    let (certificate, certificate_text) = match &state.certificate {
        None => (json!(null), "none yet: bring it from `sdwan mesh admit`, then run `sdwan site install`".into()),
        Some(certificate) => {
            let content = &certificate.content;
            let standing = if state.revocations.revokes(certificate) {
                "revoked"
            } else if now >= content.not_after {
                "expired"
            } else if now < content.not_before {
                "not yet valid"
            } else {
                "valid"
            };
            let value = json!({
                "name": content.name, "prefixes": content.prefixes, "not_before": content.not_before,
                "not_after": content.not_after, "fingerprint": hex::encode(certificate.fingerprint()),
                "state": standing,
            });
            let text = format!(
                "{standing}, name {}, until {}, prefixes {}",
                content.name,
                format_time(content.not_after),
                list(&content.prefixes)
            );
            (value, text)
        }
    };
    let value = json!({
        "version": 1, "site": site, "name": state.request.name, "mesh": state.mesh.id, "mesh_name": state.mesh.name,
        "overlay": overlay, "overlay_prefix": state.mesh.overlay,
        "identity_key": hex::encode(state.identity.public().as_bytes()), "wireguard_key": wireguard,
        "certificate": certificate, "revocations": state.revocations.entries().count(),
    });
    let text = format!(
        "Site         {} ({site})\nMesh         {} ({})\nOverlay      {overlay} in {}\nWireGuard    {wireguard}\n\
         Certificate  {certificate_text}\nRevocations  {} entries",
        state.request.name,
        state.mesh.name,
        state.mesh.id,
        state.mesh.overlay,
        state.revocations.entries().count()
    );
    Ok((value, text))
}

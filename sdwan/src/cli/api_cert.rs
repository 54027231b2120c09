//! `sdwan api-cert`: certificates for the API over TLS, from a small authority of one's own.

use std::net::IpAddr;
use std::path::PathBuf;

use super::Exit;
use super::output::Output;
use crate::api::certificates::{AUTHORITY_CERTIFICATE, Authority, Purpose};
use crate::api::views::DoneView;

/// Options of `sdwan api-cert`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Any other authority's certificates do as well. Keep the directory of this one where the mesh authority is: offline.

Examples:
  sdwan api-cert init --dir api-ca
  sdwan api-cert gateway berlin --name gw.berlin.example.net --address 192.0.2.1 --dir api-ca
  sdwan api-cert user alice --days 365 --dir api-ca")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Command {
    /// Make the authority
    Init {
        /// Name of the authority
        #[arg(long, default_value = "sdwan API", value_name = "NAME")]
        name: String,
        #[command(flatten)]
        place: Place,
        /// It ends after so many days
        #[arg(long, default_value_t = 3_650, value_name = "DAYS", value_parser = clap::value_parser!(i64).range(1..=36_500))]
        days: i64,
    },
    /// Issue the certificate of a gateway
    Gateway {
        /// Name of the files
        #[arg(value_parser = file_name)]
        file: String,
        /// DNS name that people connect to; repeat for more
        #[arg(long, value_name = "NAME", required_unless_present = "address")]
        name: Vec<String>,
        /// Address that people connect to; repeat for more
        #[arg(long, value_name = "ADDRESS")]
        address: Vec<IpAddr>,
        #[command(flatten)]
        place: Place,
        /// It ends after so many days
        #[arg(long, default_value_t = 365, value_name = "DAYS", value_parser = clap::value_parser!(i64).range(1..=3_650))]
        days: i64,
    },
    /// Issue the certificate of a user
    User {
        /// Their name, which [[api.user]] gives a role
        #[arg(value_parser = file_name)]
        name: String,
        #[command(flatten)]
        place: Place,
        /// It ends after so many days
        #[arg(long, default_value_t = 365, value_name = "DAYS", value_parser = clap::value_parser!(i64).range(1..=3_650))]
        days: i64,
    },
}

#[derive(clap::Args, Clone, Debug)]
struct Place {
    /// Directory of the authority, where certificates and keys are put
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
}

/// A name that is one of a file, too.
fn file_name(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match text.len() <= 64 && text.bytes().all(allowed) && text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        true => Ok(text.to_owned()),
        false => Err("use 1 to 64 letters, digits and . _ -".to_owned()),
    }
}

impl Args {
    pub(super) fn run(self, output: &Output) -> anyhow::Result<Exit> {
        let message = match self.command {
            Command::Init { name, place, days } => {
                Authority::make(&name, days)?.save(&place.dir)?;
                let certificate = place.dir.join(AUTHORITY_CERTIFICATE);
                format!(
                    "the authority is made; gateways need {} as `client_ca`, and users as --ca",
                    certificate.display()
                )
            }
            Command::Gateway { file, name, address, place, days } => {
                let purpose = Purpose::Gateway { names: name, addresses: address };
                let issued = Authority::open(&place.dir)?.issue(&file, &purpose, days)?;
                let (certificate, key) = issued.save(&place.dir, &file)?;
                format!("{} and {} are for `certificate` and `key` in [api]", certificate.display(), key.display())
            }
            Command::User { name, place, days } => {
                let issued = Authority::open(&place.dir)?.issue(&name, &Purpose::User, days)?;
                let (certificate, key) = issued.save(&place.dir, &name)?;
                format!(
                    "{} and {} are for --cert and --key; give {name:?} a role as [[api.user]] at each gateway",
                    certificate.display(),
                    key.display()
                )
            }
        };
        let done = DoneView::new(message);
        output.print(&done, |_| format!("{}\n", done.message))?;
        Ok(Exit::Ok)
    }
}

//! Options that lead to a daemon on another machine.

use std::path::PathBuf;

use anyhow::Context as _;
use zeroize::Zeroizing;

use crate::api::client::Client;
use crate::api::remote::{Remote, Target};

/// Where a daemon is, and who asks it. Every command that asks the daemon takes them.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Another gateway's daemon")]
pub(super) struct RemoteArgs {
    /// Ask the daemon at https://HOST[:PORT], instead of this machine's
    #[arg(long, global = true, env = "SDWAN_CONNECT", hide_env_values = true, value_name = "URL")]
    pub connect: Option<String>,
    /// Certificate of the authority that issued its certificate
    #[arg(long, global = true, env = "SDWAN_CA", hide_env_values = true, value_name = "FILE", hide_short_help = true)]
    ca: Option<PathBuf>,
    /// Your certificate
    #[arg(
        long,
        global = true,
        env = "SDWAN_CERT",
        hide_env_values = true,
        value_name = "FILE",
        hide_short_help = true
    )]
    cert: Option<PathBuf>,
    /// Your certificate's key
    #[arg(long, global = true, env = "SDWAN_KEY", hide_env_values = true, value_name = "FILE", hide_short_help = true)]
    key: Option<PathBuf>,
    /// File with a token, for viewers without a certificate
    #[arg(
        long,
        global = true,
        env = "SDWAN_TOKEN_FILE",
        hide_env_values = true,
        value_name = "FILE",
        hide_short_help = true
    )]
    token_file: Option<PathBuf>,
}

impl RemoteArgs {
    /// The client, if another machine's daemon is to be asked.
    pub(super) fn client(&self) -> anyhow::Result<Option<Client>> {
        let Some(url) = &self.connect else { return Ok(None) };
        let Some(authority) = &self.ca else {
            anyhow::bail!("--connect needs --ca: the certificate of the authority that issued the gateway's");
        };
        anyhow::ensure!(self.cert.is_some() == self.key.is_some(), "--cert and --key belong together");
        let read = |file: &PathBuf| {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            anyhow::Ok(Zeroizing::new(text.trim().to_owned()))
        };
        let target = Target {
            url: url.clone(),
            authority: authority.clone(),
            identity: self.cert.clone().zip(self.key.clone()),
            token: self.token_file.as_ref().map(read).transpose()?,
        };
        Ok(Some(Client::remote(Remote::new(&target)?)))
    }
}

//! `sdwan dashboard`.

use std::time::Duration;

use super::{Context, Exit};
use crate::api::access::Role;
use crate::api::dashboard::is_built;
use crate::api::views::{CodeOrder, CodeView};
use crate::config::units::Span;

/// Options of `sdwan dashboard`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
The dashboard is where `listen` in [dashboard] or in [api] of the configuration says. Whoever sees it on a loopback address
may look; to change something takes a login.

From another machine, by ssh:
  ssh -L 51880:127.0.0.1:51880 GATEWAY      # then open http://127.0.0.1:51880/

Examples:
  sdwan dashboard
  sdwan dashboard --login
  sdwan dashboard --login --role admin --for 30min")]
pub(super) struct Args {
    /// Make a link that logs in whoever opens it first, within five minutes
    #[arg(long)]
    login: bool,
    /// What they may do: viewer, operator (policies, measurements) or admin (everything)
    #[arg(long, requires = "login", value_name = "ROLE", default_value = "operator", value_parser = role)]
    role: Role,
    /// The login ends after so long, a week at most
    #[arg(long = "for", requires = "login", value_name = "DURATION", default_value = "8h")]
    valid: Span,
}

fn role(text: &str) -> Result<Role, String> {
    [Role::Viewer, Role::Operator, Role::Admin]
        .into_iter()
        .find(|role| role.name() == text)
        .ok_or_else(|| "write viewer, operator or admin".into())
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        if !self.login {
            let session = client.session().await?;
            check(&session.addresses)?;
            context.output.print(&session, |_| lines(&session.addresses, ""))?;
            return Ok(Exit::Ok);
        }
        let Span(valid) = self.valid;
        anyhow::ensure!(valid >= Duration::from_secs(60), "--for is too short: a login lasts a minute at least");
        check(&client.session().await?.addresses)?;
        let made = client.dashboard_code(&CodeOrder { role: self.role, valid_s: valid.as_secs() }).await?;
        context.output.print(&made, |_| render(&made))?;
        Ok(Exit::Ok)
    }
}

/// A link to nowhere helps nobody.
fn check(addresses: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(
        !addresses.is_empty(),
        "the dashboard is served nowhere: add `listen = [\"127.0.0.1:51880\"]` to [dashboard] in the configuration, then \
         `sdwan reload`"
    );
    if !is_built() {
        eprintln!("warning: this sdwan was built without the dashboard's pages; `cargo xtask web` builds them");
    }
    Ok(())
}

/// After `#`, the code goes to no server's log, and in no `Referer`.
fn render(made: &CodeView) -> String {
    lines(&made.addresses, &format!("#/login/{}", made.code))
}

fn lines(addresses: &[String], rest: &str) -> String {
    addresses.iter().map(|address| format!("{address}{rest}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_in_the_fragment_of_each_address() {
        let addresses = vec!["http://127.0.0.1:51880/".to_owned(), "https://gw:9587/".to_owned()];
        assert_eq!(
            lines(&addresses, "#/login/abc"),
            "http://127.0.0.1:51880/#/login/abc\nhttps://gw:9587/#/login/abc\n"
        );
        assert!(check(&[]).unwrap_err().to_string().contains("[dashboard]"));
        assert_eq!((role("admin"), role("root").is_err()), (Ok(Role::Admin), true));
    }
}

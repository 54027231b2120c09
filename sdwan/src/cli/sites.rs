//! `sdwan sites`.

use super::output::{Output, Tone, age, decimal, number, toned};
use super::watch::Watch;
use super::{Context, Exit};
use crate::api::views::SiteView;

/// Options of `sdwan sites`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    watch: Watch,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        self.watch
            .run(context, async || {
                let sites = client.sites().await?;
                context.output.print(&sites, |output| render(&sites.items, output))?;
                Ok(Exit::Ok)
            })
            .await
    }
}

/// The table.
pub(super) fn render(sites: &[SiteView], output: &Output) -> String {
    if sites.is_empty() {
        return "no remote site yet: `sdwan events` shows refused announcements, `sdwan check` what may be wrong\n"
            .into();
    }
    let mut headings = vec!["SITE", "STATE", "SINCE", "PATHS UP", "SCORE", "PREFIXES"];
    if output.wide() {
        headings.extend(["UPLINKS", "OVERLAY", "HEARD", "ID"]);
    }
    let mut table = output.table(&headings);
    for site in sites {
        let tone = match (site.state.as_str(), site.paths_up) {
            ("active", up) if up > 0 && up == site.paths => Tone::Good,
            ("active", up) if up > 0 => Tone::Warning,
            _ => Tone::Bad,
        };
        let mut row = vec![
            site.name.clone().into(),
            toned(&site.state, tone),
            number(age(site.since_s)),
            number(format!("{}/{}", site.paths_up, site.paths)),
            number(decimal(site.best_score)),
            site.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n").into(),
        ];
        if output.wide() {
            row.extend([
                site.uplinks.join(", ").into(),
                site.overlay.map_or_else(|| "-".into(), |overlay| overlay.to_string()).into(),
                number(site.last_announcement_s.map_or_else(|| "-".into(), age)),
                site.id.to_string().into(),
            ]);
        }
        table.add_row(row);
    }
    output.text(&mut table)
}

//! What the running daemon knows of the mesh: whether each peer's ports can be reached, and by which paths packets fit.

use std::collections::{BTreeMap, BTreeSet};

use super::Check;
use crate::api::client::{Client, ClientError};
use crate::api::views::{Health, PathView, SiteView, StatusView};
use crate::engine::path::PathState;

/// Smallest packet that every IPv6 link takes, bytes (RFC 8200 section 5).
const IPV6_MINIMUM_MTU: u16 = 1280;
/// Paths told of by name for each site.
const NAMED: usize = 4;

/// What a daemon that answers tells; a warning that there is none, otherwise.
pub(super) async fn checks(client: &Client) -> Vec<Check> {
    match ask(client).await {
        Ok((status, sites, paths)) => judge(&status, &sites, &paths),
        Err(ClientError::NotRunning { .. }) => vec![Check::warning(
            "daemon",
            "is not running: whether other sites are reached can't be told",
            "start it with `systemctl start sdwan`, then check again",
        )],
        Err(error) => vec![Check::failed("daemon", error.to_string(), "look at its log: `journalctl -u sdwan`")],
    }
}

async fn ask(client: &Client) -> Result<(StatusView, Vec<SiteView>, Vec<PathView>), ClientError> {
    Ok((client.status().await?, client.sites().await?.items, client.paths().await?.items))
}

fn judge(status: &StatusView, sites: &[SiteView], paths: &[PathView]) -> Vec<Check> {
    let running = format!("{} runs, process {}", status.daemon_version, status.pid);
    let mut checks = vec![match status.health {
        Health::Ok => Check::ok("daemon", running),
        // Its own words have the remedies.
        Health::Degraded | Health::Failing => Check::warning("daemon", running, status.problems.join("; ")),
    }];
    if sites.is_empty() {
        checks.push(Check::warning(
            "sites",
            "no other site is known",
            "others are found by multicast on the uplinks, or by `seeds` in [discovery]; UDP of that port must be let in",
        ));
    }
    let mut by_site: BTreeMap<&str, Vec<&PathView>> = BTreeMap::new();
    for path in paths {
        by_site.entry(&path.site_name).or_default().push(path);
    }
    checks
        .extend(sites.iter().map(|site| reached(site, by_site.get(site.name.as_str()).map_or(&[][..], Vec::as_slice))));
    checks.extend(sizes(paths));
    checks
}

/// Are the ports of a site's tunnels open, from here and to here? An answer to a probe proves both.
pub(in crate::cli) fn reached(site: &SiteView, paths: &[&PathView]) -> Check {
    let name = &site.name;
    let (up, silent): (Vec<&PathView>, Vec<&PathView>) = paths.iter().partition(|path| path.state == PathState::Up);
    let (good, all) = (up.len(), paths.len());
    let what = format!("{name}: {good} of {all} paths up");
    if all == 0 {
        let remedy = format!(
            "the uplinks of both sites must have addresses of the same family: compare `sdwan status` here and at {name}"
        );
        return Check::warning("reachable", what, remedy);
    }
    if silent.is_empty() {
        let quickest = up.iter().filter_map(|path| path.rtt_ms).min_by(f64::total_cmp);
        let quickest = quickest.map_or_else(String::new, |rtt| format!("; the quickest answers in {rtt:.1} ms"));
        return Check::ok("reachable", format!("{what}{quickest}"));
    }
    let told: Vec<String> = silent
        .iter()
        .take(NAMED)
        .map(|path| {
            let never = if path.received_packets == 0 && path.rtt_ms.is_none() { ", never heard" } else { "" };
            let endpoint = path.endpoint.as_deref().unwrap_or("no endpoint");
            format!("{}→{} ({endpoint}{never})", path.local_uplink, path.remote_uplink)
        })
        .collect();
    let more = if silent.len() > NAMED { format!(" and {} more", silent.len() - NAMED) } else { String::new() };
    let finding = format!("{what}; silent: {}{more}", told.join(", "));
    let remedy = match common_end(&silent) {
        Some(end) => {
            format!("all of them use {end}: look at that line, and whether its firewall lets UDP in to these ports")
        }
        None => format!(
            "let UDP in to these ports at {name}, and to this site's own at this end; `sdwan events` tells since when"
        ),
    };
    match good {
        0 => Check::failed("reachable", finding, remedy),
        _ => Check::warning("reachable", finding, remedy),
    }
}

/// The uplink that all silent paths have in common while others work, if there is one.
fn common_end(silent: &[&PathView]) -> Option<String> {
    let locals: BTreeSet<&str> = silent.iter().map(|path| path.local_uplink.as_str()).collect();
    let remotes: BTreeSet<&str> = silent.iter().map(|path| path.remote_uplink.as_str()).collect();
    match (locals.len(), remotes.len(), silent.len()) {
        (_, _, 0 | 1) => None,
        (1, _, _) => locals.first().map(|name| format!("the uplink {name} of this site")),
        (_, 1, _) => remotes.first().map(|name| format!("the uplink {name} of the other site")),
        _ => None,
    }
}

/// Do IPv6 packets fit everywhere?
fn sizes(paths: &[PathView]) -> Option<Check> {
    let smallest = paths.iter().filter(|path| path.state == PathState::Up).min_by_key(|path| path.mtu)?;
    let finding = format!(
        "packets of {} bytes fit into every path that is up; the narrowest is {} to {}",
        smallest.mtu, smallest.tunnel, smallest.site_name
    );
    Some(match smallest.mtu {
        IPV6_MINIMUM_MTU.. => Check::ok("path MTU", finding),
        _ => Check::warning(
            "path MTU",
            finding,
            "IPv6 needs 1280 bytes: ask the line's provider for a larger MTU, or lower its use to IPv4",
        ),
    })
}

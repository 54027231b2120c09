//! The site's keys and certificate.

use super::Check;
use crate::config::Config;
use crate::trust::state::{SiteFiles, SiteState};

const NAME: &str = "identity";
/// Seconds before the end of a certificate from which the operator is warned: 30 days.
const RENEW_BEFORE: u64 = 30 * 86_400;

/// Is there an identity, and does its certificate hold?
pub(super) fn check(config: &Config, now_unix: u64) -> Check {
    let directory = &config.site.state_dir;
    let denied = std::fs::read_dir(directory).is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied);
    if denied {
        return Check::failed(NAME, format!("{} can't be read", directory.display()), "run as root");
    }
    match SiteFiles::new(directory).load() {
        Ok(state) => judge(&state, config, now_unix),
        Err(error) => Check::failed(
            NAME,
            error.to_string(),
            "`sdwan site init` makes an identity, `sdwan mesh admit` its certificate, `sdwan site install` installs it",
        ),
    }
}

fn judge(state: &SiteState, config: &Config, now_unix: u64) -> Check {
    let id = state.request.site();
    if config.site.id.is_some_and(|wanted| wanted != id) {
        let remedy = "check `state_dir`, and `id` in [site] (or --site-id)";
        return Check::failed(NAME, format!("the state directory is that of site {id}, not of the wanted one"), remedy);
    }
    let Some(certificate) = &state.certificate else {
        let remedy = "have the request signed with `sdwan mesh admit`, then `sdwan site install`";
        return Check::failed(NAME, format!("site {id} has no certificate yet"), remedy);
    };
    let content = &certificate.content;
    let renew = "ask the mesh authority for another: `sdwan mesh admit`, then `sdwan site install`";
    if state.revocations.revokes(certificate) {
        return Check::failed(NAME, format!("the certificate of {:?} is revoked", content.name), renew);
    }
    if now_unix < content.not_before {
        let remedy = "check the clock of this machine, for example with `timedatectl`";
        return Check::failed(NAME, format!("the certificate of {:?} is not valid yet", content.name), remedy);
    }
    if now_unix > content.not_after {
        return Check::failed(NAME, format!("the certificate of {:?} has expired", content.name), renew);
    }
    let outside = config.site.prefixes.iter().find(|prefix| !certificate.allows(prefix));
    if let Some(prefix) = outside {
        let remedy = "remove it from `prefixes` in [site], or ask the mesh authority for a certificate that has it";
        return Check::failed(NAME, format!("the certificate does not allow the prefix {prefix}"), remedy);
    }
    let left = (content.not_after - now_unix) / 86_400;
    let finding = format!("site {:?} ({id}), certificate valid for {left} more days", content.name);
    if content.not_after - now_unix < RENEW_BEFORE {
        Check::warning(NAME, finding, renew)
    } else {
        Check::ok(NAME, finding)
    }
}

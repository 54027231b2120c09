//! Makes a case that breaks a law smaller, as long as it still breaks that law.

use crate::case::Case;

/// The smallest case that `breaks` and that leaving things out leads to.
pub fn shrink(mut case: Case, breaks: impl Fn(&Case) -> bool) -> Case {
    loop {
        let Some(smaller) = candidates(&case).into_iter().find(|smaller| breaks(smaller)) else { return case };
        case = smaller;
    }
}

/// Cases with a little less of everything, the boldest first.
fn candidates(case: &Case) -> Vec<Case> {
    let mut smaller = Vec::new();
    let mut with = |change: &dyn Fn(&mut Case)| {
        let mut changed = case.clone();
        change(&mut changed);
        if changed != *case {
            smaller.push(changed);
        }
    };
    let half = case.faults.len() / 2;
    if half > 0 {
        with(&|case| drop(case.faults.drain(..half)));
        with(&|case| case.faults.truncate(half));
    }
    for number in (0..case.sites.len()).rev().filter(|_| case.sites.len() > 2) {
        with(&|case| without_site(case, number));
    }
    for number in 0..case.faults.len() {
        with(&|case| {
            case.faults.remove(number);
        });
    }
    for site in 0..case.sites.len() {
        for uplink in (0..case.sites[site].uplinks.len()).rev().filter(|_| case.sites[site].uplinks.len() > 1) {
            with(&|case| without_uplink(case, site, uplink));
        }
    }
    with(&|case| case.messages = Default::default());
    with(&|case| case.degree = 0);
    with(&|case| case.policies = Default::default());
    with(&|case| case.probe_budget = 4_000);
    for site in 0..case.sites.len() {
        with(&|case| case.sites[site].uplinks.iter_mut().for_each(|uplink| uplink.loss_ppm = 0));
        with(&|case| case.sites[site].uplinks.iter_mut().for_each(|uplink| uplink.jitter_us = 0));
        with(&|case| case.sites[site].uplinks.iter_mut().for_each(|uplink| uplink.rate_mbps = None));
        with(&|case| case.sites[site].uplinks.iter_mut().for_each(|uplink| uplink.cost = 0));
    }
    for number in 0..case.faults.len() {
        with(&|case| case.faults[number].for_ms /= 2);
    }
    smaller
}

fn without_site(case: &mut Case, number: usize) {
    case.sites.remove(number);
    case.faults.retain(|fault| fault.site != number);
    case.faults.iter_mut().filter(|fault| fault.site > number).for_each(|fault| fault.site -= 1);
}

fn without_uplink(case: &mut Case, site: usize, uplink: usize) {
    case.sites[site].uplinks.remove(uplink);
    case.faults.retain(|fault| !(fault.site == site && fault.uplink == uplink && fault.kind.breaks_line()));
    let beyond = case.faults.iter_mut().filter(|fault| fault.site == site && fault.uplink > uplink);
    beyond.for_each(|fault| fault.uplink -= 1);
}

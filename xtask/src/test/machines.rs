//! The tier that runs on stock kernels, in virtual machines.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::report::Report;
use super::run_tests;
use crate::cargo::cargo;
use crate::progress::step;
use crate::vm::{self, SERIES};

/// Name of the tier.
pub const NAME: &str = "vm";
/// Names of the reports, kernel by kernel.
const REPORTS: [&str; SERIES.len()] = ["vm 6.1", "vm 6.12"];
/// Test programs of which every test is run: what the verifier says of each program, and every packet of the tables.
const PROGRAMS: &str = "programs";
/// Test program of which a bounded run takes the tests below, in this order, as long as there is time.
const MESH: &str = "mesh";
const CHOSEN: [&str; 10] = [
    "backend::the_kernels_wireguard_and_tcx_are_used_where_the_kernel_has_them",
    "failover::a_cut_line_is_left_within_a_quarter_of_a_second",
    "marking::encrypted_packets_carry_the_dscp_of_their_class_where_that_is_on",
    "families::everything_passes_over_an_ipv6_underlay",
    "detached::a_daemon_that_is_killed_or_stopped_and_started_again_costs_no_packet",
    "steering::voice_gaming_bulk_and_the_rest_take_the_paths_that_their_policies_say",
    "discovery::three_sites_find_each_other_by_multicast",
    "families::everything_passes_over_an_ipv4_underlay",
    "failover::a_carrier_that_is_lost_is_acted_upon_without_waiting_for_probes",
    "discovery::three_sites_find_each_other_by_one_seed_and_gossip",
];
/// Test programs that a run of everything takes besides.
const OTHERS: [&str; 2] = ["bed_netem", "dataplane"];
/// A bounded run starts no test any more when its virtual machine has taken so long, s. By the hardware clock, which
/// shows this machine's time: in an emulated one the others follow the instructions carried out.
const BUDGET_S: u32 = 240;
const CLOCK: &str = "/sys/class/rtc/rtc0/since_epoch";
/// A run of all tiers, with the lints before it, is to be through within an hour. No virtual machine is started any more when the tiers before took so
/// long, and one that was is ended after what is left, or after [`BOUNDED_TIMEOUT_S`], if that is less: only one that hangs gets
/// there.
const LAST_START: Duration = Duration::from_secs(34 * 60);
const LAST_END: Duration = Duration::from_secs(45 * 60);
const BOUNDED_TIMEOUT_S: u32 = 1_200;
const COMPLETE_TIMEOUT_S: u32 = 7_200;

/// Runs the tier on each kernel: everything, or what fits the time of a run that began at `began`. `filter` is a part of the
/// names of tests.
///
/// # Errors
/// When a virtual machine can't be asked. That this machine can't have one is no error: the tier is skipped then.
pub fn run(everything: bool, filter: Option<&str>, began: Instant) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for (series, name) in SERIES.into_iter().zip(REPORTS) {
        let mut report = Report::new(name);
        if !everything && began.elapsed() > LAST_START {
            let reason = "the other tiers have taken nearly the hour that a run may take; `--vm` runs them";
            report.leave_out(&format!("all tests on Linux {series}"), reason);
            reports.push(report);
            continue;
        }
        if let Err(reason) = vm::prepare(series) {
            report.leave_out(&format!("all tests on Linux {series}"), &format!("{reason:#}"));
            reports.push(report);
            continue;
        }
        step(&format!("tier {NAME}, Linux {series}"));
        let started = Instant::now();
        let (script, timeout) = if everything {
            (complete(filter), COMPLETE_TIMEOUT_S)
        } else {
            let names = names_of(MESH)?;
            if let Some(gone) = CHOSEN.iter().find(|chosen| !names.iter().any(|name| name == *chosen)) {
                bail!("there is no test {MESH}::{gone} any more");
            }
            for name in names.iter().filter(|name| !CHOSEN.contains(&name.as_str())) {
                report.leave_out(name, "it isn't among those that a bounded run takes; `--vm` runs it");
            }
            let left = LAST_END.saturating_sub(began.elapsed()).as_secs();
            (bounded(filter), u32::try_from(left).unwrap_or(BOUNDED_TIMEOUT_S).min(BOUNDED_TIMEOUT_S))
        };
        // Through cargo: this very program may have been replaced when the tests were built.
        let mut command = cargo("run");
        command.args(["--quiet", "--package", "xtask", "--"]);
        command.args(["vm", "--kernel", series, "--timeout", &timeout.to_string(), "--", "sh", "-c", &script]);
        run_tests(&mut command, &mut report)?;
        report.seconds = started.elapsed().as_secs_f64();
        reports.push(report);
    }
    Ok(reports)
}

/// Every test of every program, one at a time but for those that measure nothing.
fn complete(filter: Option<&str>) -> String {
    let filter = quoted(filter);
    let mut script = format!("failed=0\n{PROGRAMS} --nocapture {filter} || failed=1\n");
    for program in [MESH].into_iter().chain(OTHERS) {
        script.push_str(&format!("{program} --nocapture --test-threads=1 {filter} || failed=1\n"));
    }
    script.push_str("exit $failed\n");
    script
}

/// The chosen tests until the time is over.
fn bounded(filter: Option<&str>) -> String {
    let filter_word = quoted(filter);
    let mut script = format!("start=$(cat {CLOCK})\nfailed=0\n{PROGRAMS} --nocapture {filter_word} || failed=1\n");
    for test in CHOSEN.iter().filter(|test| filter.is_none_or(|filter| test.contains(filter))) {
        script.push_str(&format!(
            "if [ $(($(cat {CLOCK}) - start)) -lt {BUDGET_S} ]; then\n\
             {MESH} --nocapture --test-threads=1 --exact {test} || failed=1\n\
             else echo 'left out: {test}: the time for virtual machines, {BUDGET_S} s, is used up'; fi\n"
        ));
    }
    script.push_str("exit $failed\n");
    script
}

fn quoted(filter: Option<&str>) -> String {
    filter.map(|filter| format!("'{}'", filter.replace('\'', r"'\''"))).unwrap_or_default()
}

/// Names of all tests of a test program.
fn names_of(program: &str) -> Result<Vec<String>> {
    let programs = vm::programs()?;
    let found = programs.iter().find(|one| one.name == program).with_context(|| format!("no tests {program}"))?;
    let output = Command::new(&found.path).args(["--list", "--format", "terse"]).output();
    let output = output.with_context(|| format!("can't start {}", found.path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_one_word_for_the_shell() {
        assert!(complete(Some("a'b c")).contains(r"programs --nocapture 'a'\''b c' ||"));
    }

    #[test]
    fn a_bounded_run_starts_only_what_the_filter_names() {
        let script = bounded(Some("ipv6"));
        assert_eq!(script.matches("--exact").count(), 1, "{script}");
    }
}

use super::*;

fn report(lines: &[&str], success: bool) -> Report {
    let mut report = Report::new("unit");
    lines.iter().for_each(|line| report.read(line));
    report.finish(success);
    report
}

fn counts(report: &Report) -> (u32, u32, u32) {
    (report.passed(), report.failed(), report.skipped())
}

#[test]
fn closing_lines_of_several_programs_add_up() {
    let lines = [
        "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s",
        "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
    ];
    assert_eq!(counts(&report(&lines, false)), (8, 2, 1));
}

#[test]
fn colours_do_not_hide_the_result() {
    let line = "test result: \u{1b}[32mok\u{1b}[0m. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
    assert_eq!(counts(&report(&[line], true)), (5, 0, 0));
}

#[test]
fn a_test_that_skips_itself_is_not_counted_as_passed() {
    let lines = [
        "test tunnels::kernel ... skipped: tunnels::kernel: the kernel has no WireGuard",
        "ok",
        "skipped: routes: not root",
        "skipped: routes: not root",
        "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s",
    ];
    let report = report(&lines, true);
    assert_eq!(counts(&report), (1, 0, 2));
    let summary = summary(&[report]);
    assert!(summary.contains("skipped in unit: tunnels::kernel: the kernel has no WireGuard"), "{summary}");
    assert!(summary.ends_with("\n1 passed, 0 failed, 2 skipped\n"), "{summary}");
}

#[test]
fn a_crash_counts_as_a_failure_even_without_a_closing_line() {
    let mut report = report(&["running 3 tests"], false);
    assert_eq!(counts(&report), (0, 1, 0));
    report.read("test result: FAILED. 0 passed; 1 failed; 0 ignored;");
    report.finish(false);
    assert_eq!(counts(&report), (0, 2, 0), "the second run failed by its own account and is not counted twice");
}

#[test]
fn a_test_that_was_not_started_is_skipped_and_takes_nothing_from_those_that_passed() {
    let lines = ["left out: mesh::slow: no time", "test result: ok. 1 passed; 0 failed; 0 ignored;"];
    let report = report(&lines, true);
    assert_eq!(counts(&report), (1, 0, 1));
    assert!(summary(&[report]).contains("skipped in unit: mesh::slow: no time\n"));
}

const TWO_FAILED: [&str; 9] = [
    "failures:",
    "",
    "failures:",
    "    mesh::gap",
    "             at ./tests/mesh/failover.rs:120:5",
    "    mesh::spread",
    "",
    "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
    "    no::name",
];

#[test]
fn failed_tests_that_pass_when_they_are_run_again_pass_and_are_named_as_unsteady() {
    let mut first = report(&TWO_FAILED, false);
    assert_eq!(first.second_tries(), ["mesh::gap", "mesh::spread"]);
    let passed = report(&["test result: ok. 2 passed; 0 failed; 0 ignored;"], true);
    first.tried_again(&passed);
    assert_eq!(counts(&first), (5, 0, 0));
    assert!(summary(&[first]).contains("unsteady in unit: mesh::gap: failed, and passed when it was run again"));
}

#[test]
fn what_fails_twice_or_does_not_run_again_stays_a_failure() {
    for line in
        ["test result: FAILED. 1 passed; 1 failed; 0 ignored;", "test result: ok. 0 passed; 0 failed; 0 ignored;"]
    {
        let mut first = report(&TWO_FAILED, false);
        first.tried_again(&report(&[line], line.contains("ok")));
        assert_eq!(counts(&first), (3, 2, 0), "{line}");
    }
}

#[test]
fn many_failures_and_crashes_get_no_second_try() {
    let many = ["failures:", "    a", "    b", "    c", "    d", "test result: FAILED. 0 passed; 4 failed; 0 ignored;"];
    assert!(report(&many, false).second_tries().is_empty());
    let mut crashed = report(&TWO_FAILED, false);
    crashed.finish(false);
    assert!(crashed.second_tries().is_empty());
}

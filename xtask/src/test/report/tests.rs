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

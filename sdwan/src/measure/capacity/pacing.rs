//! Whether the thread that paces a train runs when it should.

use std::io;

/// The bit of `CAP_SYS_NICE` in a set of capabilities.
const SYS_NICE: u32 = 23;

/// Sleeps of this thread end when they should: by default the kernel may add 50 µs, and on a busy machine others come
/// first. It is at work for some hundredths of a second, and sleeps between any two batches.
///
/// # Errors
/// When the thread may not have real-time priority. Trains are then less even on a busy machine; what was really sent is
/// what counts, so figures scatter more and are not wrong.
pub(super) fn keep_time() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // Processes that are started later don't inherit it.
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: prctl takes numbers only here, and the parameters live through the call; both change this thread alone.
    let set = unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0);
        libc::sched_setscheduler(0, policy, &parameters)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a process may do that, from the texts of its `/proc/PID/status` and `/proc/PID/limits`: by the capability
/// `CAP_SYS_NICE`, or by its limit of real-time priority (`LimitRTPRIO=` of systemd).
pub fn may_keep_time(status: &str, limits: &str) -> bool {
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max realtime priority"));
    let limit = limit.and_then(|values| values.split_whitespace().next()).unwrap_or("0");
    capabilities >> SYS_NICE & 1 == 1 || limit != "0"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(capabilities: &str, limit: &str) -> (String, String) {
        let limits = format!(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max nice priority         0                    0                    \n\
             Max realtime priority     {limit:<20} {limit:<20} \n"
        );
        (format!("Name:\tsdwan\nCapEff:\t{capabilities}\n"), limits)
    }

    #[test]
    fn the_capability_or_the_limit_allows_it() {
        for (capabilities, limit, allowed) in [
            ("0000000000000000", "0", false),
            ("000001ffff7fffff", "0", false),
            ("0000000000800000", "0", true),
            ("0000000000000000", "1", true),
            ("0000000000000000", "unlimited", true),
        ] {
            let (status, limits) = texts(capabilities, limit);
            assert_eq!(may_keep_time(&status, &limits), allowed, "{capabilities} {limit}");
        }
        assert!(!may_keep_time("", ""));
    }

    #[test]
    fn the_kernel_allows_what_the_texts_say_and_only_this_thread_changes() {
        let read = |file: &str| std::fs::read_to_string(file).expect("the process sees itself");
        let allowed = may_keep_time(&read("/proc/thread-self/status"), &read("/proc/thread-self/limits"));
        // SAFETY: the call only reads.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let before = policy();
        let (outcome, changed) = std::thread::spawn(move || (keep_time(), policy())).join().expect("no panic");
        assert_eq!(outcome.is_ok(), allowed, "{outcome:?}");
        let expected = if allowed { libc::SCHED_RR | libc::SCHED_RESET_ON_FORK } else { before };
        assert_eq!((changed, policy()), (expected, before));
    }
}

//! The capabilities that the daemon can't do without; `sdwan run` and `sdwan check` ask for the same ones.

use super::StartError;
use crate::confine::capabilities::Set;

/// Those missing in the text of `/proc/PID/status`.
pub fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    Set(effective).lacking().collect()
}

/// Refuses to start without them. Asked before anything is made, the lock included.
pub fn check_privileges() -> Result<(), StartError> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|source| StartError::System { action: "read /proc/self/status", source })?;
    let missing = missing_capabilities(&status);
    if missing.is_empty() { Ok(()) } else { Err(StartError::Privileges { missing: missing.join(", ") }) }
}

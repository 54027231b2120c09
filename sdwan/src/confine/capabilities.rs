//! Capabilities (capabilities(7)), given up for good.

use std::fmt;
use std::io;

/// By number (`capability.h`): what the daemon can't do without. The last two are for the programs: the verifier takes
/// their pointer arithmetic from nobody without `CAP_PERFMON`.
const NEEDED: [(u32, &str); 5] = [
    (10, "CAP_NET_BIND_SERVICE"),
    (NET_ADMIN, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (PERFMON, "CAP_PERFMON"),
    (BPF, "CAP_BPF"),
];
/// `CAP_NET_ADMIN`.
pub const NET_ADMIN: u32 = 12;
/// `CAP_PERFMON`.
const PERFMON: u32 = 38;
/// `CAP_BPF`.
const BPF: u32 = 39;
/// `CAP_SYS_ADMIN`: includes those two.
const SYS_ADMIN: u32 = 21;
/// No kernel has more capabilities than this.
const MOST: u32 = 64;

/// `struct __user_cap_header_struct` of capget(2).
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// `struct __user_cap_data_struct` of capget(2); version 3 takes two for 64 capabilities.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;

/// Some capabilities, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set(pub u64);

impl Set {
    /// Those that this thread may use.
    ///
    /// # Errors
    /// When the kernel doesn't tell.
    pub fn held() -> io::Result<Self> {
        let header = Header { version: VERSION, pid: 0 };
        let mut data = [Data::default(); 2];
        // SAFETY: capget reads one header and, for version 3, writes two data structs; both outlive the call.
        if unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32))
    }

    /// Those of them that the daemon needs. Where the two for the programs come with `CAP_SYS_ADMIN` alone, that.
    pub fn needed(self) -> Self {
        let wanted = NEEDED.iter().fold(0, |set, (number, _)| set | 1 << number);
        let programs = 1 << PERFMON | 1 << BPF;
        let instead = if self.0 & programs == programs { 0 } else { 1 << SYS_ADMIN };
        Self(self.0 & (wanted | instead))
    }

    /// Names of what the daemon needs and isn't among them.
    pub fn lacking(self) -> impl Iterator<Item = &'static str> {
        let held = move |number| self.has(number) || matches!(number, PERFMON | BPF) && self.has(SYS_ADMIN);
        NEEDED.iter().filter(move |(number, _)| !held(*number)).map(|(_, name)| *name)
    }

    fn has(self, number: u32) -> bool {
        self.0 >> number & 1 == 1
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Gives up every capability but these, for good: no program that is executed gets them back.
///
/// Capabilities belong to threads: call it before others are started.
///
/// # Errors
/// When the kernel refuses.
pub fn keep_only(kept: Set) -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    for capability in (0..MOST).filter(|capability| !kept.has(*capability)) {
        // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory of ours.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                // Past the last one that this kernel knows.
                Some(libc::EINVAL) => break,
                // Whoever may not drop from the bounding set gains nothing from it either: no_new_privs is set.
                Some(libc::EPERM) => break,
                _ => return Err(error),
            }
        }
    }
    let header = Header { version: VERSION, pid: 0 };
    let half = |bits: u64| Data { effective: bits as u32, permitted: bits as u32, inheritable: 0 };
    let data = [half(kept.0), half(kept.0 >> 32)];
    // SAFETY: capset reads one header and, for version 3, two data structs; both outlive the call.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Raises the limit of real-time priority to 1, which the thread that paces capacity measurements asks for and would
/// otherwise need `CAP_SYS_NICE` for.
///
/// # Errors
/// When neither the limit is there nor this process may raise it.
pub fn allow_pacing() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_RTPRIO)?;
    if soft >= 1 {
        return Ok(());
    }
    Ok(setrlimit(Resource::RLIMIT_RTPRIO, 1, hard.max(1))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_kept_and_sys_admin_only_in_place_of_what_is_missing() {
        let all = Set(u64::MAX).needed();
        assert_eq!(all.0.count_ones(), 5);
        assert!(all.has(BPF) && !all.has(SYS_ADMIN));
        let older = Set(!(1 << BPF)).needed();
        assert!(older.has(SYS_ADMIN) && !older.has(BPF) && older.has(NET_ADMIN));
        assert_eq!(Set(0).needed(), Set(0));
    }

    #[test]
    fn what_is_given_up_is_gone_from_every_set() {
        // In a thread of its own: the test's process keeps what it has.
        let status = std::thread::spawn(|| {
            let held = Set::held().expect("the kernel tells");
            let kept = Set(held.0 & 1 << NET_ADMIN);
            keep_only(kept).expect("less is always allowed");
            (kept, std::fs::read_to_string("/proc/thread-self/status").expect("it can be read"))
        });
        let (kept, status) = status.join().expect("the thread ends");
        for set in ["CapPrm:", "CapEff:"] {
            let line = status.lines().find_map(|line| line.strip_prefix(set)).expect("it is shown");
            assert_eq!(u64::from_str_radix(line.trim(), 16), Ok(kept.0), "{set}");
        }
        assert!(status.lines().any(|line| line == "NoNewPrivs:\t1"), "{status}");
    }
}

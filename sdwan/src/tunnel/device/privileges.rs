//! What the userspace WireGuard keeps of root's powers: the network, for the firewall mark of its sockets.

use std::io;

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
/// `CAP_NET_ADMIN`: sets firewall marks.
const NET_ADMIN: u32 = 12;
/// No kernel has more capabilities than this.
const MOST: u32 = 64;

/// Gives up every capability but `CAP_NET_ADMIN`, for good; keeps keys out of core dumps and debuggers.
///
/// Capabilities belong to threads: call it before others are started.
pub fn drop_all_but_network() -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    nix::sys::prctl::set_dumpable(false)?;
    for capability in (0..MOST).filter(|capability| *capability != NET_ADMIN) {
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
    let kept = Data { effective: 1 << NET_ADMIN, permitted: 1 << NET_ADMIN, inheritable: 0 };
    let data = [kept, Data::default()];
    // SAFETY: capset reads one header and, for version 3, two data structs; both outlive the call.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

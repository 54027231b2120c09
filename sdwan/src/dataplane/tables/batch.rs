//! Many entries of a map in one system call, which aya doesn't offer.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Pod;
use aya_obj::generated::{bpf_attr, bpf_cmd};

/// Whether the kernel doesn't do many entries of such a map at once, and each must be asked for: before Linux 5.6 it knows
/// no such command (`EINVAL`), and later not for all kinds of maps (`ENOTSUPP`, which user space has no name for).
pub(in crate::dataplane) fn unsupported(error: &io::Error) -> bool {
    const ENOTSUPP: i32 = 524;
    matches!(error.raw_os_error(), Some(libc::EINVAL | ENOTSUPP | libc::EOPNOTSUPP))
}

/// Writes entries (`BPF_MAP_UPDATE_BATCH`, `bpf(2)`). After an error, some of them may be written.
pub(super) fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, entries: &[(K, V)]) -> io::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let keys: Vec<K> = entries.iter().map(|(key, _)| *key).collect();
    let values: Vec<V> = entries.iter().map(|(_, value)| *value).collect();
    let count = u32::try_from(entries.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: all zeros are a valid `bpf_attr`, a union of integers.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    attributes.batch.map_fd = map.as_raw_fd().cast_unsigned();
    attributes.batch.keys = keys.as_ptr() as u64;
    attributes.batch.values = values.as_ptr() as u64;
    attributes.batch.count = count;
    // SAFETY: keys and values hold `count` elements each and live through the call. `K` and `V` have the sizes of the
    // map's: aya has compared them when it opened the map.
    unsafe { call(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attributes) }
}

/// Reads the values of the first `length` entries of an array, in order (`BPF_MAP_LOOKUP_BATCH`).
pub(super) fn lookup<V: Pod + Default>(map: BorrowedFd<'_>, length: u32) -> io::Result<Vec<V>> {
    lookup_per_cpu(map, length, 1)
}

/// The same of a per-CPU array, with the values of all `cpus` possible processors one after the other for each entry. The
/// size of `V` is a multiple of 8 bytes, as the kernel's places for them are.
pub(in crate::dataplane) fn lookup_per_cpu<V: Pod + Default>(
    map: BorrowedFd<'_>,
    length: u32,
    cpus: usize,
) -> io::Result<Vec<V>> {
    if length == 0 {
        return Ok(Vec::new());
    }
    let mut keys = vec![0_u32; length as usize];
    let mut values = vec![V::default(); length as usize * cpus];
    let mut resume = 0_u32;
    // SAFETY: all zeros are a valid `bpf_attr`, a union of integers.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    attributes.batch.map_fd = map.as_raw_fd().cast_unsigned();
    attributes.batch.out_batch = &raw mut resume as u64;
    attributes.batch.keys = keys.as_mut_ptr() as u64;
    attributes.batch.values = values.as_mut_ptr() as u64;
    attributes.batch.count = length;
    // SAFETY: keys and values have room for `count` elements each, of all processors, and live through the call, as does
    // `resume`. `V` has the size of the map's value: aya has compared them when it opened the map.
    unsafe { call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attributes) }?;
    // SAFETY: the member that was used above.
    let read = unsafe { attributes.batch.count };
    if read == length { Ok(values) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
}

/// # Safety
/// The attributes are those of the command, and what they point to is valid.
unsafe fn call(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<()> {
    // SAFETY: the caller's promise; the length is that of the union.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attributes, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

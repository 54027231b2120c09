//! Which processors a thread runs on.

use std::ops::Range;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Ties a thread, 0 for this one, to some processors.
///
/// # Errors
/// When there is no such thread or processor.
pub fn pin(thread: Pid, processors: Range<usize>) -> Result<()> {
    let mut set = CpuSet::new();
    for processor in processors.clone() {
        set.set(processor)?;
    }
    sched_setaffinity(thread, &set).with_context(|| format!("tie thread {thread} to processors {processors:?}"))
}

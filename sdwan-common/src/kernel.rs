//! Which kernels run the programs.

/// Oldest Linux that is supported, major and minor version: the oldest whose verifier the programs are tested against.
pub const OLDEST: (u32, u32) = (6, 1);

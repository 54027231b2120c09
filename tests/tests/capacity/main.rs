//! Capacity measured with real packets: on plain lines of known rates, and by real daemons through their tunnels.

mod bad;
mod mesh;
mod plain;

//! Every number that this gateway leaves in the kernel's routing: firewall marks, tables, priorities, metrics.
//!
//! One home, so that a number can't be used twice and so that `sdwan down` and the manual name the same ones. All of
//! our rules and routes carry [`PROTOCOL`]; what doesn't is somebody else's and is never touched.

use crate::engine::types::{TunnelKey, UplinkIndex};

/// Routing protocol number of our routes, rules and addresses (`ip route show proto 93`).
pub const PROTOCOL: u8 = 0x5d;

/// Our rules compare the whole mark.
pub const MARK_MASK: u32 = 0xffff_ffff;
/// Mark of the outer packets of uplink 0.
const UPLINK_MARK: u32 = 0x5d00_0100;
/// Mark of the packets that the stack shall forward into tunnel 0.
const TUNNEL_MARK: u32 = 0x5d00_0200;

/// Table of uplink 0.
const UPLINK_TABLE: u32 = 20_000;
/// Table of tunnel 0.
const TUNNEL_TABLE: u32 = 21_000;
/// The kernel's main table.
pub const MAIN_TABLE: u32 = 254;

/// Priority of the rule of uplink 0: before the main table's 32766, after the local table's 0.
const UPLINK_PRIORITY: u32 = 5_000;
/// Priority of the rule of tunnel 0.
const TUNNEL_PRIORITY: u32 = 5_010;
/// Last priority that is ours.
pub const LAST_PRIORITY: u32 = 5_099;

/// Metric of a connected subnet in an uplink's table.
pub const CONNECTED_METRIC: u32 = 50;
/// Metric of the default route in an uplink's table, and of everything in a tunnel's table.
pub const TABLE_METRIC: u32 = 100;
/// Metric of the `unreachable` default that ends an uplink's table.
pub const UNREACHABLE_METRIC: u32 = 0x7fff_ffff;
/// Metric, in the main table, of the route by the best path: worse than what the operator or a routing daemon sets.
pub const FALLBACK_METRIC: u32 = 23_800;
/// Metric, in the main table, of the overlay route by tunnel 0: for sockets that are bound to a tunnel.
const OVERLAY_METRIC: u32 = 23_900;
/// Last metric of ours in the main table.
const LAST_METRIC: u32 = 23_999;

const UPLINKS: u32 = UplinkIndex::COUNT as u32;
const TUNNELS: u32 = UPLINKS * UPLINKS;

/// Firewall mark of the outer packets of an uplink's tunnels.
pub const fn uplink_mark(uplink: UplinkIndex) -> u32 {
    UPLINK_MARK | uplink.get() as u32
}

/// Firewall mark that leads a packet into a tunnel through the stack.
pub const fn tunnel_mark(tunnel: TunnelKey) -> u32 {
    TUNNEL_MARK | tunnel.code() as u32
}

/// Routing table that leads out by an uplink.
pub const fn uplink_table(uplink: UplinkIndex) -> u32 {
    UPLINK_TABLE + uplink.get() as u32
}

/// Routing table that leads into a tunnel.
pub const fn tunnel_table(tunnel: TunnelKey) -> u32 {
    TUNNEL_TABLE + tunnel.code() as u32
}

/// Priority of an uplink's rule.
pub const fn uplink_priority(uplink: UplinkIndex) -> u32 {
    UPLINK_PRIORITY + uplink.get() as u32
}

/// Priority of a tunnel's rule.
pub const fn tunnel_priority(tunnel: TunnelKey) -> u32 {
    TUNNEL_PRIORITY + tunnel.code() as u32
}

/// Metric, in the main table, of the overlay route by a tunnel.
pub const fn overlay_metric(tunnel: TunnelKey) -> u32 {
    OVERLAY_METRIC + tunnel.code() as u32
}

/// Is a rule with this protocol and priority ours?
pub const fn is_our_rule(protocol: u8, priority: u32) -> bool {
    protocol == PROTOCOL && priority >= UPLINK_PRIORITY && priority <= LAST_PRIORITY
}

/// Is a route with this protocol, table and metric ours?
pub const fn is_our_route(protocol: u8, table: u32, metric: u32) -> bool {
    let in_tables = (table >= UPLINK_TABLE && table < UPLINK_TABLE + UPLINKS)
        || (table >= TUNNEL_TABLE && table < TUNNEL_TABLE + TUNNELS);
    let in_main = table == MAIN_TABLE && metric >= FALLBACK_METRIC && metric <= LAST_METRIC;
    protocol == PROTOCOL && (in_tables || in_main)
}

const _: () = {
    assert!(TUNNELS <= 0x100 && UPLINKS <= 0x100);
    assert!(UPLINK_PRIORITY + UPLINKS <= TUNNEL_PRIORITY && TUNNEL_PRIORITY + TUNNELS <= LAST_PRIORITY + 1);
    assert!(UPLINK_TABLE + UPLINKS <= TUNNEL_TABLE);
    assert!(FALLBACK_METRIC < OVERLAY_METRIC && OVERLAY_METRIC + TUNNELS <= LAST_METRIC + 1);
};

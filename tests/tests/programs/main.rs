//! The programs, packet by packet, through the kernel's test-run.

mod agreement;
mod copies;
mod cost;
mod direct;
mod guard;
mod lan;
mod lan_filter;
mod load;
mod mesh;
mod packets;
mod redirect;
mod run;
mod superpackets;
mod tcp_rtt;
mod trace;
mod tunnel;

//! The test-bed, and what tests of more than one module share.
//!
//! - [`bed`]: sites, hosts and providers as network namespaces; lines that can be cut and impaired
//! - [`traffic`]: senders and receivers that account for every packet
//! - [`mesh`]: real `sdwan` daemons on a bed
//! - [`clock`]: wall clocks that single processes see differently
//! - [`browser`]: a real browser in a namespace
//! - [`chaos`]: what `cargo xtask bench chaos` does
//! - [`datapath`]: what `cargo xtask bench datapath` measures
//! - [`engine`]: what `cargo xtask bench engine` measures
//! - [`demo`]: what `cargo xtask demo` shows
//! - [`failover`]: what `cargo xtask bench failover` shows
//! - [`figures`]: what benches and the demo print for programs
//! - [`histogram`]: quantiles of durations
//! - [`iperf`]: `iperf3` between two namespaces
//! - [`accuracy`]: what `cargo xtask bench accuracy` shows
//! - [`openapi`]: the document of the API, and whether answers are as it says
//! - [`pace`]: how fast tests may send
//! - [`pins`]: what a former release would have left in the kernel
//! - [`tun`]: TUN devices
//! - [`wire`]: two capacity meters at the ends of a line
//! - [`mtu`]: what is asked of gateways about path MTUs

pub mod accuracy;
pub mod bed;
pub mod browser;
pub mod chaos;
pub mod clock;
pub mod datapath;
pub mod demo;
pub mod engine;
pub mod failover;
pub mod figures;
pub mod flood;
pub mod histogram;
pub mod iperf;
pub mod mesh;
pub mod mtu;
pub mod openapi;
pub mod pace;
pub mod pins;
pub mod processors;
pub mod tools;
pub mod traffic;
pub mod tun;
pub mod wire;

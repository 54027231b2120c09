//! Who carries the tunnels and how the programs are attached follows from what the kernel has.

use aya::util::KernelVersion;
use sdwan_tests::mesh::MeshOptions;
use sdwan_tests::needs_bed;

use crate::{mesh_on, two_sites};

#[test]
fn the_kernels_wireguard_and_tcx_are_used_where_the_kernel_has_them() {
    needs_bed!();
    let bed = two_sites();
    let wireguard = bed.site("a").ip("link add trial type wireguard\nlink delete trial\n").is_ok();
    let tcx = KernelVersion::current().expect("the kernel has a version") >= KernelVersion::new(6, 6, 0);
    let mesh = mesh_on(bed, &MeshOptions::default());
    for gateway in mesh.gateways() {
        let status = gateway.status().expect("the status is shown");
        assert_eq!(status.tunnel_backend, if wireguard { "kernel" } else { "userspace" });
        assert_eq!(status.attach_mode, if tcx { "tcx" } else { "clsact" });
        let kinds = gateway.namespace().shell("ip -details link show type wireguard | grep -c ': sdw' || true");
        let kernel_tunnels: usize = kinds.expect("the links are listed").trim().parse().expect("a number");
        assert_eq!(kernel_tunnels, if wireguard { 4 } else { 0 }, "{}", gateway.name());
    }
}

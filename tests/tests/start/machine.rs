//! Machines that lack something.

use std::net::UdpSocket;

use sdwan::tunnel::kernel_has_wireguard;
use sdwan_tests::mesh::Gateway;

use crate::{mesh_of, picture, ready, refuses, says, sdwan, sentence};

fn add(gateway: &Gateway, text: &str) {
    let old = std::fs::read_to_string(gateway.config()).expect("the configuration is there");
    std::fs::write(gateway.config(), format!("{old}{text}")).expect("the configuration is written");
}

/// Whether the kernel lacks WireGuard; if it has it, says so as the reason for skipping.
fn kernel_lacks_wireguard(test: &str, gateway: &Gateway) -> bool {
    let has = gateway.namespace().run(kernel_has_wireguard).expect("the namespace is entered");
    let lacks = !has.expect("the kernel can be asked");
    if !lacks {
        eprintln!("skipped: {test}: this kernel has WireGuard");
    }
    lacks
}

#[test]
fn a_machine_without_a_bpf_file_system_is_told_the_mount_command() {
    if !ready("a_machine_without_a_bpf_file_system_is_told_the_mount_command") {
        return;
    }
    let mesh = mesh_of(["a"]);
    let gateway = mesh.gateway("a");
    gateway.namespace().shell("mount -t tmpfs none /sys/fs/bpf").expect("it is covered");
    let parts = ["/sys/fs/bpf", "is not on a BPF file system", "`mount -t bpf bpf /sys/fs/bpf`"];
    refuses(gateway, "no bpffs", &parts);

    gateway.namespace().shell("umount /sys/fs/bpf").expect("it is uncovered");
    add(gateway, "[dataplane]\nbpffs = \"/run/pins/sdwan\"\n");
    refuses(gateway, "pins elsewhere", &["/run/pins/sdwan is not on a BPF file system", "set `bpffs` in [dataplane]"]);
}

#[test]
fn a_kernel_without_wireguard_is_told_when_it_alone_is_wanted() {
    if !ready("a_kernel_without_wireguard_is_told_when_it_alone_is_wanted") {
        return;
    }
    let mesh = mesh_of(["a"]);
    let gateway = mesh.gateway("a");
    if !kernel_lacks_wireguard("a_kernel_without_wireguard_is_told_when_it_alone_is_wanted", gateway) {
        return;
    }
    add(gateway, "[tunnel]\nbackend = \"kernel\"\n");
    refuses(
        gateway,
        "backend = kernel",
        &["`backend` in [tunnel] is \"kernel\"", "install the module", "backend = \"auto\""],
    );
}

#[test]
fn a_machine_without_tun_is_told_the_module_when_it_needs_one() {
    if !ready("a_machine_without_tun_is_told_the_module_when_it_needs_one") {
        return;
    }
    let mesh = mesh_of(["a"]);
    let gateway = mesh.gateway("a");
    if !kernel_lacks_wireguard("a_machine_without_tun_is_told_the_module_when_it_needs_one", gateway) {
        return;
    }
    gateway.namespace().shell("mount -t tmpfs none /dev/net").expect("it is covered");
    refuses(gateway, "no TUN", &["/dev/net/tun", "`modprobe tun`"]);
}

#[test]
fn a_machine_without_default_route_or_configured_uplink_is_told_both_remedies() {
    if !ready("a_machine_without_default_route_or_configured_uplink_is_told_both_remedies") {
        return;
    }
    let mesh = mesh_of(["a"]);
    let gateway = mesh.gateway("a");
    let text = std::fs::read_to_string(gateway.config()).expect("the configuration is there");
    let site = text.split("[[uplink]]").next().expect("the site comes first");
    std::fs::write(gateway.config(), site).expect("the configuration is written");
    gateway.namespace().shell("ip route flush default; ip -6 route flush default").expect("the routes go");
    refuses(gateway, "no uplink", &["default route", "[[uplink]]"]);
}

#[test]
fn what_a_failed_first_start_made_is_taken_back_and_what_was_there_stays() {
    if !ready("what_a_failed_first_start_made_is_taken_back_and_what_was_there_stays") {
        return;
    }
    let mesh = mesh_of(["a"]);
    let gateway = mesh.gateway("a");
    // The database is made before the kernel is touched, and stays.
    gateway.text(&["policies", "add", "mine", "--priority", "7"]).expect("a policy is stored");
    let pinned = "bpftool map create /sys/fs/bpf/theirs type array key 4 value 4 entries 1 name theirs";
    gateway.namespace().shell(pinned).expect("a map of somebody else is pinned");
    let port = format!("[::]:{}", sdwan::discovery::PORT);
    let socket = gateway.namespace().run(|| UdpSocket::bind(port)).expect("the namespace is entered");
    let socket = socket.expect("the port is free");
    let look = || {
        let picture = picture::take(gateway);
        let counts = |line: &&str| !line.contains("sdwan.db") && !line.contains("/run/sdwan");
        picture.lines().filter(counts).collect::<Vec<_>>().join("\n")
    };
    let before = look();
    assert!(before.contains("/sys/fs/bpf/theirs"), "{before}");
    let what = "the port is taken";
    let parts = ["Address already in use", "`ss -ulpn sport = :51819`", "`port` in [discovery]"];
    says(what, &sentence(what, sdwan(gateway, &["run"])), &parts);
    picture::assert_same(what, &before, &look());

    // With nobody in its way the same site starts; `down` takes its pins and no others.
    drop(socket);
    let before = look();
    gateway.start().expect("the daemon starts");
    let answers = |gateway: &Gateway| gateway.status().map(|_| Ok(()));
    gateway.wait_for("it answers", crate::PATIENCE, answers).expect("the daemon answers");
    gateway.text(&["down"]).expect("it goes down");
    picture::assert_same("`sdwan down`", &before, &look());
}

//! Everything that a daemon could leave on a machine.

use sdwan_tests::mesh::Gateway;

/// Commands whose output changes when a daemon changes something. The lock file may stay: it is empty of meaning.
const LOOK: &str = "exec 2>&1; ip -o link | cut -d: -f2; ip -o address | awk '{print $2, $4}'; \
                    ip rule; ip -6 rule; ip route show table all; ip -6 route show table all | grep -v '^multicast'; \
                    for i in /sys/class/net/*; do echo $i; tc filter show dev ${i##*/} ingress; done; \
                    bpftool net show 2>/dev/null | grep sdw; \
                    find /sys/fs/bpf /run -mindepth 1 | sort; \
                    grep -H . $(find /proc/sys/net/ipv4 /proc/sys/net/ipv6 -name '*forward*' -o -name rp_filter \
                                -o -name src_valid_mark -o -name accept_ra | sort); \
                    ss -Hlnu; ss -Hlnx | grep sdwan;";

/// Takes it.
pub fn take(gateway: &Gateway) -> String {
    let state = gateway.state();
    let files =
        format!("find {0} -type f ! -name lock -exec sha256sum {{}} +; find {0} ! -name lock | sort", state.display());
    gateway.namespace().shell(&format!("{LOOK} {files}")).expect("the picture is taken")
}

/// Holds that two pictures are the same, and shows what isn't.
pub fn assert_same(what: &str, before: &str, after: &str) {
    let only = |here: &str, there: &str| -> Vec<String> {
        here.lines().filter(|line| !there.lines().any(|other| other == *line)).map(Into::into).collect()
    };
    let (gone, new) = (only(before, after), only(after, before));
    assert!(gone.is_empty() && new.is_empty(), "{what} changed the machine.\ngone: {gone:#?}\nnew: {new:#?}");
}

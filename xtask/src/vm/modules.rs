//! Kernel modules: those that the tests need and what these need.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::vmlinux::decompress;
use crate::progress::run;

/// Modules by name, as far as the kernel has them as modules; the kernel loads them as they are asked for.
const WANTED: [&str; 41] = [
    // Interfaces.
    "wireguard",
    "veth",
    "tun",
    "dummy",
    "vrf",
    "ifb",
    "bridge",
    "8021q",
    "vxlan",
    "af_packet",
    // Traffic control.
    "sch_ingress",
    "sch_netem",
    "sch_htb",
    "sch_tbf",
    "sch_prio",
    "sch_fq",
    "sch_fq_codel",
    "cls_bpf",
    "cls_matchall",
    "cls_flower",
    "cls_u32",
    "cls_fw",
    "act_bpf",
    "act_mirred",
    "act_gact",
    "act_police",
    "act_skbedit",
    // Firewall.
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_ct",
    "nft_limit",
    "nft_log",
    "nft_objref",
    "nft_reject_inet",
    "nft_flow_offload",
    "nf_flow_table_inet",
    // What `ss` asks.
    "tcp_diag",
    "udp_diag",
    "unix_diag",
    "netlink_diag",
];

/// How modules may be compressed: suffix and program.
const COMPRESSIONS: [(&str, &str); 3] = [("xz", "xz"), ("zst", "zstd"), ("gz", "gzip")];

/// A number that changes with the list of modules.
pub fn fingerprint() -> u64 {
    let mut hasher = DefaultHasher::new();
    WANTED.hash(&mut hasher);
    hasher.finish()
}

/// Copies the wanted modules of an unpacked package, uncompressed and indexed, to `to/lib/modules/RELEASE`.
///
/// # Errors
/// When the package has no modules, or a file can't be written.
pub fn stage(package: &Path, release: &str, to: &Path) -> Result<()> {
    let place = Path::new("lib/modules").join(release);
    let (from, staged) = (package.join(&place), to.join(&place));
    if !from.join("modules.dep").is_file() {
        depmod(package, release)?;
    }
    let index = from.join("modules.dep");
    let text = fs::read_to_string(&index).with_context(|| format!("can't read {}", index.display()))?;
    for module in with_dependencies(&text, &WANTED) {
        let (name, compression) = match COMPRESSIONS.iter().find(|(suffix, _)| module.ends_with(&format!(".{suffix}")))
        {
            Some((suffix, program)) => (&module[..module.len() - suffix.len() - 1], Some(*program)),
            None => (module.as_str(), None),
        };
        let target = staged.join(name);
        if let Some(directory) = target.parent() {
            fs::create_dir_all(directory).with_context(|| format!("can't create {}", directory.display()))?;
        }
        let source = from.join(&module);
        match compression {
            Some(program) => decompress(program, &source, &target)?,
            None => {
                fs::copy(&source, &target).with_context(|| format!("can't copy {}", source.display()))?;
            }
        }
    }
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        let source = from.join(list);
        if source.is_file() {
            fs::copy(&source, staged.join(list)).with_context(|| format!("can't copy {}", source.display()))?;
        }
    }
    depmod(to, release)
}

fn depmod(base: &Path, release: &str) -> Result<()> {
    run(Command::new(super::tool("depmod")?).arg("--basedir").arg(base).arg(release))
}

/// Files of the named modules and of all that they need, by an index as `depmod` writes it. Names that it doesn't list
/// are built into the kernel, or unknown to it.
fn with_dependencies(index: &str, names: &[&str]) -> BTreeSet<String> {
    let needs: BTreeMap<&str, Vec<&str>> = index
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (file, needs.split_whitespace().collect()))
        .collect();
    let mut files = BTreeSet::new();
    for (file, needed) in &needs {
        if names.contains(&module_name(file).as_str()) {
            files.insert((*file).to_owned());
            // The index is complete: what a needed one needs is listed here, too.
            files.extend(needed.iter().map(|file| (*file).to_owned()));
        }
    }
    files
}

/// `sch_netem` for `kernel/net/sched/sch-netem.ko.xz`.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_brings_what_it_needs() {
        let index = "kernel/net/a-b.ko.xz: kernel/lib/c.ko.xz kernel/lib/d.ko.xz\nkernel/lib/c.ko.xz: kernel/lib/d.ko.xz\n\
                     kernel/lib/d.ko.xz:\nkernel/lib/e.ko.xz:\n";
        let files: Vec<_> = with_dependencies(index, &["a_b", "built_in"]).into_iter().collect();
        assert_eq!(files, ["kernel/lib/c.ko.xz", "kernel/lib/d.ko.xz", "kernel/net/a-b.ko.xz"]);
    }
}

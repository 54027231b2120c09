use super::*;

const VERBOSE: &str = "rustc 1.96.0 (ac68faa20 2026-05-25)\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.8\n";

#[test]
fn the_llvm_of_a_compiler_is_read_from_its_verbose_version() {
    assert_eq!(llvm_major(VERBOSE), Some(22));
    assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    assert_eq!(llvm_major("LLVM version: unknown\n"), None);
}

#[test]
fn a_missing_toolchain_names_setup_and_both_ways_by_hand() {
    let text = Error::NoToolchain { target: Machine::HOST.target() }.to_string();
    for needle in ["cargo xtask setup", "libstd-rust-web-dev-bpf", "nightly --component rust-src"] {
        assert!(text.contains(needle), "{needle} is not in: {text}");
    }
}

#[test]
fn the_outer_compiler_does_not_reach_the_ebpf_build() {
    let toolchain = Toolchain::Prebuilt { rustc: SYSTEM_RUSTC.into(), llvm: 22 };
    let machine = Machine { arch: "riscv64gc", little_endian: true };
    let command = toolchain.cargo("build", Path::new("/w"), &machine, Path::new("/tools/bpf-linker"));
    let variable = |name: &str| {
        let mut variables = command.get_envs();
        variables.find(|(key, _)| *key == name).map(|(_, value)| value.map(|text| text.to_string_lossy().into_owned()))
    };
    assert_eq!(variable("RUSTC"), Some(Some(SYSTEM_RUSTC.to_owned())));
    assert_eq!(variable("RUSTC_WORKSPACE_WRAPPER"), Some(None), "set to nothing, so removed");
    assert_eq!(variable("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER"), Some(Some("/tools/bpf-linker".to_owned())));
    let flags = variable("CARGO_ENCODED_RUSTFLAGS").flatten().unwrap_or_default();
    assert!(flags.starts_with("--cfg=bpf_target_arch=\"riscv64\""), "{flags}");
}

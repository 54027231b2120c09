//! Loading the object, and a small mesh in its maps.

use std::borrow::BorrowMut;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, Pod, VerifierLogLevel};
use nix::time::{ClockId, clock_gettime};
use sdwan_common::abi::*;

/// The object under test. One place, so that it is easily taken from elsewhere.
pub fn object() -> Vec<u8> {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ebpf/bpfel-unknown-none/release/sdwan-ebpf");
    let path = std::env::var_os("SDWAN_EBPF_OBJECT").map_or_else(|| PathBuf::from(built), PathBuf::from);
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; build the eBPF object first, or name it in SDWAN_EBPF_OBJECT", path.display())
    })
}

/// May this process load programs? Says why not, by the name of the test.
pub fn privileged(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: {test}: loading eBPF programs needs root");
    }
    root
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock exists");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// The moment so long ago, ns of `CLOCK_MONOTONIC`. Waits where the machine hasn't been up for so long.
pub fn ago(ns: u64) -> u64 {
    loop {
        match now_ns().checked_sub(ns) {
            Some(moment) => return moment,
            None => std::thread::sleep(std::time::Duration::from_millis(100)),
        }
    }
}

/// Every XDP program.
pub const XDP_PROGRAMS: [&str; 2] = ["lan_xdp", "wan_xdp"];

/// Every tc program.
pub const PROGRAMS: [&str; 4] = ["lan_ingress", "tunnel_ingress", "tunnel_egress", "uplink_egress"];

fn expect_loaded(name: &str, loaded: Result<(), ProgramError>) {
    match loaded {
        Ok(()) => {}
        Err(ProgramError::LoadError { io_error, verifier_log }) => panic!("{name}: {io_error}\n{verifier_log}"),
        Err(error) => panic!("{name}: {error}"),
    }
}

/// The loaded object.
pub struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// Loads all programs. `tunnel_header` is the length of the link-layer header that `tunnel_ingress` will see.
    pub fn load(tunnel_header: u32) -> Self {
        let object = object();
        let mut loader = EbpfLoader::new();
        loader.override_global("TUNNEL_HEADER", &tunnel_header, true);
        loader.verifier_log_level(VerifierLogLevel::STATS);
        let mut ebpf = loader.load(&object).expect("the object can be loaded");
        for name in PROGRAMS {
            let program: &mut SchedClassifier = ebpf.program_mut(name).expect(name).try_into().expect(name);
            expect_loaded(name, program.load());
        }
        for name in XDP_PROGRAMS {
            let program: &mut Xdp = ebpf.program_mut(name).expect(name).try_into().expect(name);
            expect_loaded(name, program.load());
        }
        Self { ebpf }
    }

    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    pub fn program(&self, name: &str) -> &SchedClassifier {
        self.ebpf.program(name).expect(name).try_into().expect(name)
    }

    pub fn xdp(&self, name: &str) -> &Xdp {
        self.ebpf.program(name).expect(name).try_into().expect(name)
    }

    pub fn array<V: Pod>(&mut self, name: &str) -> Array<&mut MapData, V> {
        Array::try_from(self.ebpf.map_mut(name).expect(name)).expect(name)
    }

    pub fn set<V: Pod>(&mut self, map: &str, index: u32, value: V) {
        self.array(map).set(index, value, 0).expect(map);
    }

    /// Sets all values of an array from the first on, in one call: one for each takes a slow machine long.
    pub fn fill<V: Pod>(&mut self, map: &str, values: &[V]) {
        /// `union bpf_attr` of the batch commands.
        #[repr(C)]
        struct Batch {
            first: u64,
            last: u64,
            keys: u64,
            values: u64,
            count: u32,
            map: u32,
            element_flags: u64,
            flags: u64,
        }
        const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
        let keys: Vec<u32> = (0..values.len() as u32).collect();
        let Some(Map::Array(data)) = self.ebpf.map(map) else { panic!("{map} is an array") };
        let batch = Batch {
            first: 0,
            last: 0,
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: values.len() as u32,
            map: data.fd().as_fd().as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: keys and values hold as many elements as the call is told, of the map's sizes, and live through it.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_BATCH, &raw const batch, size_of::<Batch>()) };
        assert_eq!(result, 0, "{map}: {}", std::io::Error::last_os_error());
    }

    pub fn get<V: Pod>(&mut self, map: &str, index: u32) -> V {
        self.array(map).get(&index, 0).expect(map)
    }

    /// Changes one value.
    pub fn change<V: Pod>(&mut self, map: &str, index: u32, change: impl FnOnce(&mut V)) {
        let mut value = self.get(map, index);
        change(&mut value);
        self.set(map, index, value);
    }

    pub fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        HashMap::try_from(self.ebpf.map_mut(name).expect(name)).expect(name)
    }

    pub fn trie<V: Pod>(&mut self, name: &str) -> LpmTrie<&mut MapData, Address, V> {
        LpmTrie::try_from(self.ebpf.map_mut(name).expect(name)).expect(name)
    }

    /// Inserts a prefix, given in CIDR notation.
    pub fn insert_prefix<V: Pod>(&mut self, map: &str, prefix: &str, value: V) {
        let (address, length) = super::packets::prefix(prefix);
        insert(&mut self.trie(map), length, address, value);
    }

    pub fn insert_prefix_bytes<V: Pod>(&mut self, map: &str, base: Address, length: u32, value: V) {
        insert(&mut self.trie(map), length, base, value);
    }

    /// A per-CPU value, all CPUs.
    pub fn per_cpu<V: Pod>(&mut self, name: &str, index: u32) -> Vec<V> {
        let map: PerCpuArray<_, V> = PerCpuArray::try_from(self.ebpf.map_mut(name).expect(name)).expect(name);
        map.get(&index, 0).expect(name).iter().copied().collect()
    }

    /// Sets the value of every CPU; `value` is told which one.
    pub fn set_per_cpu<V: Pod>(&mut self, name: &str, index: u32, value: impl Fn(usize) -> V) {
        let mut map: PerCpuArray<_, V> = PerCpuArray::try_from(self.ebpf.map_mut(name).expect(name)).expect(name);
        let cpus = map.get(&index, 0).expect(name).len();
        let values = PerCpuValues::try_from((0..cpus).map(value).collect::<Vec<_>>()).expect("one for each CPU");
        map.set(index, values, 0).expect(name);
    }

    /// Everything in the ring buffer.
    pub fn events(&mut self) -> Vec<Event> {
        let mut ring = RingBuf::try_from(self.ebpf.map_mut("events").expect("events")).expect("events");
        let mut events = Vec::new();
        while let Some(item) = ring.next() {
            assert_eq!(item.len(), size_of::<Event>());
            // SAFETY: the program wrote one `Event`, a struct of integers; the ring aligns records to 8 bytes only.
            events.push(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
        }
        events
    }

    /// Sum of a counter over the CPUs.
    pub fn counter(&mut self, name: &str, index: u32) -> u64 {
        self.per_cpu::<u64>(name, index).iter().sum()
    }
}

fn insert<M: BorrowMut<MapData>, V: Pod>(trie: &mut LpmTrie<M, Address, V>, length: u32, address: Address, value: V) {
    trie.insert(&Key::new(length, address), value, 0).expect("the prefix fits");
}

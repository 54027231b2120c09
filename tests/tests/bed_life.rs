//! Beds live side by side, and leave nothing behind, however they end.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sdwan_tests::bed::{Bed, Cut, MARKER, Process, clean_kept, clean_stale};
use sdwan_tests::needs_bed;
use sdwan_tests::traffic::{PingSpec, ping};

/// Network namespaces of all processes.
fn network_namespaces() -> BTreeSet<u64> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    processes.filter_map(|entry| std::fs::metadata(entry.path().join("ns/net")).ok()).map(|file| file.ino()).collect()
}

fn number_of(pid: u32) -> u64 {
    std::fs::metadata(format!("/proc/{pid}/ns/net")).expect("the process runs").ino()
}

/// Waits until a condition holds, for at most 10 s.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Mounts that this process sees, and interfaces of its network namespace.
fn surroundings() -> (String, BTreeSet<String>) {
    let interfaces = std::fs::read_dir("/sys/class/net").expect("/sys").flatten();
    let names = interfaces.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    (std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo"), names)
}

/// A process that holds a bed, with a daemon in one of its namespaces that has left its parents.
struct Holder {
    child: Child,
    prefix: String,
    keeper: u32,
    /// Numbers of the bed's network namespaces.
    namespaces: BTreeSet<u64>,
    directory: PathBuf,
}

impl Holder {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sdwan-bed"))
            .arg("run")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sdwan-bed starts");
        let mut namespaces = BTreeSet::new();
        let mut gateway = None;
        let mut found = None;
        for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
            let line = line.expect("a line");
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [prefix, "is", "kept", "by", "process", keeper, ..] = words[..] {
                found = Some((prefix.to_string(), keeper.trim_end_matches(';').parse().expect("a number")));
                break;
            }
            let pid: u32 = words[3].parse().expect("a number");
            namespaces.insert(number_of(pid));
            gateway.get_or_insert(pid);
        }
        let (prefix, keeper) = found.expect("it says what it is");
        let status = Command::new("nsenter")
            .args(["-t", &gateway.expect("a gateway").to_string(), "-n", "-m"])
            .args(["sh", "-c", "setsid sleep 987 >/dev/null 2>&1 &"])
            .env(MARKER, &prefix)
            .status()
            .expect("nsenter starts");
        assert!(status.success());
        let directory = std::env::temp_dir().join("sdwan-beds").join(&prefix);
        assert!(directory.is_dir());
        Self { child, prefix, keeper, namespaces, directory }
    }

    fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    fn is_gone(&self) -> bool {
        network_namespaces().is_disjoint(&self.namespaces) && !self.directory.exists()
    }

    fn stray_runs(&self) -> bool {
        !network_namespaces().is_disjoint(&self.namespaces)
    }
}

#[test]
fn nothing_remains_when_the_user_of_a_bed_is_killed() {
    needs_bed!();
    let before = surroundings();
    let mut holder = Holder::start();
    holder.kill();
    eventually("the keeper cleans up", || holder.is_gone());
    eventually("the keeper ends", || !PathBuf::from(format!("/proc/{}/exe", holder.keeper)).exists());
    assert_eq!(surroundings(), before);
}

#[test]
fn what_remains_when_the_keeper_is_killed_too_goes_with_the_next_bed() {
    needs_bed!();
    let before = surroundings();
    let mut holder = Holder::start();
    let other = Bed::builder().sites(["a", "b"]).build().expect("bed");
    let keeper = nix::unistd::Pid::from_raw(holder.keeper as i32);
    // Stopped first, the keeper can't see its user's end before it is killed itself.
    nix::sys::signal::kill(keeper, nix::sys::signal::Signal::SIGSTOP).expect("stop");
    holder.kill();
    // Asked while the keeper still lives: once it is dead, any test's new bed may sweep this one.
    assert!(holder.stray_runs(), "the daemon outlives the bed's user");
    nix::sys::signal::kill(keeper, nix::sys::signal::Signal::SIGKILL).expect("kill");
    eventually("the keeper is dead", || !PathBuf::from(format!("/proc/{}/exe", holder.keeper)).exists());
    // A dying process loses its program before its locks: a bed made in between still takes it for alive.
    eventually(&format!("bed {} is gone", holder.prefix), || {
        drop(Bed::builder().sites(["a"]).build().expect("bed"));
        holder.is_gone()
    });
    let [a, b] = ["a", "b"].map(|site| other.link(site, "isp1").attachments()[0].address.addr());
    let spec = PingSpec { source: Some(a), ..PingSpec::new(b, 5) };
    assert_eq!(ping(other.site("a"), &spec).expect("ping").answered, 5, "other beds aren't touched");
    drop(other);
    assert_eq!(surroundings(), before);
}

#[test]
fn nothing_remains_when_a_bed_is_dropped_with_processes_in_it() {
    needs_bed!();
    let before = surroundings();
    let bed = Bed::new().expect("bed");
    let numbers: BTreeSet<u64> = bed.namespaces().iter().map(|one| number_of(one.pid())).collect();
    bed.site("a").shell("setsid sleep 986 >/dev/null 2>&1 &").expect("daemon");
    let mut command = bed.site("b").command("sleep");
    command.arg("985");
    let process = bed.start("sleeper", command).expect("process");
    assert!(!network_namespaces().is_disjoint(&numbers));
    let directory = bed.directory().to_path_buf();
    drop(bed);
    assert!(network_namespaces().is_disjoint(&numbers) && !directory.exists());
    drop(process);
    assert_eq!(surroundings(), before);
}

#[test]
fn a_kept_bed_outlives_its_user_until_it_is_cleaned() {
    needs_bed!();
    let output = Command::new(env!("CARGO_BIN_EXE_sdwan-bed")).arg("up").output().expect("sdwan-bed starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.lines().next().expect("a line");
    let words: Vec<&str> = first.split_whitespace().collect();
    let inside = Command::new(words[1]).args(&words[2..]).args(["ip", "-br", "address", "show", "isp1"]).output();
    let shown = String::from_utf8_lossy(&inside.expect("nsenter starts").stdout).into_owned();
    assert!(shown.contains("198.51.100.1/24"), "{text}{shown}");
    let number = number_of(words[3].parse().expect("a number"));
    clean_stale().expect("clean");
    assert!(network_namespaces().contains(&number), "a kept bed isn't stale");
    assert!(!clean_kept().expect("clean").is_empty());
    assert!(!network_namespaces().contains(&number));
}

#[test]
fn two_beds_run_side_by_side() {
    needs_bed!();
    let beds = [Bed::new().expect("bed"), Bed::new().expect("bed")];
    assert_ne!(beds[0].prefix(), beds[1].prefix());
    beds[0].link("a", "isp1").cut(Cut::Silent).expect("cut");
    for (bed, answered) in beds.iter().zip([0, 5]) {
        let [a, b] = ["a", "b"].map(|site| bed.link(site, "isp1").attachments()[0].address.addr());
        let spec = PingSpec { source: Some(a), patience: Duration::from_millis(200), ..PingSpec::new(b, 5) };
        assert_eq!(ping(bed.site("a"), &spec).expect("ping").answered, answered);
    }
}

#[test]
fn gateways_have_their_own_run_directory_and_bpf_file_system() {
    needs_bed!();
    let bed = Bed::builder().sites(["a", "b"]).build().expect("bed");
    for site in bed.sites() {
        let name = site.name();
        site.shell(&format!("test -d /var/run/wireguard && echo {name} >/run/who && mkdir /sys/fs/bpf/{name}"))
            .expect("private directories");
    }
    for site in bed.sites() {
        let name = site.name();
        assert_eq!(
            site.shell("cat /run/who; ls -d /sys/fs/bpf/?").expect("ls"),
            format!("{name}\n/sys/fs/bpf/{name}\n")
        );
        assert!(site.shell("ls /sys/class/net").expect("ls").contains("lan0"));
    }
    assert!(!PathBuf::from("/run/who").exists() && !PathBuf::from("/sys/fs/bpf/a").exists());
}

#[test]
fn a_process_that_ends_is_seen_and_its_output_kept() {
    needs_bed!();
    let bed = Bed::builder().sites(["a"]).build().expect("bed");
    let mut command = bed.site("a").command("sh");
    command.args(["-c", "ip -br link show lan0; exit 3"]);
    let mut process: Process = bed.start("shell", command).expect("process");
    assert_eq!(process.wait(Duration::from_secs(5)).expect("it ends").code(), Some(3));
    assert!(process.output().contains("lan0"), "{}", process.output());
}

//! STAMP in user space between namespaces: `sdwan measure stamp`, `sdwan measure reflector` and the daemon's `[stamp]`,
//! over lines whose truth is known, against an independent implementation, and under attack.

mod daemon;
mod hostile;
mod lines;
mod peer;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sdwan_tests::bed::{Bed, Process};
use sdwan_tests::mesh::binary;
use serde_json::Value;

/// The machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);
/// Port of the reflectors.
const PORT: u16 = 8_620;

/// Sites `a` and `b` on one segment, in both families.
fn bed() -> Bed {
    Bed::builder().sites(["a", "b"]).build().expect("the bed is built")
}

/// Underlay addresses of a site: IPv4, IPv6.
fn addresses(bed: &Bed, site: &str) -> [IpAddr; 2] {
    let all = bed.link(site, "isp1").attachments();
    [all[0].address.addr(), all[1].address.addr()]
}

/// A key file in the bed's directory.
fn key_file(bed: &Bed, name: &str, byte: u8) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = bed.directory().join(name);
    std::fs::write(&path, format!("{byte:02x}").repeat(32)).expect("the key is written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode is set");
    path
}

/// `sdwan` in a site's namespace.
fn sdwan(bed: &Bed, site: &str, arguments: &[&str]) -> Command {
    let mut command = bed.site(site).command(binary().expect("the binary is there"));
    command.env_remove("SDWAN_SOCKET").env_remove("SDWAN_CONFIG").env("NO_COLOR", "1").args(arguments);
    command
}

/// `sdwan measure reflector` at site `b`, on both of its addresses.
struct Reflector(Process);

impl Reflector {
    fn start(bed: &Bed, name: &str, arguments: &[&str]) -> Self {
        let listen = addresses(bed, "b").map(|address| SocketAddr::new(address, PORT).to_string());
        let mut command = sdwan(bed, "b", &["measure", "reflector", "-o", "json"]);
        command.args(["--listen", &listen[0], "--listen", &listen[1]]).args(arguments);
        let process = bed.start(name, command).expect("the reflector starts");
        wait_for("the reflector listens", || process.output().matches("listening on").count() == 2);
        Self(process)
    }

    /// Ends it; returns its counters.
    fn finish(mut self) -> Value {
        self.0.signal(Signal::SIGINT).expect("a signal");
        let status = self.0.wait(PATIENCE).expect("it ends");
        let output = self.0.output();
        assert!(status.success(), "{status}: {output}");
        let json = &output[output.find('{').expect("JSON")..];
        let report: Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(report["version"], 1);
        report["packets"].clone()
    }
}

/// Runs `sdwan measure stamp` at site `a`; returns its report and whether it says that all went well.
fn session(bed: &Bed, target: SocketAddr, arguments: &[&str]) -> (Value, bool) {
    let mut command = sdwan(bed, "a", &["measure", "stamp", &target.to_string(), "-o", "json"]);
    let output = command.args(arguments).output().expect("it runs");
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.success())
}

/// The same for a session that is answered.
fn answered(bed: &Bed, target: SocketAddr, arguments: &[&str]) -> Value {
    let (report, well) = session(bed, target, arguments);
    assert!(well, "{report:#}");
    assert_eq!(report["version"], 1);
    report
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}

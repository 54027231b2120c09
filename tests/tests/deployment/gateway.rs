//! A gateway on which the document's commands are typed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use sdwan_tests::bed::{Process, Site};
use sdwan_tests::mesh::binary;

/// Machines are slow and noisy.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the output of a command may lag behind.
const SHORT_PATIENCE: Duration = Duration::from_secs(10);

/// A site of the bed, the directory that the reader sits in, and the daemon in the other window.
pub struct Gateway<'a> {
    site: &'a Site,
    place: PathBuf,
    name: &'static str,
    daemon: Option<Process>,
}

impl<'a> Gateway<'a> {
    /// Hides the machine's own sdwan, if it has one, from the commands.
    pub fn new(site: &'a Site, place: &Path, name: &'static str) -> Self {
        let hide = "for d in /etc/sdwan /var/lib/sdwan; do if [ -d $d ]; then mount -t tmpfs none $d; fi; done";
        site.shell(hide).expect("the machine's own files are hidden");
        Self { site, place: place.into(), name, daemon: None }
    }

    /// Runs a command line to its end, which must be a good one; returns what it put out.
    pub fn run(&self, what: &str, line: &str) -> String {
        let output = self.shell(line).output().unwrap_or_else(|error| panic!("{what}: {error}"));
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{what}: {}\n{text}", output.status);
        text
    }

    /// Runs a command line until all of this is in what it puts out: the reader is slower than the daemon, which has
    /// events written within a second or two.
    pub fn run_until_shown(&self, what: &str, line: &str, wanted: &[&str]) {
        let start = Instant::now();
        loop {
            let output = self.run(what, line);
            let Some(part) = wanted.iter().find(|part| !output.contains(**part)) else { return };
            // Only what shows the daemon's state may change by itself.
            let patience = if self.daemon.is_some() { SHORT_PATIENCE } else { Duration::ZERO };
            assert!(start.elapsed() < patience, "{what}: no {part:?} in\n{output}");
            sleep(Duration::from_millis(200));
        }
    }

    /// Asks the daemon's database, which is in use: the question is one that it understands.
    pub fn ask_the_database(&self, what: &str, question: &str) {
        let database = self.place.join(self.name).join("sdwan.db");
        let connection = Connection::open_with_flags(&database, OpenFlags::SQLITE_OPEN_READ_ONLY);
        let connection = connection.unwrap_or_else(|error| panic!("{what}: {}: {error}", database.display()));
        let mut statement = connection.prepare(question).unwrap_or_else(|error| panic!("{what}: {error}\n{question}"));
        let mut rows = statement.query([]).unwrap_or_else(|error| panic!("{what}: {error}\n{question}"));
        while rows.next().unwrap_or_else(|error| panic!("{what}: {error}\n{question}")).is_some() {}
    }

    /// Starts a command line that doesn't end.
    pub fn start(&mut self, line: &str) {
        let log = self.place.join(format!("{}.log", self.name));
        let daemon = Process::start(line, self.shell(&format!("exec {line}")), &log).expect("it starts");
        self.daemon = Some(daemon);
    }

    /// Waits until all paths to a site are up.
    pub fn wait_for_paths(&mut self, site: &str) {
        let start = Instant::now();
        loop {
            let output = self.shell("sdwan paths").output().expect("sdwan runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let paths: Vec<&str> = text.lines().filter(|line| line.contains(site)).collect();
            if !paths.is_empty() && paths.iter().all(|line| line.split_whitespace().any(|word| word == "up")) {
                return;
            }
            let daemon = self.daemon.as_mut().expect("it was started");
            let ended = daemon.ended().expect("it can be looked after");
            assert!(ended.is_none(), "the daemon ended with {ended:?}: {}", daemon.tail());
            assert!(start.elapsed() < PATIENCE, "no path to {site} came up:\n{text}\n{}", daemon.tail());
            sleep(Duration::from_millis(100));
        }
    }

    /// Holds that `sdwan down` ended the daemon, and that none of its things are left.
    pub fn ends_after_down(mut self) {
        let mut daemon = self.daemon.take().expect("it was started");
        let status = daemon.wait(PATIENCE).expect("it ends");
        assert!(status.success(), "{status}: {}", daemon.tail());
        let left = "find /sys/fs/bpf -mindepth 1 ! -name '*.debug'; ip -o link | grep sdw; \
             ip route show table all proto 93; ip rule | grep '^50'; true";
        assert_eq!(self.site.shell(left).expect("it is looked for").trim(), "", "everything is removed");
    }

    fn shell(&self, line: &str) -> Command {
        let program = binary().expect("the binary is there");
        let programs = program.parent().expect("it is in a directory").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.site.command("sh");
        command
            .args(["-ec", &format!("cd '{}'; {line}", self.place.display())])
            .stdin(Stdio::null())
            .env("PATH", format!("{programs}:{path}"))
            .env("HOME", &self.place)
            .env("NO_COLOR", "1")
            .env_remove("SDWAN_CONFIG")
            .env_remove("SDWAN_SOCKET");
        command
    }
}

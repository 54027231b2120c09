//! `cargo xtask test`: the tiers in order of what they need, then a summary.

mod machines;
mod report;

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cargo::{self, Target, cargo};
use crate::progress::{self, step};
use crate::setup::{self, For};
use crate::web;
use report::Report;

/// Arguments of `test`.
#[derive(clap::Args)]
pub struct Test {
    /// Run only these tiers: unit, integration, programs, simulation, namespaces, vm
    #[arg(long = "tier", value_name = "TIER")]
    tiers: Vec<String>,
    /// Run only the tier of virtual machines, and all of it instead of what fits a quarter of an hour
    #[arg(long, conflicts_with = "tiers")]
    vm: bool,
    /// Run only tests whose name contains this
    filter: Option<String>,
}

/// A tier: what its tests need is what they have in common.
struct Tier {
    name: &'static str,
    /// The targets of integration tests that belong to it; `None` for the unit and doc tests.
    targets: Option<fn(&Target) -> bool>,
    /// Tests of one target that run at the same time.
    threads: Option<u8>,
    /// Whether a few failed tests are run once more: those that hold gaps and rates of real time against bounds fail now
    /// and then on a machine whose time isn't its own. A test that needs that is named in the summary.
    second_try: bool,
}

/// The crate whose tests need more than one module.
const TESTS: &str = "sdwan-tests";
/// Targets of [`TESTS`] with this prefix run single programs by `BPF_PROG_TEST_RUN`.
const PROGRAMS: &str = "program";
/// The target of [`TESTS`] that runs meshes in virtual time.
const SIMULATION: &str = "sim";

/// A later tier is a line here.
const TIERS: [Tier; 5] = [
    Tier { name: "unit", targets: None, threads: None, second_try: false },
    Tier { name: "integration", targets: Some(|target| target.package != TESTS), threads: None, second_try: false },
    Tier {
        name: "programs",
        targets: Some(|target| target.package == TESTS && target.name.starts_with(PROGRAMS)),
        threads: None,
        second_try: false,
    },
    Tier {
        name: "simulation",
        targets: Some(|target| target.package == TESTS && target.name == SIMULATION),
        threads: None,
        second_try: false,
    },
    // One at a time: these measure gaps and rates, which a neighbour would disturb.
    Tier {
        name: "namespaces",
        targets: Some(|target| {
            target.package == TESTS && target.name != SIMULATION && !target.name.starts_with(PROGRAMS)
        }),
        threads: Some(1),
        second_try: true,
    },
];

impl Test {
    /// Runs the tiers and prints the summary.
    ///
    /// # Errors
    /// When a tool is missing, the tests don't build, or a tier is named that doesn't exist. Failed tests are no
    /// error but an exit code.
    pub fn run(&self) -> Result<ExitCode> {
        let known: Vec<_> = TIERS.iter().map(|tier| tier.name).chain([machines::NAME]).collect();
        if let Some(unknown) = self.tiers.iter().find(|name| !known.contains(&name.as_str())) {
            bail!("there is no tier {unknown:?}; there are: {}", known.join(", "));
        }
        let began = Instant::now();
        setup::setup(For::Tests)?;
        web::build_if_possible();
        step("building the tests and the binaries that they start");
        progress::run(cargo("build").args(cargo::USER_SPACE).args(["--lib", "--bins", "--tests"]))?;
        let targets = cargo::targets()?;
        let mut reports = Vec::new();
        for tier in &TIERS {
            if !self.wants(tier.name) {
                continue;
            }
            let commands = Self::commands(tier, &targets, &self.filter.iter().map(String::as_str).collect::<Vec<_>>());
            if commands.is_empty() {
                continue;
            }
            step(&format!("tier {}", tier.name));
            let mut report = Report::new(tier.name);
            let started = Instant::now();
            for mut command in commands {
                run_tests(&mut command, &mut report)?;
            }
            let again = if tier.second_try { report.second_tries() } else { Vec::new() };
            if !again.is_empty() {
                step(&format!("once more: {}", again.join(", ")));
                let names: Vec<_> = again.iter().map(String::as_str).chain(["--exact"]).collect();
                let mut second = Report::new(tier.name);
                for mut command in Self::commands(tier, &targets, &names) {
                    run_tests(&mut command, &mut second)?;
                }
                report.tried_again(&second);
            }
            report.seconds = started.elapsed().as_secs_f64();
            reports.push(report);
        }
        if self.vm || self.wants(machines::NAME) {
            reports.extend(machines::run(self.vm, self.filter.as_deref(), began)?);
        }
        print!("{}", report::summary(&reports));
        let failed = reports.iter().any(|report| report.failed() > 0);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn wants(&self, tier: &str) -> bool {
        !self.vm && (self.tiers.is_empty() || self.tiers.iter().any(|name| name == tier))
    }

    /// The cargo commands of a tier, with arguments for its test programs; none when no target belongs to it.
    fn commands(tier: &Tier, targets: &[Target], filter: &[&str]) -> Vec<Command> {
        let test = || {
            let mut command = cargo("test");
            command.args(cargo::USER_SPACE).arg("--no-fail-fast");
            command
        };
        let finish = |mut command: Command, doc: bool| {
            if std::io::stderr().is_terminal() {
                command.args(["--color", "always"]);
            }
            command.arg("--").args(filter);
            if !doc {
                command.arg("--nocapture");
            }
            if let Some(threads) = tier.threads {
                command.arg(format!("--test-threads={threads}"));
            }
            command
        };
        let Some(belongs) = tier.targets else {
            let mut unit = test();
            unit.args(["--lib", "--bins"]);
            let mut doc = test();
            doc.arg("--doc");
            return vec![finish(unit, false), finish(doc, true)];
        };
        let names: Vec<_> = targets.iter().filter(|target| target.kind == "test" && belongs(target)).collect();
        if names.is_empty() {
            return Vec::new();
        }
        let mut command = test();
        for target in names {
            command.args(["--test", &target.name]);
        }
        vec![finish(command, false)]
    }
}

/// Runs one cargo command, shows what it prints as it comes, and counts the results in it.
fn run_tests(command: &mut Command, report: &mut Report) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start {}", command.get_program().display()))?;
    let (sender, lines) = mpsc::channel();
    let output = child.stdout.take().map(|stream| forward(stream, std::io::stdout(), sender.clone()));
    let errors = child.stderr.take().map(|stream| forward(stream, std::io::stderr(), sender));
    for line in lines {
        report.read(&line);
    }
    for reader in [output, errors].into_iter().flatten() {
        if reader.join().is_err() {
            bail!("the output of {} could not be read", progress::words(command));
        }
    }
    let status = child.wait().context("waiting for cargo")?;
    report.finish(status.success());
    Ok(())
}

/// Copies a stream line by line, in a thread of its own.
fn forward(
    stream: impl Read + Send + 'static,
    mut copy: impl Write + Send + 'static,
    lines: mpsc::Sender<String>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            // The copy is for people; results are counted even where nobody reads them.
            let _ = writeln!(copy, "{line}");
            if lines.send(line).is_err() {
                return;
            }
        }
    })
}

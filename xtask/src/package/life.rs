//! `cargo xtask package --test`: the life of the package on two clean machines with systemd, by the commands of the
//! operator's guide, from installing to purging. What the guide's reader sees by himself is looked at after each part.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::guide::{self, Place, Typed};
use super::{NAME, architecture, package};
use crate::cargo::workspace;
use crate::machine::{Ground, Machine};
use crate::progress::{run, step};

/// A command on an emulated machine that is busy; a start of the daemon takes ten seconds there.
const PATIENCE: Duration = Duration::from_secs(150);
/// Gives each machine two providers and a host in its LAN.
const LINES: &str = include_str!("lines.sh");
const BERLIN: usize = 0;
const PARIS: usize = 1;
/// A host behind each of the gateways.
const HOSTS: [&str; 2] = ["10.1.0.2", "10.2.0.2"];
/// Revisions of the package, the one before and the one after.
const REVISIONS: [&str; 2] = ["1", "2"];

/// Looks at the machines before or after a part of the guide.
type Check = fn(&mut Life) -> Result<()>;

/// Parts of the guide by their headings; each is there, and in this order.
const PARTS: [(&str, Option<Check>, Option<Check>); 7] = [
    ("Install", None, Some(Life::is_installed)),
    ("Start the gateways", Some(Life::waits_for_a_certificate), Some(Life::works)),
    ("A copy of a gateway", None, Some(Life::copy_is_secret)),
    ("Restore", Some(Life::loses_everything), Some(Life::is_back)),
    ("Upgrade", Some(Life::begins_to_count), Some(Life::is_upgraded)),
    ("Downgrade", Some(Life::downgrade_is_told), Some(Life::is_downgraded)),
    ("Remove the package", None, Some(Life::is_removed)),
];

/// Two gateways at work on the guide.
struct Life {
    gateways: [Machine; 2],
    /// Process of the daemon in Berlin before an upgrade.
    before: String,
}

/// Runs all of it on one kernel.
///
/// # Errors
/// What went wrong, with the journal of the gateways.
pub fn test(binary: &Path, series: &str) -> Result<ExitCode> {
    let typed = guide::typed()?;
    for (heading, ..) in PARTS {
        ensure!(typed.iter().any(|block| block.heading == heading), "the guide has no commands under {heading:?}");
    }
    let packages = packages(binary)?;
    let names: Vec<String> = packages
        .iter()
        .map(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()).context("a name"))
        .collect::<Result<_>>()?;
    let files: Vec<(&str, &Path)> =
        names.iter().map(String::as_str).zip(packages.iter().map(PathBuf::as_path)).collect();
    let ground = Ground::prepare(series, &files)?;
    let began = Instant::now();
    step(&format!("starting two machines with Linux {}", ground.release()));
    let gateways = [Machine::start(&ground, "berlin", BERLIN)?, Machine::start(&ground, "paris", PARIS)?];
    let mut life = Life { gateways, before: String::new() };
    if let Err(error) = life.lead(&typed) {
        life.tell_journals();
        return Err(error);
    }
    step(&format!("all is well on Linux {}, {} s", ground.release(), began.elapsed().as_secs()));
    Ok(ExitCode::SUCCESS)
}

/// The package in two revisions, without the debug information that nobody on a machine needs.
fn packages(binary: &Path) -> Result<Vec<PathBuf>> {
    let place = workspace().join("target/package/machines");
    fs::create_dir_all(&place).with_context(|| format!("can't make {}", place.display()))?;
    let stripped = place.join(NAME);
    run(Command::new("strip").args(["--strip-debug", "-o"]).arg(&stripped).arg(binary))?;
    let mut files = Vec::new();
    for revision in REVISIONS {
        let version = format!("{}-{revision}", env!("CARGO_PKG_VERSION"));
        let file = place.join(format!("{NAME}_{version}_{}.deb", architecture()?));
        package(&stripped, &version)?.write(&file)?;
        files.push(file);
    }
    Ok(files)
}

impl Life {
    fn lead(&mut self, typed: &[Typed]) -> Result<()> {
        for (number, machine) in self.gateways.iter_mut().enumerate() {
            machine.wait_until_started()?;
            let script = format!("n={} o={}\n{LINES}\ncp /mnt/*.deb /root", number + 1, 2 - number);
            good(machine, &script, "lines and a LAN for it")?;
        }
        let mut part = "";
        for block in typed {
            if block.heading != part {
                self.end(part)?;
                part = &block.heading;
                step(part);
                if let Some((_, Some(check), _)) = PARTS.iter().find(|(heading, ..)| *heading == part) {
                    check(self)?;
                }
            }
            self.follow(block)?;
        }
        self.end(part)
    }

    fn end(&mut self, part: &str) -> Result<()> {
        match PARTS.iter().find(|(heading, ..)| *heading == part) {
            Some((_, _, Some(check))) => check(self).with_context(|| format!("after {part:?}")),
            _ => Ok(()),
        }
    }

    /// Does what a block says.
    fn follow(&mut self, block: &Typed) -> Result<()> {
        let (machines, directory): (&[usize], _) = match block.on {
            Place::Office => (&[BERLIN], "/root/office"),
            Place::Berlin => (&[BERLIN], "/root"),
            Place::Paris => (&[PARIS], "/root"),
            Place::Gateways => (&[BERLIN, PARIS], "/root"),
        };
        for line in block.text.lines() {
            step(&format!("  {:?}: {line}", block.on));
        }
        // Copying from machine to machine goes by way of this one: there is no SSH between them.
        let copies: Vec<&str> = block.text.lines().filter(|line| line.starts_with("scp ")).collect();
        if !copies.is_empty() {
            ensure!(
                copies.len() == block.text.lines().count(),
                "{}: a block copies, or does something else",
                block.place
            );
            return copies.into_iter().try_for_each(|line| self.copy(line, directory));
        }
        for machine in machines {
            let script = format!("set -e\nmkdir -p {directory}\ncd {directory}\n{}\n", block.text);
            let said = good(&mut self.gateways[*machine], &script, &block.place)?;
            said.lines().for_each(|line| eprintln!("      {line}"));
        }
        Ok(())
    }

    /// `scp FROM TO`, where one of them is `root@MACHINE:PATH`.
    fn copy(&mut self, line: &str, directory: &str) -> Result<()> {
        let [_, from, to] = line.split_whitespace().collect::<Vec<_>>()[..] else { bail!("{line}: scp FROM TO") };
        let place = |name: &str| -> Result<(usize, String)> {
            let Some((machine, path)) = name.strip_prefix("root@").and_then(|name| name.split_once(':')) else {
                return Ok((BERLIN, format!("{directory}/{name}")));
            };
            let number = match machine {
                "berlin" => BERLIN,
                "paris" => PARIS,
                _ => bail!("{line}: there is no machine {machine}"),
            };
            Ok((number, if path.starts_with('/') { path.into() } else { format!("/root/{path}") }))
        };
        let ((source, read), (target, mut write)) = (place(from)?, place(to)?);
        if write.ends_with('/') {
            write.push_str(Path::new(from).file_name().and_then(|name| name.to_str()).unwrap_or_default());
        }
        let content = good(&mut self.gateways[source], &format!("base64 -w0 '{read}'"), line)?;
        let content = BASE64.encode(BASE64.decode(content.trim()).context("what was read")?);
        good(&mut self.gateways[target], &format!("echo {content} | base64 -d >'{write}'"), line).map(drop)
    }

    fn berlin(&mut self, script: &str) -> Result<String> {
        good(&mut self.gateways[BERLIN], script, "a check")
    }

    fn both(&mut self, script: &str) -> Result<()> {
        self.gateways.iter_mut().try_for_each(|machine| good(machine, script, "a check").map(drop))
    }

    /// The unit is there and enabled, and the files are as the package has them.
    fn is_installed(&mut self) -> Result<()> {
        self.both(
            "set -e
             systemctl is-enabled --quiet sdwan
             test -z \"$(dpkg --verify sdwan)\"
             systemd-analyze verify --man=no sdwan.service
             test -s /usr/share/man/man1/sdwan.1.gz; test -s /usr/share/bash-completion/completions/sdwan
             test -s /etc/sdwan/sdwan.toml.example",
        )
    }

    /// Before a machine is a site nothing runs, and nothing counts as failed. The certificates have come by now: they are
    /// out of the way for a moment.
    fn waits_for_a_certificate(&mut self) -> Result<()> {
        let said = self.berlin(
            "set -e
             mv /var/lib/sdwan/site.cert /root/aside
             systemctl start sdwan
             if systemctl is-active --quiet sdwan || systemctl is-failed --quiet sdwan; then
                 echo it runs, or counts as failed; exit 1
             fi
             if sdwan run; then echo it ran; exit 1; fi
             mv /root/aside /var/lib/sdwan/site.cert",
        )?;
        step(&format!("  without a certificate: {}", said.trim()));
        ensure!(said.contains("sdwan site install"), "it doesn't say what to do:\n{said}");
        Ok(())
    }

    /// The mesh carries packets; the daemon has no more rights than it needs, and is started anew when it hangs.
    fn works(&mut self) -> Result<()> {
        self.carries()?;
        let said = self.berlin(
            "set -e
             pid=$(systemctl show --property MainPID --value sdwan)
             grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/$pid/status
             journalctl --unit sdwan --no-pager --output cat | grep -m1 confined=
             systemd-analyze security --no-pager sdwan | tail -1",
        )?;
        said.lines().for_each(|line| step(&format!("  {line}")));
        // NET_BIND_SERVICE, NET_ADMIN, NET_RAW, PERFMON, BPF
        for wanted in ["CapPrm:\t000000c000003400", "CapBnd:\t000000c000003400", "NoNewPrivs:\t1", "Seccomp:\t2"] {
            ensure!(said.contains(wanted), "{wanted} is missing:\n{said}");
        }
        ensure!(said.contains("to its capabilities and its files"), "it is not confined by Landlock:\n{said}");
        self.berlin(
            "set -e
             before=$(systemctl show --property MainPID --value sdwan)
             systemctl reload sdwan
             systemctl is-active --quiet sdwan
             sdwan status --wait >/dev/null
             kill -STOP $before
             for second in $(seq 90); do
                 after=$(systemctl show --property MainPID --value sdwan)
                 [ $after != $before ] && [ $after != 0 ] && systemctl is-active --quiet sdwan && exit
                 sleep 1
             done
             echo the daemon that hangs is not started anew; exit 1",
        )?;
        step("  it reloads, and the watchdog ended one that hung");
        self.no_call_is_refused()?;
        // What a copy has to bring back.
        self.berlin(
            "set -e
             sdwan policies add from-before --priority 260 --protocol tcp --destination-port 9999 --preference cost
             printf '[log]\\nlevel = \"info\"\\n' >/etc/sdwan/sdwan.toml",
        )?;
        self.carries()
    }

    /// The filter of system calls has refused nothing; it logs when it is told to.
    fn no_call_is_refused(&mut self) -> Result<()> {
        self.berlin(
            "set -e
             mkdir -p /run/systemd/system/sdwan.service.d
             allowed=$(systemctl cat sdwan | sed -n 's/^SystemCallFilter=//p' | head -1)
             denied=$(systemctl cat sdwan | sed -n 's/^SystemCallFilter=~//p')
             printf '[Service]\\nSystemCallLog=~%s\\nSystemCallLog=%s\\n' \"$allowed\" \"$denied\" \
                 >/run/systemd/system/sdwan.service.d/log.conf
             systemctl daemon-reload
             systemctl restart sdwan
             sdwan status --wait >/dev/null
             systemctl reload sdwan
             sdwan status --wait >/dev/null
             sdwan measure mtu paris 0-0 >/dev/null
             sdwan report --since 1h >/dev/null
             sleep 5
             rm -r /run/systemd/system/sdwan.service.d
             systemctl daemon-reload
             refused=$(journalctl --dmesg --no-pager --output cat | grep 'type=1326.*comm=\"sdwan\"' || true)
             [ -z \"$refused\" ] || { echo \"$refused\"; exit 1; }",
        )
        .map(drop)
    }

    /// Hosts of the two LANs reach each other, by the tunnels.
    fn carries(&mut self) -> Result<()> {
        self.both("sdwan status --wait >/dev/null")?;
        let said = self.berlin(&format!(
            "ip netns exec host ping -c 20 -i 0.1 -q {}; ip -oneline -stats link | grep -c 'sdw[0-9]'; sdwan paths",
            HOSTS[PARIS]
        ))?;
        ensure!(said.contains(" 0% packet loss"), "hosts don't reach each other:\n{said}");
        said.lines().filter(|line| line.contains("packet loss")).for_each(|line| step(&format!("  {line}")));
        Ok(())
    }

    fn copy_is_secret(&mut self) -> Result<()> {
        let said = self.berlin("stat -c '%a %s bytes' /root/berlin.tar.gz; tar -tzf /root/berlin.tar.gz")?;
        step(&format!("  {}", said.lines().collect::<Vec<_>>().join(", ")));
        ensure!(said.starts_with("600 "), "others can read it:\n{said}");
        for file in ["identity.key", "wireguard.key", "site.cert", "sdwan.db", "sdwan.toml"] {
            ensure!(said.contains(file), "{file} is not in the copy:\n{said}");
        }
        Ok(())
    }

    /// As after a broken disk: nothing of the gateway is left.
    fn loses_everything(&mut self) -> Result<()> {
        self.berlin(
            "set -e
             systemctl stop sdwan; sdwan down
             DEBIAN_FRONTEND=noninteractive apt-get purge --yes sdwan
             test ! -e /var/lib/sdwan; test ! -e /etc/sdwan",
        )?;
        self.nothing_is_left()
    }

    fn is_back(&mut self) -> Result<()> {
        self.carries()?;
        let said = self.berlin("sdwan policies list")?;
        ensure!(said.contains("from-before"), "the policy of before is gone:\n{said}");
        Ok(())
    }

    /// Packets in both directions, a hundred a second, until the upgrade is over.
    fn begins_to_count(&mut self) -> Result<()> {
        self.carries()?;
        self.before = self.berlin("systemctl show --property MainPID --value sdwan")?;
        for (number, other) in [(BERLIN, PARIS), (PARIS, BERLIN)] {
            let script = format!(
                "ip netns exec host ping -i 0.02 -q {} >/root/ping 2>&1 & echo $! >/root/ping.pid",
                HOSTS[other]
            );
            good(&mut self.gateways[number], &script, "counting")?;
        }
        self.berlin("sleep 5").map(drop)
    }

    fn is_upgraded(&mut self) -> Result<()> {
        self.changed(REVISIONS[1])?;
        for machine in &mut self.gateways {
            let said =
                good(machine, "sleep 10; kill -INT $(cat /root/ping.pid); sleep 1; cat /root/ping", "the count")?;
            let counted = said.lines().find(|line| line.contains("packet loss")).unwrap_or(&said).to_owned();
            step(&format!("  while {} counted: {counted}", machine.name()));
            let sent = counted.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0_u32);
            ensure!(sent > 500 && counted.contains(" 0% packet loss"), "packets were lost by the upgrade:\n{said}");
        }
        Ok(())
    }

    /// The daemon runs as another process, of this revision.
    fn changed(&mut self, revision: &str) -> Result<()> {
        let said = self.berlin(
            "set -e
             systemctl is-active --quiet sdwan
             dpkg-query --show --showformat '${Version}\\n' sdwan
             systemctl show --property MainPID --value sdwan",
        )?;
        ensure!(said.contains(&format!("-{revision}\n")), "another revision is installed:\n{said}");
        ensure!(!said.contains(&format!("\n{}", self.before)), "the daemon of before still runs:\n{said}");
        self.before = self.berlin("systemctl show --property MainPID --value sdwan")?;
        Ok(())
    }

    /// apt does it only when told to.
    fn downgrade_is_told(&mut self) -> Result<()> {
        let script = format!("! apt-get install --yes ./sdwan_*-{}_*.deb 2>&1", REVISIONS[0]);
        let said = self.berlin(&script)?;
        ensure!(said.contains("DOWNGRADED"), "apt doesn't tell that it would be a downgrade:\n{said}");
        Ok(())
    }

    fn is_downgraded(&mut self) -> Result<()> {
        self.changed(REVISIONS[0])?;
        self.carries()
    }

    /// The last part: what is removed leaves keys, what is installed over them is the same site, what is purged leaves
    /// nothing.
    fn is_removed(&mut self) -> Result<()> {
        self.nothing_is_left()?;
        self.berlin("test -e /var/lib/sdwan/identity.key && test -e /etc/sdwan/sdwan.toml")?;
        step("  installed over what was kept");
        self.berlin(&format!(
            "set -e; apt-get install --yes ./sdwan_*-{}_*.deb; systemctl is-active sdwan",
            REVISIONS[1]
        ))?;
        self.carries()?;
        step("  purged");
        self.berlin("DEBIAN_FRONTEND=noninteractive apt-get purge --yes sdwan")?;
        self.nothing_is_left()?;
        self.berlin(
            "for left in /var/lib/sdwan /etc/sdwan /run/sdwan /usr/lib/systemd/system/sdwan.service \\
                 /etc/systemd/system/sdwan.service /etc/systemd/system/multi-user.target.wants/sdwan.service; do
                 if [ -e $left ] || [ -L $left ]; then echo $left is left; exit 1; fi
             done
             if dpkg-query --status sdwan 2>/dev/null; then echo dpkg knows it; exit 1; fi",
        )
        .map(drop)
    }

    /// In the kernel.
    fn nothing_is_left(&mut self) -> Result<()> {
        let left = self.berlin(
            "find /sys/fs/bpf -mindepth 1 ! -name '*.debug'; ip -oneline link | grep ' sdw'; \
             ip route show table all proto 93; ip -6 route show table all proto 93; ip rule | grep '^50'; \
             ip -6 rule | grep '^50'; pgrep -a sdwan; true",
        )?;
        ensure!(left.trim().is_empty(), "in Berlin there is left:\n{left}");
        Ok(())
    }

    fn tell_journals(&mut self) {
        for machine in &mut self.gateways {
            let script = "journalctl --unit sdwan --no-pager --lines 60; sdwan status; sdwan paths; ip -brief address";
            match machine.ask(script, PATIENCE) {
                Ok(answer) => eprintln!("-- {}\n{}", machine.name(), answer.output),
                Err(error) => eprintln!("-- {}: {error:#}", machine.name()),
            }
        }
    }
}

/// What a script prints that must end well.
fn good(machine: &mut Machine, script: &str, what: &str) -> Result<String> {
    let answer = machine.ask(script, PATIENCE)?;
    if answer.status != 0 {
        bail!("{what}: on {} this ended with {}:\n{script}\n--\n{}", machine.name(), answer.status, answer.output);
    }
    Ok(answer.output)
}

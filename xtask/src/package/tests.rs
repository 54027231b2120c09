use super::*;

fn small() -> Package {
    Package {
        control: vec![
            ("Package", "small".into()),
            ("Version", "1-1".into()),
            ("Architecture", "all".into()),
            ("Maintainer", "Nobody <nobody@example.net>".into()),
            ("Description", "small\n a package".into()),
        ],
        scripts: SCRIPTS.map(|(name, text)| (name, text.to_owned())).to_vec(),
        conffiles: vec!["etc/small/file".into()],
        files: vec![
            Entry::directory("etc/small", 0o750),
            Entry::file("etc/small/file", "content\n"),
            Entry::program("usr/bin/small", "#!/bin/sh\n"),
        ],
        time_unix_s: 1_700_000_000,
    }
}

/// What a program of dpkg says; `None` where there is none.
fn ask(test: &str, program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: {test}: no program `{program}`: install dpkg");
            None
        }
        output => {
            let output = output.expect("it runs");
            assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8(output.stdout).expect("it is text"))
        }
    }
}

fn written(name: &str) -> (PathBuf, String) {
    let directory = workspace().join("target/package/tests").join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("a directory");
    let file = directory.join("small.deb");
    small().write(&file).expect("it is written");
    (directory, file.display().to_string())
}

#[test]
fn dpkg_reads_what_is_written() {
    let (_, file) = written("reads");
    let Some(listed) = ask("dpkg_reads_what_is_written", "dpkg-deb", &["--contents", &file]) else { return };
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    let shown: Vec<(&str, &str, &str)> =
        lines.iter().map(|line| (line[0], line[1], *line.last().expect("a name"))).collect();
    assert_eq!(
        shown,
        [
            ("drwxr-xr-x", "root/root", "./"),
            ("drwxr-xr-x", "root/root", "./etc/"),
            ("drwxr-x---", "root/root", "./etc/small/"),
            ("-rw-r--r--", "root/root", "./etc/small/file"),
            ("drwxr-xr-x", "root/root", "./usr/"),
            ("drwxr-xr-x", "root/root", "./usr/bin/"),
            ("-rwxr-xr-x", "root/root", "./usr/bin/small"),
        ]
    );
    let info = ask("dpkg_reads_what_is_written", "dpkg-deb", &["--info", &file]).expect("dpkg is there");
    for part in ["Package: small", "Installed-Size: 1", "postinst", "prerm", "postrm", "conffiles", "md5sums"] {
        assert!(info.contains(part), "{part}: {info}");
    }
}

#[test]
fn equal_content_gives_equal_bytes() {
    let (first, second) = (written("first").1, written("second").1);
    assert_eq!(fs::read(first).expect("it is there"), fs::read(second).expect("it is there"));
}

#[test]
fn the_scripts_are_shell_and_know_every_way_in_which_dpkg_calls_them() {
    for (name, text) in SCRIPTS {
        let (directory, _) = written(&format!("script-{name}"));
        let file = directory.join(name);
        fs::write(&file, text).expect("it is written");
        let parsed = Command::new("sh").arg("-n").arg(&file).status().expect("there is a shell");
        assert!(parsed.success(), "{name} is no shell");
        let ways: &[&str] = match name {
            "postinst" => &["configure", "abort-upgrade", "abort-remove", "abort-deconfigure"],
            "prerm" => &["remove", "upgrade", "failed-upgrade", "deconfigure"],
            _ => &["remove", "purge", "upgrade", "failed-upgrade", "abort-install", "abort-upgrade", "disappear"],
        };
        for way in ways {
            assert!(text.contains(way), "{name} {way}");
        }
        // Called in a way that dpkg hasn't, they change nothing.
        let outcome = Command::new("sh").arg(&file).arg("no-such-way").output().expect("there is a shell");
        assert_eq!(outcome.status.code(), Some(1), "{name}");
        assert!(String::from_utf8_lossy(&outcome.stderr).contains("unknown argument"), "{name}");
    }
}

#[test]
fn the_version_of_glibc_is_the_latest_that_is_asked_for() {
    assert_eq!(glibc_version(b"x\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0"), Some((2, 34)));
    assert_eq!(glibc_version(b"x\0GLIBC_PRIVATE\0"), None);
    let own = fs::read(std::env::current_exe().expect("this program")).expect("it can be read");
    assert!(glibc_version(&own).is_some_and(|(_, minor)| minor >= 17), "{:?}", glibc_version(&own));
}

/// Runs a script as root on a copy of this system that is thrown away: an overlay, with a network of its own.
fn on_a_copy(script: &str) -> std::process::Output {
    let place = workspace().join("target/package/copy");
    fs::create_dir_all(&place).expect("a directory");
    let place = place.display();
    let enter = format!(
        "set -e
         mount -t tmpfs none '{place}'
         mkdir '{place}/upper' '{place}/work' '{place}/root'
         mount -t overlay overlay -o 'lowerdir=/,upperdir={place}/upper,workdir={place}/work' '{place}/root'
         mount -t tmpfs none '{place}/root/run'
         mount --bind /dev '{place}/root/dev'
         exec chroot '{place}/root' sh -c \"$SCRIPT\""
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "sh", "-c", &enter]).env("SCRIPT", script);
    command.env("DEBIAN_FRONTEND", "noninteractive").output().expect("unshare runs")
}

/// Whether that works here; if not, says so as skipped.
fn can_copy(test: &str) -> bool {
    let outcome = on_a_copy("dpkg --version");
    if !outcome.status.success() {
        let reason = String::from_utf8_lossy(&outcome.stderr).trim().to_owned();
        eprintln!("skipped: {test}: no overlay with dpkg in it: {reason}");
    }
    outcome.status.success()
}

/// The binary that tests have built, if they have.
fn built(test: &str) -> Option<PathBuf> {
    let binary = workspace().join("target/debug/sdwan");
    if !binary.is_file() {
        eprintln!("skipped: {test}: {} is not built", binary.display());
        return None;
    }
    Some(binary)
}

#[test]
fn it_is_installed_upgraded_removed_and_purged_without_a_trace() {
    let test = "it_is_installed_upgraded_removed_and_purged_without_a_trace";
    let Some(binary) = built(test) else { return };
    if !can_copy(test) {
        return;
    }
    let (directory, _) = written("life");
    for version in ["0.0.1-1", "0.0.1-2"] {
        let file = directory.join(format!("{version}.deb"));
        package(&binary, version).expect("it is made").write(&file).expect("it is written");
    }
    let place = directory.display();
    let script = format!(
        "set -ex
         dpkg --force-depends --install {place}/0.0.1-1.deb
         test \"$(sdwan --version)\" = 'sdwan {}'
         test -z \"$(dpkg --verify sdwan)\"
         test \"$(stat -c %a /var/lib/sdwan)\" = 700
         test -s /usr/share/man/man1/sdwan-status.1.gz
         test -s /usr/share/bash-completion/completions/sdwan
         sdwan --config /etc/sdwan/sdwan.toml.example config show > /dev/null
         test -L /etc/systemd/system/multi-user.target.wants/sdwan.service
         echo key > /var/lib/sdwan/identity.key
         echo '[log]' > /etc/sdwan/sdwan.toml
         dpkg --force-depends --install {place}/0.0.1-2.deb
         test \"$(dpkg-query --show --showformat '${{Version}}' sdwan)\" = 0.0.1-2
         test \"$(cat /var/lib/sdwan/identity.key)\" = key
         dpkg --remove sdwan
         test ! -e /usr/bin/sdwan
         test -e /var/lib/sdwan/identity.key
         test -e /etc/sdwan/sdwan.toml
         dpkg --force-depends --install {place}/0.0.1-1.deb
         test ! -L /etc/systemd/system/sdwan.service
         test -L /etc/systemd/system/multi-user.target.wants/sdwan.service
         test \"$(cat /var/lib/sdwan/identity.key)\" = key
         dpkg --purge sdwan
         for left in /var/lib/sdwan /etc/sdwan /usr/lib/systemd/system/sdwan.service /usr/share/doc/sdwan \\
             /etc/systemd/system/multi-user.target.wants/sdwan.service /etc/systemd/system/sdwan.service; do
             test ! -e $left && test ! -L $left
         done",
        env!("CARGO_PKG_VERSION")
    );
    let outcome = on_a_copy(&script);
    let said = format!("{}{}", String::from_utf8_lossy(&outcome.stdout), String::from_utf8_lossy(&outcome.stderr));
    assert!(outcome.status.success(), "{said}");
    assert!(said.contains("this machine is no site of a mesh yet"), "{said}");
}

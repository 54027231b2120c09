use clap::Parser;

use super::*;
use crate::cli::output::Output;
use crate::cli::{Cli, Command};

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Runs a command line; `@x` stands for the file x of the bench.
    fn run(&self, line: &str) -> anyhow::Result<()> {
        let words = line.split(' ').map(|word| match word.strip_prefix('@') {
            Some(name) => self.path(name),
            None => word.into(),
        });
        let cli = Cli::try_parse_from(std::iter::once("sdwan".to_string()).chain(words))?;
        let output = Output::for_file(cli.global.output);
        match cli.command {
            Command::Mesh(command) => command.run(&output),
            Command::Site(command) => command.run(&output),
            other => panic!("{other:?} is no command of the mesh or of a site"),
        }
    }

    fn ok(&self, line: &str) {
        self.run(line).unwrap_or_else(|error| panic!("{line}: {error:#}"));
    }

    fn error(&self, line: &str) -> String {
        format!("{:#}", self.run(line).expect_err(line))
    }

    /// A mesh in `m`, a site in `berlin` that asked to join it.
    fn with_site() -> Self {
        let bench = Self::new();
        bench.ok("mesh init --name acme --dir @m");
        bench.ok("site init --name berlin --mesh @m/mesh.toml --dir @berlin");
        bench
    }
}

#[test]
fn a_site_is_admitted_installed_shown_and_revoked() {
    let bench = Bench::with_site();
    bench.ok("site show --dir @berlin -o json");
    bench.ok("mesh admit @berlin/site.request --prefix 10.1.0.0/16 --prefix fd00:1::/48 --dir @m --out @berlin.cert");
    bench.ok("site install @berlin.cert --dir @berlin");
    bench.ok("site show --dir @berlin");
    bench.ok("mesh show --dir @m");
    let state = crate::trust::SiteFiles::new(bench.path("berlin")).load().unwrap();
    let certificate = state.certificate.unwrap();
    assert_eq!(certificate.content.name, "berlin");
    assert!(certificate.allows(&"10.1.2.0/24".parse().unwrap()));

    bench.ok("mesh revoke berlin --dir @m -o json");
    bench.ok("mesh revoke berlin --dir @m");
    bench.ok("site install @m/revocations --dir @berlin");
    assert!(bench.error("site install @berlin.cert --dir @berlin").contains("revoked"));
    let error = bench.error("mesh admit @berlin/site.request --dir @m --out @again.cert");
    assert!(error.contains("sdwan site init"), "{error}");
}

#[test]
fn one_certificate_can_be_revoked_and_replaced() {
    let bench = Bench::with_site();
    bench.ok("mesh admit @berlin/site.request --prefix 10.1.0.0/16 --dir @m --out @one.cert");
    bench.ok("mesh admit @berlin/site.request --prefix 10.2.0.0/16 --dir @m --out @two.cert");
    bench.ok("mesh revoke @one.cert --dir @m");
    bench.ok("site install @m/revocations --dir @berlin");
    assert!(bench.error("site install @one.cert --dir @berlin").contains("revoked"));
    bench.ok("site install @two.cert --dir @berlin");
}

#[test]
fn nothing_that_exists_is_overwritten() {
    let bench = Bench::with_site();
    let key = fs::read(bench.path("m/authority.key")).unwrap();
    assert!(bench.error("mesh init --name other --dir @m").contains("exists"));
    assert!(bench.error("site init --name x --mesh @m/mesh.toml --dir @berlin").contains("exists"));
    assert_eq!(fs::read(bench.path("m/authority.key")).unwrap(), key);
}

#[test]
fn each_mistake_is_answered_with_what_to_do() {
    let bench = Bench::with_site();
    bench.ok("mesh init --name other --dir @o");
    bench.ok("site init --name paris --mesh @m/mesh.toml --dir @paris");
    bench.ok("mesh admit @paris/site.request --prefix 10.2.0.0/16 --dir @m --out @paris.cert");
    let admit = "mesh admit @berlin/site.request --dir @m --out @b.cert";
    for (line, remedy) in [
        ("mesh admit @berlin/site.request --dir @nowhere", "sdwan mesh init"),
        ("mesh admit @berlin/site.request --dir @o", "make the request again"),
        ("mesh admit @berlin/identity.key --dir @m", "expected a site's request"),
        ("mesh admit @missing --dir @m", "cannot open"),
        (&format!("{admit} --prefix 10.1.2.3/16"), "did you mean 10.1.0.0/16"),
        (&format!("{admit} --prefix 10.2.3.0/24"), "--allow-overlap"),
        (&format!("{admit} --name paris"), "--name"),
        (&format!("{admit} --not-before 2001-01-01"), "--not-before"),
        (&format!("{admit} --not-before 2027-02-30"), "not a time"),
        ("mesh revoke nobody --dir @m", "sdwan mesh show"),
        ("mesh init --name a/b --dir @x", "letters, digits"),
        ("mesh init --name a --overlay-prefix 10.0.0.0/30 --dir @x", "100.64.0.0/10"),
        ("site show --dir @nowhere", "sdwan site init"),
        ("site install @paris.cert --dir @berlin", "another site"),
        ("site install @berlin/site.request --dir @berlin", "sdwan mesh admit"),
        ("site init --name x --mesh @berlin/site.request --dir @x", "site.request"),
    ] {
        let error = bench.error(line);
        assert!(error.contains(remedy), "{line}\n  says {error}\n  without {remedy:?}");
    }
    bench.ok(&format!("{admit} --prefix 10.2.3.0/24 --allow-overlap"));
}

#[test]
fn a_tampered_request_is_refused() {
    let bench = Bench::with_site();
    let mut bytes = files::read(Path::new(&bench.path("berlin/site.request")), FileKind::Request).unwrap().to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    files::create(Path::new(&bench.path("bad.request")), FileKind::Request, "", &bytes).unwrap();
    assert!(bench.error("mesh admit @bad.request --dir @m").contains("changed on its way"));
}

#[test]
fn dates_are_read_and_written() {
    for (unix, text) in
        [(0, "1970-01-01 00:00 UTC"), (951_782_400, "2000-02-29 00:00 UTC"), (1_900_000_000, "2030-03-17 17:46 UTC")]
    {
        assert_eq!(format_time(unix), text);
    }
    assert_eq!(parse_time("2000-02-29"), Ok(951_782_400));
    assert_eq!(parse_time("17"), Ok(17));
    for text in ["2001-02-29", "2000-13-01", "2000-01", "x", "2000-01-00"] {
        assert!(parse_time(text).is_err(), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn every_day_reads_back(day in 0u64..80_000) {
        let text = format_time(day * DAY);
        proptest::prop_assert_eq!(parse_time(&text[..10]), Ok(day * DAY));
    }
}

//! Every command in the operator's guide (`docs/DEPLOYMENT.md` and `docs/guide`) works, in its order.

mod document;
mod gateway;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use sdwan_tests::bed::{Bed, Provider};
use sdwan_tests::{mesh, tools};

use document::{Block, Mark, PAGES, Placed};
use gateway::Gateway;

/// The document's own site, and another one that is made by the same commands with these words changed.
const HERE: &str = "berlin";
const THERE: &str = "paris";
const CHANGES: [(&str, &str); 3] = [(HERE, THERE), ("10.1.0.0/16", "10.2.0.0/16"), ("fd00:1::/48", "fd00:2::/48")];
/// The section that makes a site, and the command in it that starts its daemon.
const SITE: &str = "A site";
/// What the output of commands that begin like this has in it. Each is used, or the table is out of date.
const SHOWN: [(&str, &[&str]); 13] = [
    ("sdwan mesh init", &["acme"]),
    ("sdwan mesh show", &["acme"]),
    ("sdwan mesh admit", &[HERE]),
    ("sdwan site show", &[HERE, "10.1.0.0/16"]),
    ("sdwan --config sdwan.toml config show", &["listen_port = 51820"]),
    ("sdwan status", &[HERE, "10.1.0.0/16"]),
    ("sdwan paths", &[THERE, "up"]),
    ("sdwan check", &["site \"berlin\""]),
    ("sdwan explain", &["voip-video", THERE]),
    ("sdwan policies list", &["voip-video", "gaming", "bulk", "default"]),
    ("sdwan sites", &[THERE]),
    ("sdwan events", &["started"]),
    ("tar -tzf berlin.tar.gz", &["berlin/identity.key", "berlin/wireguard.key", "berlin/site.cert", "berlin/sdwan.db"]),
];

/// Each page with its text.
fn pages() -> Vec<(&'static str, String)> {
    let read = |page| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page));
    PAGES.iter().map(|page| (*page, read(page).unwrap_or_else(|error| panic!("docs/{page}: {error}")))).collect()
}

/// The blocks of all pages, each with the name of its page and its line.
fn blocks() -> Vec<(String, Placed)> {
    let mut blocks = Vec::new();
    for (page, text) in pages() {
        let found = document::blocks(page, &text).unwrap_or_else(|error| panic!("{error}"));
        blocks.extend(found.into_iter().map(|placed| (format!("docs/{page}:{}", placed.line), placed)));
    }
    blocks
}

fn elsewhere(command: &str) -> String {
    CHANGES.iter().fold(command.to_owned(), |command, (here, there)| command.replace(here, there))
}

#[test]
fn every_block_is_marked_and_most_commands_are_run() {
    let blocks = blocks();
    let count = |wanted: fn(Mark) -> bool| {
        blocks.iter().filter(|(_, placed)| matches!(placed.block, Block::Shell(mark, _) if wanted(mark))).count()
    };
    assert!(count(|mark| mark == Mark::Run) >= 20, "most commands are run");
    assert!(count(|mark| matches!(mark, Mark::On(_))) >= 15, "a mesh is made on machines");
}

/// Says by name which commands aren't run, and why.
fn tell_skipped(test: &str, skipped: fn(Mark) -> bool) {
    let mut told: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (place, Placed { block, .. }) in blocks() {
        if let Block::Shell(mark, commands) = block
            && skipped(mark)
            && let Some(reason) = mark.reason()
        {
            told.entry(reason).or_default().extend(commands.iter().map(|command| format!("{place} `{command}`")));
        }
    }
    for (reason, commands) in told {
        eprintln!("skipped: {test}: {reason}: {}", commands.join(", "));
    }
}

#[test]
fn commands_that_need_real_lines_are_named() {
    tell_skipped("commands_that_need_real_lines_are_named", |mark| mark == Mark::NeedsLines);
}

#[test]
fn commands_that_need_machines_are_named() {
    tell_skipped("commands_that_need_machines_are_named", |mark| matches!(mark, Mark::On(_)));
}

#[test]
fn a_block_without_a_mark_or_under_a_heading_that_says_otherwise_is_told() {
    for wrong in [
        "# Good\n```sh\nls\n```\n",
        "# Good\n```\nls\n```\n",
        "# Good\n```bash run\nls\n```\n",
        "# Good\n```sh needs-lines\nls\n```\n",
        "# Good (needs real lines)\n```sh run\nls\n```\n",
        "# Good\n```sh on nowhere\nls\n```\n",
    ] {
        assert!(document::blocks("page", wrong).is_err(), "{wrong}");
    }
    let right = "# Title\n## Good\n```sh run\nls \\\n  -l # all\n# nothing\n\ntrue\n```\n";
    let commands = vec!["ls    -l # all".into(), "true".into()];
    let placed = Placed { line: 3, heading: "Good".into(), block: Block::Shell(Mark::Run, commands) };
    assert_eq!(document::blocks("page", right), Ok(vec![placed]));
}

#[test]
fn the_commands_of_the_document_work_in_its_order() {
    let name = "the_commands_of_the_document_work_in_its_order";
    if !mesh::ready(name) {
        return;
    }
    let blocks = blocks();
    let bed =
        Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Bridge)]).build().expect("the bed is built");
    let place = bed.directory().join("document");
    std::fs::create_dir(&place).expect("a directory for the document's files");
    let mut here = Gateway::new(bed.site("a"), &place, HERE);
    let mut there = Gateway::new(bed.site("b"), &place, THERE);
    let mut used = [false; SHOWN.len()];
    for (at, Placed { heading, block, .. }) in &blocks {
        let commands = match block {
            Block::Shell(Mark::Run, commands) => commands,
            Block::Sql(question) => {
                here.ask_the_database(at, question);
                continue;
            }
            Block::PromQl(questions) => {
                let metrics = here.run(at, METRICS);
                questions.iter().for_each(|question| asks_for_what_there_is(at, question, &metrics));
                continue;
            }
            Block::Shell(..) | Block::Toml(_) => continue,
        };
        for command in commands {
            let what = format!("{at}: {command}");
            if command.starts_with("sdwan run") {
                // From here on the reader has a daemon in another window, and so has the other site.
                there.start(&elsewhere(command));
                here.start(command);
                here.wait_for_paths(THERE);
                continue;
            }
            let mut wanted = Vec::new();
            for (entry, used) in SHOWN.iter().zip(&mut used).filter(|((begin, _), _)| command.starts_with(begin)) {
                *used = true;
                wanted.extend(entry.1);
            }
            here.run_until_shown(&what, command, &wanted);
            if heading == SITE {
                there.run(&format!("{what} ({THERE})"), &elsewhere(command));
            }
        }
    }
    let unused: Vec<&str> = SHOWN.iter().zip(used).filter(|(_, used)| !used).map(|((begin, _), _)| *begin).collect();
    assert!(unused.is_empty(), "the document has no command that begins with {unused:?}");
    here.ends_after_down();
}

/// Asks the running daemon, whose socket serves them as well.
const METRICS: &str = "curl --silent --show-error --fail --unix-socket /run/sdwan/sdwan.sock http://sdwan/metrics";

/// Every metric and every label of a query is one that the daemon has.
fn asks_for_what_there_is(at: &str, question: &str, metrics: &str) {
    let words = question.split(|one: char| !one.is_ascii_alphanumeric() && one != '_');
    let mut named = words.filter(|word| word.starts_with("sdwan_")).peekable();
    assert!(named.peek().is_some(), "{at}: no metric in {question}");
    for name in named {
        let there = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        assert!(there.into_iter().any(|known| known == name), "{at}: the daemon has no metric {name}: {question}");
    }
    for labels in question.split("by (").skip(1).filter_map(|rest| rest.split(')').next()) {
        // Prometheus itself adds the instance.
        for label in labels.split(',').map(str::trim).filter(|label| *label != "instance") {
            let there = metrics.contains(&format!("{{{label}=\"")) || metrics.contains(&format!(",{label}=\""));
            assert!(there, "{at}: no metric has a label {label}: {question}");
        }
    }
    let Some(promtool) = tools::find("prometheus/usr/bin/promtool") else { return };
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let rule = serde_json::json!({"groups": [{"name": "guide", "rules": [{"record": "guide", "expr": question}]}]});
    // JSON is YAML.
    std::fs::write(&file, rule.to_string()).expect("it is written");
    let output = Command::new(promtool).args(["check", "rules"]).arg(file.path()).output().expect("promtool starts");
    assert!(output.status.success(), "{at}: {question}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_commands_within_sentences_exist_with_their_options() {
    let pages = pages();
    let mentioned: Vec<&str> = pages.iter().flat_map(|(_, text)| document::mentioned(text)).collect();
    assert!(mentioned.contains(&"sdwan events --kind path-down"), "{mentioned:?}");
    let Ok(program) = mesh::binary() else {
        eprintln!("skipped: the_commands_within_sentences_exist_with_their_options: sdwan is not built");
        return;
    };
    for command in mentioned {
        let arguments = command.split_whitespace().skip(1).chain(["--help"]);
        let output = Command::new(&program).args(arguments).output().expect("sdwan runs");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// All of the program's source as one text, with literals that go on in the next line as one.
fn source() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut directories = vec![here.join("../sdwan/src"), here.join("../sdwan-common/src")];
    let mut text = String::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("the sources are there").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(&path).expect("it can be read"));
            }
        }
    }
    let mut lines = text.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |text, line| text + line.trim_start())
}

#[test]
fn the_messages_that_are_explained_are_those_that_the_program_has() {
    let source = source();
    let (_, text) = pages().into_iter().find(|(page, _)| page.contains("troubleshooting")).expect("there is the page");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| symptom"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .filter(|cells: &Vec<&str>| cells.len() == 4)
        .collect();
    assert!(rows.len() >= 25, "symptoms, each with a command, what it tells, and a remedy: {}", rows.len());
    let mut messages = 0;
    for symptom in rows.iter().map(|row| row[0]) {
        // Commands are looked at elsewhere; the kernel's messages and units' settings aren't ours.
        let spans = symptom.split('`').skip(1).step_by(2);
        for span in spans.filter(|span| !span.starts_with("sdwan ") && !span.contains('…') && !span.contains(" start "))
        {
            assert!(source.contains(span), "the program says nowhere {span:?}");
            messages += 1;
        }
    }
    assert!(messages >= 7, "{messages}");
}

#[test]
fn the_configurations_of_the_document_are_valid() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut count = 0;
    for (at, Placed { block, .. }) in blocks() {
        let Block::Toml(content) = block else { continue };
        let file = directory.path().join(format!("block-{count}.toml"));
        std::fs::write(&file, content).expect("the configuration is written");
        let options = sdwan::config::Options { config: Some(file), ..Default::default() };
        sdwan::config::load(&options).unwrap_or_else(|error| panic!("{at}: {error}"));
        count += 1;
    }
    assert!(count >= 2, "the document shows configurations");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let unit = include_str!("../../../docs/sdwan.service");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("sdwan.service");
    // The binary isn't installed here; that its path is the documented one is all that matters about it.
    let installed = "ExecStart=/usr/bin/sdwan run";
    assert!(unit.contains(installed), "the unit starts what is installed");
    std::fs::write(&file, unit.replace("=/usr/bin/sdwan ", "=/bin/true ")).expect("the unit is written");
    // The manual page is installed with the package.
    let output = match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!(
                "skipped: systemd_finds_nothing_wrong_with_the_unit: no program `systemd-analyze`: install systemd"
            );
            return;
        }
        output => output.expect("systemd-analyze runs"),
    };
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    // It looks at other units of the machine as well.
    assert!(output.status.success() && !said.contains("sdwan.service"), "{said}");
}

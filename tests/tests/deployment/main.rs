//! Every command in `docs/DEPLOYMENT.md` works, in the order of the document.

mod document;
mod gateway;

use std::process::Command;

use sdwan_tests::bed::{Bed, Provider};
use sdwan_tests::mesh;

use document::{Block, Mark, Placed, blocks};
use gateway::Gateway;

/// The document's own site, and another one that is made by the same commands with these words changed.
const HERE: &str = "berlin";
const THERE: &str = "paris";
const CHANGES: [(&str, &str); 3] = [(HERE, THERE), ("10.1.0.0/16", "10.2.0.0/16"), ("fd00:1::/48", "fd00:2::/48")];
/// The section that makes a site, and the command in it that starts its daemon.
const SITE: &str = "A site";
/// What the output of commands that begin like this has in it. Each is used, or the table is out of date.
const SHOWN: [(&str, &[&str]); 12] = [
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
];

fn text() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/DEPLOYMENT.md");
    std::fs::read_to_string(path).expect("the document can be read")
}

fn elsewhere(command: &str) -> String {
    CHANGES.iter().fold(command.to_owned(), |command, (here, there)| command.replace(here, there))
}

#[test]
fn every_block_is_marked_as_run_or_as_needing_something() {
    let blocks = blocks(&text()).unwrap_or_else(|error| panic!("{error}"));
    let count =
        |wanted| blocks.iter().filter(|placed| matches!(placed.block, Block::Shell(mark, _) if mark == wanted)).count();
    assert!(count(Mark::Run) >= 10, "most commands are run");
}

/// Says by name which commands aren't run, and why.
fn tell_skipped(test: &str, mark: Mark) {
    let blocks = blocks(&text()).unwrap_or_else(|error| panic!("{error}"));
    let mut skipped = Vec::new();
    for Placed { line, block, .. } in blocks {
        if let Block::Shell(found, commands) = block
            && found == mark
        {
            skipped.extend(commands.iter().map(|command| format!("DEPLOYMENT.md:{line} `{command}`")));
        }
    }
    if let Some(reason) = mark.reason().filter(|_| !skipped.is_empty()) {
        eprintln!("skipped: {test}: {reason}: {}", skipped.join(", "));
    }
}

#[test]
fn commands_that_need_real_lines_are_named() {
    tell_skipped("commands_that_need_real_lines_are_named", Mark::NeedsLines);
}

#[test]
fn commands_that_need_systemd_are_named() {
    tell_skipped("commands_that_need_systemd_are_named", Mark::NeedsSystemd);
}

#[test]
fn a_block_without_a_mark_or_under_a_heading_that_says_otherwise_is_told() {
    for wrong in [
        "# Good\n```sh\nls\n```\n",
        "# Good\n```\nls\n```\n",
        "# Good\n```bash run\nls\n```\n",
        "# Good\n```sh needs-lines\nls\n```\n",
        "# Good (needs systemd)\n```sh run\nls\n```\n",
    ] {
        assert!(blocks(wrong).is_err(), "{wrong}");
    }
    let right = "# Title\n## Good\n```sh run\nls \\\n  -l # all\n# nothing\n\ntrue\n```\n";
    let commands = vec!["ls    -l # all".into(), "true".into()];
    let placed = Placed { line: 3, heading: "Good".into(), block: Block::Shell(Mark::Run, commands) };
    assert_eq!(blocks(right), Ok(vec![placed]));
}

#[test]
fn the_commands_of_the_document_work_in_its_order() {
    let name = "the_commands_of_the_document_work_in_its_order";
    if !mesh::ready(name) {
        return;
    }
    let blocks = blocks(&text()).unwrap_or_else(|error| panic!("{error}"));
    let bed =
        Bed::builder().sites(["a", "b"]).providers([("isp1", Provider::Bridge)]).build().expect("the bed is built");
    let place = bed.directory().join("document");
    std::fs::create_dir(&place).expect("a directory for the document's files");
    let mut here = Gateway::new(bed.site("a"), &place, HERE);
    let mut there = Gateway::new(bed.site("b"), &place, THERE);
    let mut used = [false; SHOWN.len()];
    for Placed { line, heading, block } in &blocks {
        let Block::Shell(Mark::Run, commands) = block else { continue };
        for command in commands {
            let what = format!("DEPLOYMENT.md:{line}: {command}");
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

#[test]
fn the_commands_within_sentences_exist_with_their_options() {
    let text = text();
    let mentioned = document::mentioned(&text);
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

#[test]
fn the_configurations_of_the_document_are_valid() {
    let blocks = blocks(&text()).unwrap_or_else(|error| panic!("{error}"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut count = 0;
    for Placed { line, block, .. } in blocks {
        let Block::Toml(content) = block else { continue };
        let file = directory.path().join(format!("line-{line}.toml"));
        std::fs::write(&file, content).expect("the configuration is written");
        let options = sdwan::config::Options { config: Some(file), ..Default::default() };
        sdwan::config::load(&options).unwrap_or_else(|error| panic!("DEPLOYMENT.md:{line}: {error}"));
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
    assert!(unit.contains(installed) && text().contains(" /usr/bin/sdwan\n"), "the unit starts what is installed");
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

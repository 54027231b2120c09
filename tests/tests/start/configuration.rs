//! Mistakes in the configuration.

use crate::{ended, mesh_of, picture, ready, says, sdwan};

/// A mistake, in a file whose first lines are the site's own: what is appended, the line of it that is at fault with
/// its column, and what is said.
const MISTAKES: [(&str, usize, usize, &[&str]); 8] = [
    ("[probe]\ninterval = \"50ms\n", 2, 17, &["not TOML"]),
    ("[probe]\nintervall = \"50ms\"\n", 2, 1, &["probe.intervall: unknown key", "did you mean `interval`?"]),
    ("[probe]\ninterval = 50\n", 2, 12, &["probe.interval: expected a duration such as \"50ms\""]),
    ("[tunnel]\nbackend = \"fast\"\n", 2, 11, &["tunnel.backend", "unknown variant `fast`"]),
    ("[tunnel]\nlisten_port = 65500\n", 2, 15, &["tunnel.listen_port", "write a port in 1..=65472"]),
    (
        "[[policy]]\nname = \"erp\"\npriority = 9\n[[policy.match]]\nzones = [\"guests\"]\n",
        5,
        9,
        &["policy[0].match[0].zones: no LAN interface is in zone \"guests\"", "give one that zone in [lan]"],
    ),
    (
        "[[policy]]\nname = \"erp\"\npriority = 9\nclass = \"bulk\"\n",
        4,
        9,
        &["policy[0].class: class \"bulk\" is that of the policies \"erp\" and \"bulk\"", "another class"],
    ),
    (
        "[[policy]]\nname = \"erp\"\npriority = 9\n[[policy.match]]\nports = [\"9-5\"]\n",
        5,
        9,
        &["policy[0].match[0].ports: \"9-5\" is not a port"],
    ),
];

#[test]
fn a_mistake_in_the_configuration_is_told_with_file_line_and_key_and_nothing_is_started() {
    if !ready("a_mistake_in_the_configuration_is_told_with_file_line_and_key_and_nothing_is_started") {
        return;
    }
    let mesh = mesh_of(["a"]);
    let gateway = mesh.gateway("a");
    // A database that was there before stays as it is.
    gateway.text(&["policies", "add", "mine", "--priority", "7"]).expect("a policy is stored");
    let right = std::fs::read_to_string(gateway.config()).expect("the configuration is there");
    let first = right.lines().count();
    let before = picture::take(gateway);
    assert!(before.contains("sdwan.db"), "{before}");
    for (mistake, line, column, parts) in MISTAKES {
        std::fs::write(gateway.config(), format!("{right}{mistake}")).expect("the configuration is written");
        let place = format!("{}:{}:{column}: ", gateway.config().display(), first + line);
        let parts = [parts, &[&place, "1 error in the configuration; nothing was started"][..]].concat();
        let output = ended(mistake, sdwan(gateway, &["run"]), 1);
        assert!(output.starts_with("error: "), "{mistake}: {output}");
        says(mistake, &output, &parts);
        says(mistake, &ended(mistake, sdwan(gateway, &["check"]), 1), &parts);
    }
    picture::assert_same("a wrong configuration", &before, &picture::take(gateway));

    let output = ended("an option", sdwan(gateway, &["run", "--listen-port", "65500"]), 1);
    says("an option", &output, &["option --listen-port: tunnel.listen_port", "1..=65472"]);
    std::fs::remove_file(gateway.config()).expect("the configuration is removed");
    let parts = ["cannot read the configuration", &gateway.config().display().to_string(), "sdwan config defaults"];
    says("no file", &ended("no file", sdwan(gateway, &["run"]), 1), &parts);
    picture::assert_same("a configuration that isn't there", &before, &picture::take(gateway));
}

#[test]
fn a_site_without_identity_or_certificate_is_told_the_commands_that_make_them() {
    if !ready("a_site_without_identity_or_certificate_is_told_the_commands_that_make_them") {
        return;
    }
    let mesh = mesh_of(["a"]);
    let gateway = mesh.gateway("a");
    let state = gateway.state();
    let certificate = state.join("site.cert");
    let aside = mesh.authority_directory().join("aside");
    std::fs::rename(&certificate, &aside).unwrap_or_else(|error| panic!("{}: {error}", certificate.display()));
    crate::refuses(gateway, "no certificate", &["no certificate yet", "`sdwan mesh admit`", "`sdwan site install"]);

    std::fs::rename(&state, mesh.authority_directory().join("state")).expect("the state is moved");
    std::fs::create_dir(&state).expect("an empty state directory is made");
    crate::refuses(gateway, "no identity", &["holds no site", "`sdwan site init"]);
}

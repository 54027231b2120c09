use super::*;

/// A copy of the kernel's settings in a directory. Like the kernel, writing one of those that others follow is the
/// test's business.
struct Bed {
    directory: tempfile::TempDir,
}

impl Bed {
    fn new(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for (path, value) in settings {
            let path = directory.path().join("sys").join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, format!("{value}\n")).expect("a setting");
        }
        Self { directory }
    }

    fn sysctl(&self) -> Sysctl {
        Sysctl { root: self.directory.path().join("sys"), file: self.directory.path().join(FILE) }
    }

    fn value(&self, path: &str) -> String {
        self.sysctl().read(path).expect("a setting")
    }

    fn set(&self, path: &str, value: &str) {
        self.sysctl().write(path, value).expect("a setting");
    }
}

fn setting(path: &str, value: &'static str) -> Setting {
    Setting { path: path.into(), value, only_from: None }
}

const FILTER: &str = "net/ipv4/conf/eth0/rp_filter";
const FORWARD: &str = "net/ipv4/ip_forward";

#[test]
fn settings_are_changed_told_and_put_back() {
    let bed = Bed::new(&[(FORWARD, "0"), (FILTER, "1")]);
    let applied = bed.sysctl().apply(&[setting(FORWARD, "1"), setting(FILTER, "2")]).expect("applied");
    assert_eq!(applied.changed.len(), 2);
    assert_eq!((bed.value(FORWARD).as_str(), bed.value(FILTER).as_str()), ("1", "2"));
    let restored = bed.sysctl().restore().expect("restored");
    assert_eq!(restored.len(), 2);
    assert_eq!((bed.value(FORWARD).as_str(), bed.value(FILTER).as_str()), ("0", "1"));
    assert_eq!(bed.sysctl().restore().expect("nothing left"), []);
}

#[test]
fn what_is_right_already_is_neither_written_nor_remembered() {
    let bed = Bed::new(&[(FORWARD, "1")]);
    assert_eq!(bed.sysctl().apply(&[setting(FORWARD, "1")]).expect("applied"), Applied::default());
    assert!(!bed.directory.path().join(FILE).exists());
}

#[test]
fn the_first_remembered_value_survives_a_crash_between_remembering_and_writing() {
    let bed = Bed::new(&[(FILTER, "1")]);
    bed.sysctl().apply(&[setting(FILTER, "2")]).expect("applied");
    bed.set(FILTER, "0");
    bed.sysctl().apply(&[setting(FILTER, "2")]).expect("applied again");
    bed.sysctl().restore().expect("restored");
    assert_eq!(bed.value(FILTER), "1");
}

#[test]
fn a_setting_that_somebody_changed_after_us_stays() {
    let bed = Bed::new(&[(FILTER, "1")]);
    bed.sysctl().apply(&[setting(FILTER, "2")]).expect("applied");
    bed.set(FILTER, "0");
    assert_eq!(bed.sysctl().restore().expect("restored"), []);
    assert_eq!(bed.value(FILTER), "0");
}

#[test]
fn a_setting_that_the_kernel_does_not_have_is_told_and_passed_over() {
    let bed = Bed::new(&[(FILTER, "1")]);
    let applied = bed.sysctl().apply(&[setting("net/ipv6/conf/all/forwarding", "1"), setting(FILTER, "2")]);
    let applied = applied.expect("applied");
    assert_eq!(applied.missing, ["net/ipv6/conf/all/forwarding"]);
    assert_eq!(applied.changed.len(), 1);
}

#[test]
fn a_conditional_setting_changes_only_from_that_value() {
    let path = "net/ipv6/conf/eth0/accept_ra";
    for (before, after) in [("0", "0"), ("1", "2"), ("2", "2")] {
        let bed = Bed::new(&[(path, before)]);
        bed.sysctl().apply(&[Setting { path: path.into(), value: "2", only_from: Some("1") }]).expect("applied");
        assert_eq!(bed.value(path), after, "from {before}");
    }
}

#[test]
fn settings_that_follow_another_come_back_too() {
    let (eth0, eth1) = ("net/ipv4/conf/eth0/forwarding", "net/ipv4/conf/eth1/forwarding");
    let bed = Bed::new(&[(FORWARD, "0"), (eth0, "1"), (eth1, "0")]);
    bed.sysctl().apply(&[setting(FORWARD, "1")]).expect("applied");
    bed.set(eth1, "1"); // as the kernel does
    bed.sysctl().restore().expect("restored");
    assert_eq!((bed.value(eth0).as_str(), bed.value(eth1).as_str()), ("1", "0"));
}

#[test]
fn a_damaged_file_of_former_values_stops_everything_and_names_itself() {
    let bed = Bed::new(&[(FILTER, "1")]);
    fs::write(bed.directory.path().join(FILE), "{").expect("written");
    let error = bed.sysctl().apply(&[setting(FILTER, "2")]).expect_err("damaged");
    assert!(error.to_string().contains("sysctl.json"), "{error}");
    assert_eq!(bed.value(FILTER), "1", "nothing was changed");
}

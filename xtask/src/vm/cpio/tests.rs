use super::*;

/// Names, modes and contents, read independently of the writer.
fn read(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let mut entries = Vec::new();
    let mut at = 0;
    loop {
        let field = |number: usize| {
            let text = &archive[at + 6 + number * 8..][..8];
            u32::from_str_radix(std::str::from_utf8(text).expect("digits"), 16).expect("a number") as usize
        };
        assert_eq!(&archive[at..at + 6], b"070701", "an entry starts at a multiple of four: {at}");
        let (mode, size, length) = (field(1), field(6), field(11));
        let name = String::from_utf8(archive[at + 110..at + 110 + length - 1].to_vec()).expect("a name");
        let start = (at + 110 + length).next_multiple_of(4);
        if name == "TRAILER!!!" {
            assert_eq!(archive.len(), start);
            return entries;
        }
        entries.push((name, mode as u32, archive[start..start + size].to_vec()));
        at = (start + size).next_multiple_of(4);
    }
}

fn written(fill: impl FnOnce(&mut Archive<Vec<u8>>) -> Result<()>) -> Vec<(String, u32, Vec<u8>)> {
    let mut archive = Archive::new(Vec::new());
    fill(&mut archive).expect("it is written");
    read(&archive.finish().expect("it is ended"))
}

#[test]
fn directories_come_before_what_is_in_them_and_once() {
    let entries = written(|archive| {
        archive.bytes(Path::new("/etc/a/one"), 0o644, b"1")?;
        archive.bytes(Path::new("/etc/a/two"), 0o755, b"22222")?;
        archive.bytes(Path::new("/etc/a/one"), 0o644, b"other")
    });
    let names: Vec<_> = entries.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["etc", "etc/a", "etc/a/one", "etc/a/two"]);
    assert_eq!((entries[3].1, entries[3].2.as_slice()), (0o100_755, b"22222".as_slice()));
    assert_eq!(entries[2].2, b"1");
}

#[test]
fn what_lies_behind_a_link_is_written_where_the_link_leads() {
    let entries = written(|archive| {
        archive.link(Path::new("/lib"), Path::new("usr/lib"))?;
        archive.bytes(Path::new("/lib/x/libc.so"), 0o644, b"")
    });
    let names: Vec<_> = entries.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["lib", "usr", "usr/lib", "usr/lib/x", "usr/lib/x/libc.so"]);
    assert_eq!(entries[0].2, b"usr/lib");
}

#[test]
fn a_path_that_leaves_the_archive_is_refused() {
    let mut archive = Archive::new(Vec::new());
    assert!(archive.bytes(Path::new("/a/../../b"), 0o644, b"").is_err());
}

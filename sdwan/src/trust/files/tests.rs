use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn a_secret_is_private_and_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.key");
    create(&path, FileKind::IdentityKey, "berlin", &[7; 32]).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(*read_secret(&path, FileKind::IdentityKey).unwrap(), [7; 32]);
    assert!(fs::read_to_string(&path).unwrap().starts_with("# sdwan identity-key v1: berlin\n"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn a_secret_that_others_may_read_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.key");
    create(&path, FileKind::IdentityKey, "berlin", &[7; 32]).unwrap();
    for mode in [0o640, 0o604, 0o660, 0o777] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = read_secret(&path, FileKind::IdentityKey).unwrap_err();
        assert!(matches!(error, FileError::Exposed { .. }), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.key");
    create(&path, FileKind::IdentityKey, "", &[1; 32]).unwrap();
    let error = create(&path, FileKind::IdentityKey, "", &[2; 32]).unwrap_err();
    assert!(matches!(error, FileError::Exists { .. }), "{error}");
    assert_eq!(*read_secret(&path, FileKind::IdentityKey).unwrap(), [1; 32]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn the_wrong_kind_of_file_is_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    create(&path, FileKind::Request, "berlin", b"abc").unwrap();
    let error = read(&path, FileKind::Certificate).unwrap_err().to_string();
    assert!(error.contains("request") && error.contains("certificate"), "{error}");
    fs::write(&path, "hello\n").unwrap();
    assert!(matches!(read(&path, FileKind::Certificate), Err(FileError::WrongKind { .. })));
    fs::write(&path, "# sdwan certificate v1: x\n!!!\n").unwrap();
    assert!(matches!(read(&path, FileKind::Certificate), Err(FileError::Damaged { .. })));
    fs::write(&path, "# sdwan certificate v2: x\nAAAA\n").unwrap();
    assert!(matches!(read(&path, FileKind::Certificate), Err(FileError::WrongKind { .. })));
}

#[test]
fn a_huge_file_is_not_read_into_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    fs::write(&path, vec![b'a'; 1 << 20]).unwrap();
    assert!(matches!(read_any(&path), Err(FileError::Damaged { .. })));
}

//! The kernel proper, out of the compressed image that distributions ship.
//!
//! An emulator takes seconds to run the image's own decompressor; here it takes a moment.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Offsets in the real-mode header of the x86 boot protocol (version 2.08 and later).
const SETUP_SECTORS: usize = 0x1f1;
const BOOT_MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

/// Decompressors by the first bytes of what they take. All but gzip are followed by the size that comes out, 4 bytes.
const FORMATS: [(&[u8], &str, usize); 4] = [
    (b"\x28\xb5\x2f\xfd", "zstd", 4),
    (b"\x02\x21\x4c\x18", "lz4", 4),
    (b"\xfd7zXZ\0", "xz", 4),
    (b"\x1f\x8b", "gzip", 0),
];

/// Unpacks the ELF file out of a bzImage.
///
/// # Errors
/// When the image is of another kind or its decompressor is missing.
pub fn unpack(image: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(image).with_context(|| format!("can't read {}", image.display()))?;
    if bytes.starts_with(b"\x7fELF") {
        fs::copy(image, to).with_context(|| format!("can't copy {}", image.display()))?;
        return Ok(());
    }
    let payload = payload(&bytes).with_context(|| format!("{} is no bzImage", image.display()))?;
    let format = FORMATS.iter().find(|(magic, ..)| payload.starts_with(magic));
    let Some((_, program, trailer)) = format else {
        bail!("{}: its compression is not one of zstd, lz4, xz, gzip", image.display());
    };
    let packed = to.with_extension(program);
    fs::write(&packed, &payload[..payload.len() - trailer])
        .with_context(|| format!("can't write {}", packed.display()))?;
    decompress(program, &packed, to)?;
    fs::remove_file(&packed).with_context(|| format!("can't remove {}", packed.display()))
}

/// Decompresses a file with one of the usual programs.
///
/// # Errors
/// When the program is missing or refuses the file.
pub fn decompress(program: &str, from: &Path, to: &Path) -> Result<()> {
    let output = fs::File::create(to).with_context(|| format!("can't create {}", to.display()))?;
    let input = fs::File::open(from).with_context(|| format!("can't open {}", from.display()))?;
    let result = Command::new(program)
        .arg("-dc")
        .stdin(input)
        .stdout(output)
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("can't start {program}"))?;
    if !result.status.success() {
        bail!("{program} can't decompress {}: {}", from.display(), String::from_utf8_lossy(&result.stderr).trim());
    }
    Ok(())
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(BOOT_MAGIC..BOOT_MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let start = (usize::from(*image.get(SETUP_SECTORS)?) + 1) * SECTOR + word(PAYLOAD_OFFSET)?;
    image.get(start..start.checked_add(word(PAYLOAD_LENGTH)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_lies_behind_the_setup_sectors() {
        let mut image = vec![0; 5 * SECTOR];
        image[SETUP_SECTORS] = 2;
        image[BOOT_MAGIC..][..4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET] = 16;
        image[PAYLOAD_LENGTH] = 4;
        image[3 * SECTOR + 16..][..4].copy_from_slice(b"here");
        assert_eq!(payload(&image), Some(b"here".as_slice()));
        image[PAYLOAD_LENGTH + 2] = 1;
        assert_eq!(payload(&image), None, "it reaches past the end");
    }
}

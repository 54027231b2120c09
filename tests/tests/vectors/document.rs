//! The blocks of test vectors in the document.

use std::path::PathBuf;

/// Opens a block; the name follows.
const FENCE: &str = "```text vector=";
const END: &str = "```";
/// Bytes of hexadecimal digits in one line.
const LINE: usize = 32;

/// `docs/PROTOCOL.md`.
pub fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/PROTOCOL.md"))
}

/// All blocks of a document, name and content, in its order.
pub fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix(FENCE) else { continue };
        let content: Vec<&str> = lines.by_ref().take_while(|line| *line != END).collect();
        blocks.push((name.trim().to_owned(), content.join("\n")));
    }
    blocks
}

/// The document with other content in its blocks; a block that `content` doesn't know stays as it is.
pub fn rewritten(text: &str, content: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        let Some(new) = line.strip_prefix(FENCE).and_then(|name| content(name.trim())) else { continue };
        lines.by_ref().find(|line| *line == END);
        out.push_str(&format!("{new}\n{END}\n"));
    }
    out
}

/// Hexadecimal digits, wrapped.
pub fn hex(bytes: &[u8]) -> String {
    bytes.chunks(LINE).map(digits).collect::<Vec<_>>().join("\n")
}

/// The bytes of a block of hexadecimal digits.
pub fn bytes(name: &str, content: &str) -> Vec<u8> {
    let digits: Vec<u8> = content.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok().filter(|text| text.len() == 2);
        text.and_then(|text| u8::from_str_radix(text, 16).ok())
            .unwrap_or_else(|| panic!("vector {name}: {:?} is no byte", String::from_utf8_lossy(pair)))
    };
    digits.chunks(2).map(byte).collect()
}

/// One line per field: offset, bytes, name. The fields are everything from `start` on.
pub fn fields(bytes: &[u8], start: usize, fields: &[(usize, &str)]) -> String {
    let mut offset = start;
    let mut lines = Vec::new();
    for (length, name) in fields {
        let field = &bytes[offset..offset + length];
        for (number, part) in field.chunks(LINE).enumerate() {
            let name = if number == 0 { *name } else { "" };
            lines.push(format!("{:>4}  {:64}  {name}", offset + number * LINE, digits(part)).trim_end().to_owned());
        }
        offset += length;
    }
    assert_eq!(offset, bytes.len(), "the fields are not all of the message");
    lines.join("\n")
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

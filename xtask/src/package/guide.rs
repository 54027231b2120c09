//! The blocks of the operator's guide that are typed on whole machines. They are found as the test of the guide's other
//! commands finds them.

// What only that test asks of it is unused here.
#[expect(dead_code, reason = "the test of the guide uses the rest")]
#[path = "../../../tests/tests/deployment/document.rs"]
mod document;

use std::fs;

use anyhow::{Context, Result, anyhow};

use crate::cargo::workspace;
use document::{Block, Mark};
pub use document::{PAGES, Place};

/// A block that is typed on a machine.
pub struct Typed {
    /// File and line of it.
    pub place: String,
    /// The heading above it.
    pub heading: String,
    /// Where it is typed.
    pub on: Place,
    /// Its lines as they are written.
    pub text: String,
}

/// All of them, in the order of the guide.
///
/// # Errors
/// When a page can't be read, or a block has a wrong mark.
pub fn typed() -> Result<Vec<Typed>> {
    let mut typed = Vec::new();
    for page in PAGES {
        let path = workspace().join("docs").join(page);
        let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        for placed in document::blocks(page, &text).map_err(|error| anyhow!(error))? {
            if let Block::Shell(Mark::On(on), lines) = placed.block {
                let place = format!("docs/{page}:{}", placed.line);
                typed.push(Typed { place, heading: placed.heading, on, text: lines.join("\n") });
            }
        }
    }
    Ok(typed)
}

//! What is wrong with a configuration, where, and what to do: shown together, so that one run finds everything.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Bytes of the configuration file.
    File(Range<usize>),
    /// A command-line option, such as `--listen-port`.
    Option(&'static str),
    /// Nobody set it.
    Default,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted key, such as `tunnel.listen_port` or `uplink[1].name`; empty for syntax errors.
    pub key: String,
    /// Where the value came from.
    pub origin: Origin,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// Why a configuration was refused. Its text shows every problem with its file, line, column, key and source line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration {path}: {reason}. {remedy}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The content is wrong.
    #[error("{0}")]
    Invalid(Problems),
}

/// All problems of one configuration, and the text they point into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The file, when there is one.
    pub path: Option<PathBuf>,
    /// Its content.
    pub text: String,
    /// What is wrong, in the order of the file.
    pub problems: Vec<Problem>,
}

impl Problems {
    /// Line and column, both from 1, columns in characters, and the whole line.
    pub fn position(&self, offset: usize) -> (usize, usize, &str) {
        let offset = floor_char_boundary(&self.text, offset);
        let line = self.text[..offset].matches('\n').count() + 1;
        let start = self.text[..offset].rfind('\n').map_or(0, |at| at + 1);
        let end = self.text[offset..].find('\n').map_or(self.text.len(), |at| offset + at);
        let column = self.text[start..offset].chars().count() + 1;
        (line, column, self.text[start..end].trim_end_matches('\r'))
    }

    fn file(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new("configuration"))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            let key = if problem.key.is_empty() { String::new() } else { format!("{}: ", problem.key) };
            match &problem.origin {
                Origin::File(span) => {
                    let (line, column, source) = self.position(span.start);
                    writeln!(f, "{}:{line}:{column}: {key}{}", self.file().display(), problem.message)?;
                    let gutter = line.to_string().len();
                    let end = floor_char_boundary(&self.text, span.end.max(span.start));
                    let width = self.text[floor_char_boundary(&self.text, span.start)..end]
                        .lines()
                        .next()
                        .map_or(1, |text| text.chars().count());
                    let room = (source.chars().count() + 1).saturating_sub(column - 1).max(1);
                    writeln!(f, "{:gutter$} |", "")?;
                    writeln!(f, "{line} | {}", source.replace('\t', " "))?;
                    write!(
                        f,
                        "{:gutter$} | {:indent$}{}",
                        "",
                        "",
                        "^".repeat(width.clamp(1, room)),
                        indent = column - 1
                    )?;
                }
                Origin::Option(option) => write!(f, "option {option}: {key}{}", problem.message)?,
                Origin::Default => write!(f, "{}: {key}{}", self.file().display(), problem.message)?,
            }
            if let Some(remedy) = &problem.remedy {
                write!(f, "\n  = {remedy}")?;
            }
            writeln!(f)?;
        }
        let count = self.problems.len();
        write!(f, "{count} {} in the configuration; nothing was started", if count == 1 { "error" } else { "errors" })
    }
}

fn floor_char_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

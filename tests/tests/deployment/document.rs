//! The blocks of `docs/DEPLOYMENT.md`, each with the mark behind its language: ```` ```sh run ````.

/// What becomes of a block of shell commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Run in its place.
    Run,
    /// Needs a provider's lines.
    NeedsLines,
    /// Needs a machine with systemd.
    NeedsSystemd,
}

/// A block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// Shell commands, one each.
    Shell(Mark, Vec<String>),
    /// A part of a configuration.
    Toml(String),
}

/// A block with where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Line of its fence, from 1.
    pub line: usize,
    /// The heading above it.
    pub heading: String,
    /// The block.
    pub block: Block,
}

impl Mark {
    /// Why such a block isn't run.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Run => None,
            Self::NeedsLines => Some("needs real lines"),
            Self::NeedsSystemd => Some("needs systemd"),
        }
    }
}

/// All blocks of a document in its order; an error names the block that has no mark, or a wrong one.
pub fn blocks(text: &str) -> Result<Vec<Placed>, String> {
    let mut blocks = Vec::new();
    let mut heading = "";
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(title) = line.strip_prefix('#') {
            heading = title.trim_start_matches('#').trim();
        }
        let Some(info) = line.trim_start().strip_prefix("```") else { continue };
        let content: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```").collect();
        let line = number + 1;
        let block = match info {
            "toml" => Block::Toml(content.join("\n")),
            "sh run" => Block::Shell(Mark::Run, commands(&content)),
            "sh needs-lines" => Block::Shell(Mark::NeedsLines, commands(&content)),
            "sh needs-systemd" => Block::Shell(Mark::NeedsSystemd, commands(&content)),
            _ => {
                return Err(format!(
                    "docs/DEPLOYMENT.md:{line}: block `{info}` under {heading:?}: write ```sh run, and the test runs \
                     it; ```sh needs-lines or ```sh needs-systemd, and it says so; or ```toml"
                ));
            }
        };
        if let Block::Shell(mark, _) = &block
            && let reason = mark.reason()
            && reason.is_some() != heading.contains("needs ")
        {
            return Err(format!("docs/DEPLOYMENT.md:{line}: the heading {heading:?} doesn't say what the mark says"));
        }
        blocks.push(Placed { line, heading: heading.into(), block });
    }
    Ok(blocks)
}

/// Lines that end in a backslash go on in the next one; comments are no commands.
fn commands(lines: &[&str]) -> Vec<String> {
    let joined = lines.join("\n").replace("\\\n", " ");
    joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(Into::into).collect()
}

/// Commands of ours within sentences and tables, such as `sdwan events --kind path-down`.
pub fn mentioned(text: &str) -> Vec<&str> {
    let outside = text.split("```").step_by(2);
    let spans = outside.flat_map(|prose| prose.split('`').skip(1).step_by(2));
    spans.filter(|span| span.starts_with("sdwan ") && !span.contains('…')).collect()
}

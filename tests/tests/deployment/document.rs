//! The blocks of the operator's guide, each with the mark behind its language: ```` ```sh run ````.
//! `cargo xtask package --test` reads them by this file, too.

/// The guide's pages below `docs/`, in the order in which they are read and their commands are run.
pub const PAGES: [&str; 6] = [
    "DEPLOYMENT.md",
    "guide/sites.md",
    "guide/hardening.md",
    "guide/monitoring.md",
    "guide/troubleshooting.md",
    "guide/upkeep.md",
];

/// A machine of its own with systemd, on which a block is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where the mesh authority is kept.
    Office,
    /// The first gateway.
    Berlin,
    /// The second one.
    Paris,
    /// Both gateways, one after the other.
    Gateways,
}

/// What becomes of a block of shell commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Run in its place, in network namespaces.
    Run,
    /// Needs a provider's lines.
    NeedsLines,
    /// Typed on a machine with systemd.
    On(Place),
}

/// A block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// Shell commands, one each; for machines its lines as they are.
    Shell(Mark, Vec<String>),
    /// A part of a configuration.
    Toml(String),
    /// A question to the database.
    Sql(String),
    /// Questions to Prometheus, one a line.
    PromQl(Vec<String>),
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
    /// Why such a block isn't run in namespaces.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Run => None,
            Self::NeedsLines => Some("needs real lines"),
            Self::On(_) => Some("needs machines with systemd: `cargo xtask package --test` runs it"),
        }
    }
}

/// All blocks of a page in its order; an error names the block that has no mark, or a wrong one.
pub fn blocks(page: &str, text: &str) -> Result<Vec<Placed>, String> {
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
        let on = |place| Block::Shell(Mark::On(place), content.iter().map(ToString::to_string).collect());
        let block = match info {
            "toml" => Block::Toml(content.join("\n")),
            "sql" => Block::Sql(content.join("\n")),
            "promql" => {
                Block::PromQl(content.iter().filter(|line| !line.is_empty()).map(ToString::to_string).collect())
            }
            "sh run" => Block::Shell(Mark::Run, commands(&content)),
            "sh needs-lines" => Block::Shell(Mark::NeedsLines, commands(&content)),
            "sh on office" => on(Place::Office),
            "sh on berlin" => on(Place::Berlin),
            "sh on paris" => on(Place::Paris),
            "sh on gateways" => on(Place::Gateways),
            _ => {
                return Err(format!(
                    "docs/{page}:{line}: block `{info}` under {heading:?}: write ```sh run, and the test runs it; ```sh \
                     on office, berlin, paris or gateways, and `cargo xtask package --test` runs it; ```sh needs-lines, \
                     and the test says so; ```toml, ```sql or ```promql"
                ));
            }
        };
        if let Block::Shell(mark, _) = &block
            && (*mark == Mark::NeedsLines) != heading.contains("needs ")
        {
            return Err(format!("docs/{page}:{line}: the heading {heading:?} doesn't say what the mark says"));
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

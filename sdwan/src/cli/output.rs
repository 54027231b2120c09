//! Tables that fit a terminal, JSON, and colour where somebody sees it.

use std::io::{IsTerminal, Write};

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use super::Format;

/// Width of tables when nobody says otherwise, columns.
const WIDTH: u16 = 80;
/// To whoever wants a page of a command that makes none.
pub(super) const NO_PAGE: &str = "only `sdwan report` makes a page: write `-o table`, `-o wide` or `-o json`";

/// How and where a command prints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    /// Table or JSON.
    pub format: Format,
    color: bool,
    width: u16,
}

/// What a value means for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Wants attention.
    Warning,
    /// Broken.
    Bad,
    /// Of no account.
    Plain,
}

impl Output {
    /// Colour when standard output is a terminal and `NO_COLOR` isn't set (no-color.org).
    pub fn from_environment(format: Format) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let width = match format {
            Format::Wide => u16::MAX,
            _ => terminal.then(|| Table::new().width()).flatten().unwrap_or(WIDTH).max(WIDTH),
        };
        Self { format, color, width }
    }

    /// Without colour, of the standard width: what a file gets.
    pub fn for_file(format: Format) -> Self {
        Self { format, color: false, width: if format == Format::Wide { u16::MAX } else { WIDTH } }
    }

    /// Whether colours are wanted.
    pub fn colored(&self) -> bool {
        self.color
    }

    /// Whether somebody wants all columns, however wide they become.
    pub fn wide(&self) -> bool {
        self.format == Format::Wide
    }

    /// An empty table with these headings.
    pub fn table(&self, headings: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(self.width);
        if self.color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(headings.iter().map(Cell::new).collect::<Vec<_>>());
        table
    }

    /// A table as text, without blanks at the ends of lines.
    pub fn text(&self, table: &mut Table) -> String {
        let content: usize = table.column_max_content_widths().into_iter().map(usize::from).sum();
        let gap = if content + 2 * table.column_count() > usize::from(self.width) { 1 } else { 2 };
        for column in table.column_iter_mut() {
            column.set_padding((0, gap));
        }
        let mut text = String::new();
        for line in table.to_string().lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// A word in the colour of its tone.
    pub fn paint(&self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Good => 32,
            Tone::Warning => 33,
            Tone::Bad => 31,
            Tone::Plain => return text.into(),
        };
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    /// Prints the JSON, or the table's text.
    pub fn print(&self, json: &impl Serialize, table: impl FnOnce(&Self) -> String) -> anyhow::Result<()> {
        match self.format {
            Format::Json => {
                let mut text = serde_json::to_string_pretty(json)?;
                text.push('\n');
                self.write(&text)
            }
            Format::Table | Format::Wide => self.write(&table(self)),
            Format::Html => anyhow::bail!(NO_PAGE),
        }
    }

    /// Makes way for the next table, where somebody looks at it.
    pub fn clear(&self) -> anyhow::Result<()> {
        if matches!(self.format, Format::Table | Format::Wide) && std::io::stdout().is_terminal() {
            self.write("\x1b[H\x1b[2J")
        } else {
            Ok(())
        }
    }

    /// Prints a text as it is.
    pub fn write(&self, text: &str) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }
}

/// A cell in the colour of its tone.
pub(super) fn toned(text: impl ToString, tone: Tone) -> Cell {
    let cell = Cell::new(text.to_string());
    match tone {
        Tone::Good => cell.fg(Color::Green),
        Tone::Warning => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Plain => cell,
    }
}

/// A cell with a number.
pub(super) fn number(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).set_alignment(CellAlignment::Right)
}

/// A number with one decimal, or `-`.
pub(super) fn decimal(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.1}"))
}

/// Numbers of both directions, to the peer and from it.
pub(super) fn both(forward: Option<f64>, backward: Option<f64>) -> String {
    format!("{}/{}", decimal(forward), decimal(backward))
}

/// Seconds as the two largest units: `3d4h`, `2m5s`.
pub(super) fn age(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, size)| seconds >= *size).unwrap_or(3);
    let (name, size) = units[first];
    let mut text = format!("{}{name}", seconds / size);
    if let Some((name, smaller)) = units.get(first + 1)
        && seconds % size / smaller > 0
    {
        text.push_str(&format!("{}{name}", seconds % size / smaller));
    }
    text
}

/// A count with a decimal unit: `1.2M`.
pub(super) fn short(value: u64) -> String {
    const UNITS: [(&str, f64); 4] = [("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)];
    match UNITS.iter().find(|(_, size)| value as f64 >= *size) {
        Some((name, size)) => format!("{:.1}{name}", value as f64 / size),
        None => value.to_string(),
    }
}

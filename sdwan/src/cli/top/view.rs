//! Draws the state.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Clear, Paragraph, Row, Table, TableState, Wrap};

use super::super::output::{Tone, age};
use super::sheet::{Column, Sheet};
use super::state::{State, Tab};
use crate::api::views::Health;

/// Least size of a terminal that anything can be shown on.
const LEAST: (u16, u16) = (40, 8);

const HELP: &str = "\
Tab ← → 1-4   paths, classes, flows, events
↑ ↓ PgUp PgDn move in the table
s             sort by the next column
r             the other way round
/             show only rows with a text
Esc           show all rows again
p             pause
q             end

RTT and JITTER in ms, LOSS in percent, to the
peer and from it. OUT and IN are without probes.";

/// The whole screen.
pub(super) fn draw(state: &State, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("the terminal is too small: {} columns and {} lines are needed", LEAST.0, LEAST.1);
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let [head, tabs, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)])
            .areas(area);
    let sheet = state.sheet();
    frame.render_widget(header(state), head);
    frame.render_widget(tab_line(state, &sheet), tabs);
    table(state, &sheet, frame, body);
    frame.render_widget(footer(state, &sheet), foot);
    if state.help {
        help(frame, area);
    }
}

/// The colour of a tone, or what stands for it where there is no colour.
fn style(state: &State, tone: Tone) -> Style {
    match (tone, state.colored) {
        (Tone::Plain, _) => Style::new(),
        (Tone::Good, true) => Style::new().fg(Color::Green),
        (Tone::Warning, true) => Style::new().fg(Color::Yellow),
        (Tone::Bad, true) => Style::new().fg(Color::Red),
        (Tone::Good, false) => Style::new(),
        (Tone::Warning, false) => Style::new().add_modifier(Modifier::UNDERLINED),
        (Tone::Bad, false) => Style::new().add_modifier(Modifier::BOLD),
    }
}

fn header(state: &State) -> Text<'static> {
    let status = &state.data.status;
    let (word, tone) = match status.health {
        Health::Ok => ("ok", Tone::Good),
        Health::Degraded => ("degraded", Tone::Warning),
        Health::Failing => ("failing", Tone::Bad),
    };
    let count = |counts: &std::collections::BTreeMap<String, u64>, name: &str| counts.get(name).copied().unwrap_or(0);
    let up = count(&status.paths, "up");
    let all = state.data.paths.len();
    let first = Line::from(vec![
        Span::styled(status.site_name.clone(), Style::new().add_modifier(Modifier::BOLD)),
        Span::raw("  health "),
        Span::styled(word, style(state, tone)),
        Span::raw(format!(
            "  {} sites  {up}/{all} paths up  daemon up {}",
            count(&status.sites, "active"),
            age(status.uptime_s)
        )),
    ]);
    let second = match (&state.trouble, status.problems.first()) {
        (Some(trouble), _) => Line::styled(format!("no answer: {trouble}"), style(state, Tone::Bad)),
        (None, Some(problem)) => {
            let more = match status.problems.len() {
                1 => String::new(),
                all => format!(" (and {} more: `sdwan status`)", all - 1),
            };
            Line::styled(format!("{problem}{more}"), style(state, tone))
        }
        (None, None) => Line::raw(""),
    };
    Text::from(vec![first, second])
}

fn tab_line(state: &State, sheet: &Sheet) -> Line<'static> {
    let mut spans = Vec::new();
    for (number, tab) in (1..).zip(Tab::ALL) {
        let name = format!(" {number} {} ", tab.name());
        let style = if tab == state.tab { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        spans.push(Span::styled(name, style));
        spans.push(Span::raw(" "));
    }
    let mut note = format!("{} rows", sheet.rows.len());
    if sheet.hidden > 0 {
        note.push_str(&format!(", {} hidden", sheet.hidden));
    }
    if state.tab == Tab::Flows && state.data.flows.truncated {
        note.push_str(" of more");
    }
    if state.paused {
        note.push_str(", paused");
    }
    spans.push(Span::raw(note));
    Line::from(spans)
}

/// The columns for which there is room, by their place.
fn shown(columns: &'static [Column], width: u16) -> Vec<(usize, &'static Column)> {
    columns.iter().enumerate().filter(|(_, column)| width >= column.from).collect()
}

fn table(state: &State, sheet: &Sheet, frame: &mut Frame<'_>, area: Rect) {
    let look = state.look();
    let columns = shown(sheet.columns, area.width);
    let heading = |(place, column): &(usize, &'static Column)| {
        let arrow = match (look.sort == Some(*place), look.reverse) {
            (true, false) => "▼",
            (true, true) => "▲",
            (false, _) => "",
        };
        aligned(format!("{}{arrow}", column.name), column, Style::new())
    };
    let header = Row::new(columns.iter().map(heading)).style(Style::new().add_modifier(Modifier::BOLD));
    let rows = sheet.rows.iter().map(|row| {
        let cell = |(place, column): &(usize, &'static Column)| {
            let cell = &row[*place];
            aligned(cell.text.clone(), column, style(state, cell.tone))
        };
        Row::new(columns.iter().map(cell))
    });
    let widths = columns.iter().map(|(_, column)| match column.grows {
        true => Constraint::Min(column.width),
        false => Constraint::Length(column.width),
    });
    let table = Table::new(rows, widths)
        .header(header)
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut place = TableState::default().with_selected((!sheet.rows.is_empty()).then_some(look.selected));
    frame.render_stateful_widget(table, area, &mut place);
    if sheet.rows.is_empty() {
        let below = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
        let text = if sheet.hidden > 0 { "no row has this text: Esc shows all" } else { "nothing" };
        frame.render_widget(Paragraph::new(text), below);
    }
}

fn aligned(text: String, column: &Column, style: Style) -> Cell<'static> {
    let alignment = if column.right { Alignment::Right } else { Alignment::Left };
    Cell::from(Line::styled(text, style).alignment(alignment))
}

fn footer(state: &State, sheet: &Sheet) -> Line<'static> {
    if state.typing {
        return Line::raw(format!("/{}▏  Enter keeps it, Esc shows all", state.filter));
    }
    let sorted = state.look().sort.map_or("as it comes", |column| sheet.columns[column].name);
    let filter = if state.filter.is_empty() { String::new() } else { format!("  filter {:?}", state.filter) };
    Line::raw(format!("q end  Tab next  s sort: {sorted}  r reverse  / filter  p pause  ? help{filter}"))
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let width = area.width.min(50);
    let height = area.height.min(HELP.lines().count() as u16 + 2);
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let block = ratatui::widgets::Block::bordered().title(" keys ");
    frame.render_widget(Paragraph::new(HELP).block(block), place);
}

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

use super::super::tests::{flow, path, status};
use super::state::{Data, State, Tab};
use super::view::draw;
use crate::api::views::*;
use crate::engine::events::{EngineEvent, EventKind};
use crate::engine::path::PathState;
use crate::engine::policy::default_policies;

const SECOND: u64 = 1_000_000_000;

/// What is counted after so many seconds.
fn data(seconds: u64) -> Data {
    let down = PathView {
        state: PathState::Down,
        degraded: false,
        score: 0.0,
        rtt_ms: None,
        site_name: "atlantis".into(),
        tunnel: super::super::tests::tunnel(1, 1),
        ..path()
    };
    let up = PathView { sent_bytes: 1_000_000 * seconds, received_bytes: 250 * seconds, degraded: false, ..path() };
    let policy = |policy| PolicyView {
        policy,
        source: PolicySource::BuiltIn,
        packets: Some(50 * seconds),
        bytes: Some(10_000 * seconds),
        copies: None,
    };
    let event = |id: i64, kind, message: &str| EventView {
        id,
        time_unix_ns: 1_763_889_558_250_000_000 + id,
        event: EngineEvent::new(kind, message),
    };
    Data {
        taken_ns: seconds * SECOND,
        status: status(),
        paths: vec![up, down],
        policies: default_policies().into_iter().map(policy).collect(),
        flows: Listing::limited(vec![flow(), FlowView { source_port: 9, bytes: 125_000 * seconds, ..flow() }], 5),
        events: vec![event(1, EventKind::PathUp, "the first"), event(2, EventKind::PathDown, "the second")],
    }
}

fn screen(state: &State, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory");
    terminal.draw(|frame| draw(state, frame)).expect("it is drawn");
    terminal
}

/// The lines of the screen, without blanks at their ends.
fn lines(state: &State, width: u16, height: u16) -> Vec<String> {
    let terminal = screen(state, width, height);
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

fn press(state: &mut State, keys: &[KeyCode]) {
    keys.iter().for_each(|key| state.key(KeyEvent::new(*key, KeyModifiers::NONE)));
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn live() -> State {
    let mut state = State::new(true, data(10));
    state.data(data(12));
    state
}

#[test]
fn paths_with_their_rates_fit_eighty_columns_and_more_is_shown_where_there_is_room() {
    let mut state = State::new(true, data(10));
    let before = lines(&state, 80, 24);
    assert!(before[4].ends_with(" -        -"), "no rate can be told from one look: {before:#?}");
    state.data(data(12));
    let screen = lines(&state, 80, 24);
    assert_eq!(screen[0], "branch-1  health degraded  2 sites  4/2 paths up  daemon up 1d2h");
    assert_eq!(screen[1], "uplink lte has no carrier: look at the modem");
    assert_eq!(words(&screen[2]), ["1", "paths", "2", "classes", "3", "flows", "4", "events", "2", "rows"]);
    assert_eq!(words(&screen[3]), ["SITE", "UPLINKS", "STATE", "SCORE", "RTT", "LOSS", "OUT", "IN"]);
    assert_eq!(words(&screen[4]), ["headquarters", "fibre→lte", "up", "49", "123.5", "12.5/-", "8.0Mb/s", "2.0kb/s"]);
    assert_eq!(words(&screen[5])[..5], ["atlantis", "fibre→lte", "down", "0", "-"]);
    assert!(screen[23].starts_with("q end  Tab next  s sort: as it comes"), "{screen:#?}");
    let wide = lines(&state, 120, 24);
    assert_eq!(words(&wide[3]).len(), 12, "{wide:#?}");
    assert!(wide[4].contains("10.2/0.5") && wide[4].ends_with("2m5s"), "{wide:#?}");
}

#[test]
fn each_tab_shows_its_table() {
    let mut state = live();
    press(&mut state, &[KeyCode::Tab]);
    let classes = lines(&state, 80, 24);
    assert_eq!(words(&classes[4])[..4], ["voip-video", "voip-video", "50", "80.0kb/s"], "{classes:#?}");
    press(&mut state, &[KeyCode::Char('3')]);
    let flows = lines(&state, 80, 24);
    assert!(flows[5].contains("1.0Mb/s") && flows[4].contains(" 0b/s"), "{flows:#?}");
    press(&mut state, &[KeyCode::Right]);
    let events = lines(&state, 80, 24);
    assert_eq!(
        words(&events[4]),
        ["2025-11-23", "09:19:18", "path-down", "the", "second"],
        "the latest first: {events:#?}"
    );
    press(&mut state, &[KeyCode::Tab]);
    assert_eq!(state.tab, Tab::Paths, "round and round");
    press(&mut state, &[KeyCode::BackTab]);
    assert_eq!(state.tab, Tab::Events);
}

#[test]
fn rows_are_sorted_filtered_and_selected_by_keys() {
    let mut state = live();
    press(&mut state, &[KeyCode::Char('s')]);
    let sorted = lines(&state, 80, 24);
    assert!(sorted[3].starts_with("SITE▼") && sorted[4].starts_with("atlantis"), "{sorted:#?}");
    press(&mut state, &[KeyCode::Char('r')]);
    let reversed = lines(&state, 80, 24);
    assert!(reversed[3].starts_with("SITE▲") && reversed[4].starts_with("headquarters"), "{reversed:#?}");
    press(&mut state, &[KeyCode::Char('s'), KeyCode::Char('s'), KeyCode::Char('s')]);
    assert!(lines(&state, 80, 24)[4].starts_with("headquarters"), "the best score first");
    press(&mut state, &[KeyCode::End, KeyCode::Down, KeyCode::PageDown]);
    assert_eq!(state.look().selected, 1, "no further than the last row");

    press(
        &mut state,
        &[KeyCode::Char('/'), KeyCode::Char('A'), KeyCode::Char('q'), KeyCode::Backspace, KeyCode::Char('t')],
    );
    let typing = lines(&state, 80, 24);
    assert!(!state.over() && typing[23].starts_with("/At▏"), "a q is a letter here: {typing:#?}");
    assert!(typing[4].starts_with("atlantis") && typing[5].is_empty(), "{typing:#?}");
    assert_eq!(state.look().selected, 0, "the row that was marked is hidden");
    press(&mut state, &[KeyCode::Enter]);
    assert!(lines(&state, 80, 24)[2].ends_with("1 rows, 1 hidden"));
    press(&mut state, &[KeyCode::Char('/'), KeyCode::Char('x'), KeyCode::Enter]);
    assert_eq!(lines(&state, 80, 24)[4], "no row has this text: Esc shows all");
    press(&mut state, &[KeyCode::Esc]);
    assert_eq!(state.sheet().rows.len(), 2);
    press(&mut state, &[KeyCode::Char('q')]);
    assert!(state.over());
}

#[test]
fn help_is_shown_and_any_key_takes_it_away() {
    let mut state = live();
    press(&mut state, &[KeyCode::Char('?')]);
    for (width, height) in [(80, 24), (40, 8), (200, 60)] {
        let screen = lines(&state, width, height);
        assert!(screen.iter().any(|line| line.contains(" keys ")), "{screen:#?}");
    }
    press(&mut state, &[KeyCode::Char('x')]);
    assert!(!state.help);
    state.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
    assert!(state.over());
}

#[test]
fn without_colour_nothing_is_coloured_and_what_is_bad_still_stands_out() {
    let styles = |state: &State| {
        let terminal = screen(state, 80, 24);
        let buffer = terminal.backend().buffer().clone();
        let at = |needle: &str| {
            let y = lines(state, 80, 24).iter().position(|line| line.contains(needle)).expect("a line") as u16;
            let row: Vec<String> = (0..80).map(|x| buffer[(x, y)].symbol().to_owned()).collect();
            let x = row.concat().split(needle).next().expect("a text").chars().count() as u16;
            (buffer[(x, y)].fg, buffer[(x, y)].modifier)
        };
        (buffer.content.iter().filter(|cell| cell.fg != Color::Reset).count(), at("down "))
    };
    let mut state = live();
    let (colored, (color, _)) = styles(&state);
    assert!(colored > 0);
    assert_eq!(color, Color::Red);
    state.colored = false;
    let (colored, (color, modifier)) = styles(&state);
    assert_eq!((colored, color), (0, Color::Reset));
    assert!(modifier.contains(Modifier::BOLD));
}

#[test]
fn a_pause_keeps_the_picture_and_trouble_is_told_until_it_is_over() {
    let mut state = live();
    press(&mut state, &[KeyCode::Char('p')]);
    state.data(data(100));
    assert_eq!(state.data.taken_ns, 12 * SECOND);
    assert!(lines(&state, 80, 24)[2].ends_with(", paused"));
    press(&mut state, &[KeyCode::Char('p')]);
    state.away("the daemon is not running".into());
    assert_eq!(lines(&state, 80, 24)[1], "no answer: the daemon is not running");
    // Another daemon counts from zero: no rate comes of that, least of all a huge one.
    state.data(Data { taken_ns: 200 * SECOND, ..data(1) });
    let screen = lines(&state, 80, 24);
    assert_eq!(screen[1], "uplink lte has no carrier: look at the modem");
    assert!(screen[4].ends_with(" -        -"), "{screen:#?}");
}

#[test]
fn a_terminal_of_any_size_is_drawn_on() {
    let mut state = live();
    for tab in ['1', '2', '3', '4'] {
        press(&mut state, &[KeyCode::Char(tab)]);
        for (width, height) in [(1, 1), (39, 24), (80, 7), (40, 8), (500, 200)] {
            let screen = lines(&state, width, height);
            if width >= 40 && height >= 8 {
                assert!(screen[0].starts_with("branch-1"), "{screen:#?}");
            }
        }
    }
    assert!(lines(&state, 30, 10).concat().contains("too small"));
}

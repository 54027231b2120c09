//! What `sdwan top` knows, and what keys do to it.

use std::collections::HashMap;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::sheet::{self, Sheet};
use crate::api::views::{EventView, FlowView, Listing, PathView, PolicyView, StatusView};

/// Rows that PgUp and PgDn go.
const PAGE: usize = 10;

/// Everything that was asked for at one moment.
#[derive(Clone, Debug)]
pub(super) struct Data {
    /// When, ns of a clock that doesn't go back.
    pub taken_ns: u64,
    pub status: StatusView,
    pub paths: Vec<PathView>,
    pub policies: Vec<PolicyView>,
    pub flows: Listing<FlowView>,
    pub events: Vec<EventView>,
}

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tab {
    Paths,
    Classes,
    Flows,
    Events,
}

impl Tab {
    pub const ALL: [Self; 4] = [Self::Paths, Self::Classes, Self::Flows, Self::Events];

    pub fn name(self) -> &'static str {
        match self {
            Self::Paths => "paths",
            Self::Classes => "classes",
            Self::Flows => "flows",
            Self::Events => "events",
        }
    }
}

/// How a tab's table is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Column that it is sorted by; `None`: as it comes.
    pub sort: Option<usize>,
    /// The other way round.
    pub reverse: bool,
    /// The row that is marked.
    pub selected: usize,
}

/// Counters by what they count: bytes out and in, or packets and bytes.
type Counters = HashMap<String, [u64; 2]>;

/// Everything.
#[derive(Debug)]
pub(super) struct State {
    pub colored: bool,
    pub data: Data,
    /// Per second, by the same keys.
    pub rates: HashMap<String, [f64; 2]>,
    pub tab: Tab,
    pub looks: [Look; 4],
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    pub help: bool,
    pub paused: bool,
    /// Why there is nothing new.
    pub trouble: Option<String>,
    over: bool,
    counters: Counters,
}

impl State {
    pub fn new(colored: bool, data: Data) -> Self {
        let counters = counters(&data);
        Self {
            colored,
            data,
            rates: HashMap::new(),
            tab: Tab::Paths,
            looks: [Look::default(); 4],
            filter: String::new(),
            typing: false,
            help: false,
            paused: false,
            trouble: None,
            over: false,
            counters,
        }
    }

    /// Whether the operator has seen enough.
    pub fn over(&self) -> bool {
        self.over
    }

    /// How the tab that is shown looks.
    pub fn look(&self) -> Look {
        self.looks[self.tab as usize]
    }

    /// The table that is shown.
    pub fn sheet(&self) -> Sheet {
        sheet::sheet(self)
    }

    /// Takes what the daemon says.
    pub fn data(&mut self, data: Data) {
        self.trouble = None;
        if self.paused {
            return;
        }
        let now = counters(&data);
        let seconds = data.taken_ns.saturating_sub(self.data.taken_ns) as f64 / 1e9;
        if seconds > 0.0 {
            // Counters of another daemon, or of an entry that was made anew, begin at zero: nothing can be told of those yet.
            let rate = |key: &String, count: &[u64; 2]| {
                let former = self.counters.get(key)?;
                let [first, second] =
                    [0, 1].map(|at| count[at].checked_sub(former[at]).map(|more| more as f64 / seconds));
                Some((key.clone(), [first?, second?]))
            };
            self.rates = now.iter().filter_map(|(key, count)| rate(key, count)).collect();
        }
        self.counters = now;
        self.data = data;
        self.keep_selected();
    }

    /// The daemon doesn't answer.
    pub fn away(&mut self, why: String) {
        self.trouble = Some(why);
    }

    /// A key was pressed.
    pub fn key(&mut self, key: KeyEvent) {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            self.over |= matches!(key.code, KeyCode::Char('c' | 'd'));
            return;
        }
        if self.typing {
            self.type_filter(key.code);
            return;
        }
        if self.help {
            self.help = false;
            self.over |= key.code == KeyCode::Char('q');
            return;
        }
        match key.code {
            KeyCode::Char('q') => self.over = true,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.help = true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Tab | KeyCode::Right => self.go_to_tab(1),
            KeyCode::BackTab | KeyCode::Left => self.go_to_tab(Tab::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='4') => self.tab = Tab::ALL[digit as usize - '1' as usize],
            KeyCode::Char('s') => self.sort_by_next(),
            KeyCode::Char('r') => self.looks[self.tab as usize].reverse ^= true,
            KeyCode::Down | KeyCode::Char('j') => self.select(|at| at.saturating_add(1)),
            KeyCode::Up | KeyCode::Char('k') => self.select(|at| at.saturating_sub(1)),
            KeyCode::PageDown => self.select(|at| at.saturating_add(PAGE)),
            KeyCode::PageUp => self.select(|at| at.saturating_sub(PAGE)),
            KeyCode::Home => self.select(|_| 0),
            KeyCode::End => self.select(|_| usize::MAX),
            _ => {}
        }
        self.keep_selected();
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(character) if self.filter.chars().count() < 64 => self.filter.push(character),
            _ => {}
        }
        self.keep_selected();
    }

    fn go_to_tab(&mut self, steps: usize) {
        self.tab = Tab::ALL[(self.tab as usize + steps) % Tab::ALL.len()];
    }

    fn sort_by_next(&mut self) {
        let columns = sheet::columns(self.tab).len();
        let look = &mut self.looks[self.tab as usize];
        look.sort = match look.sort {
            None => Some(0),
            Some(at) if at + 1 < columns => Some(at + 1),
            Some(_) => None,
        };
        look.reverse = false;
    }

    /// Beyond the last row is the last one: [`Self::keep_selected`] follows every key.
    fn select(&mut self, to: impl FnOnce(usize) -> usize) {
        let look = &mut self.looks[self.tab as usize];
        look.selected = to(look.selected);
    }

    /// The marked row is one that there is.
    fn keep_selected(&mut self) {
        let last = self.sheet().rows.len().saturating_sub(1);
        let look = &mut self.looks[self.tab as usize];
        look.selected = look.selected.min(last);
    }
}

/// What a path's rates are kept under.
pub(super) fn path_key(path: &PathView) -> String {
    format!("path {} {}", path.site, path.tunnel)
}

/// The same of a policy, and of a flow.
pub(super) fn policy_key(policy: &PolicyView) -> String {
    format!("policy {}", policy.policy.name)
}

pub(super) fn flow_key(flow: &FlowView) -> String {
    format!(
        "flow {} {} {} {} {}",
        flow.source, flow.source_port, flow.destination, flow.destination_port, flow.protocol
    )
}

fn counters(data: &Data) -> Counters {
    let paths = data.paths.iter().map(|path| (path_key(path), [path.sent_bytes, path.received_bytes]));
    let counted = |policy: &PolicyView| Some((policy_key(policy), [policy.packets?, policy.bytes?]));
    let policies = data.policies.iter().filter_map(counted);
    let flows = data.flows.items.iter().map(|flow| (flow_key(flow), [flow.packets, flow.bytes]));
    paths.chain(policies).chain(flows).collect()
}

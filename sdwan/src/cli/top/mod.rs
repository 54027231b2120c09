//! `sdwan top`: paths, classes, flows and events, live.
//!
//! [`state`] holds what is known and what keys did to it, [`sheet`] makes tables of it, [`view`] draws them. None of these
//! knows the time or the terminal: both come from here.

mod sheet;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::watch::seconds;
use super::{Context, Exit, Format};
use crate::api::client::{Client, ClientError};
use crate::api::request::FlowFilter;
use crate::api::server::EventsQuery;
use state::{Data, State};

/// Flows that are asked for.
const FLOWS: usize = 2_000;
/// Events that are kept.
const EVENTS: usize = 500;
/// How often the keyboard's thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// Options of `sdwan top`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Keys:
  Tab, ←, →, 1 to 4      paths, classes, flows, events
  ↑, ↓, PgUp, PgDn       move in the table
  s, r                   sort by the next column, the other way round
  /                      show only rows with a text; Esc shows all again
  p                      pause
  ?                      help
  q                      end

It needs a terminal of at least 40 columns and 8 lines. Without one, use `sdwan paths --watch` or `-o json`.")]
pub(super) struct Args {
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        anyhow::ensure!(
            terminal && matches!(context.output.format, Format::Table | Format::Wide),
            "`sdwan top` needs a terminal: elsewhere use `sdwan status`, `sdwan paths --watch`, or `-o json` with them"
        );
        let client = context.client()?;
        // Before the screen is taken: what is wrong is told where it stays.
        let first = look(&client, 0).await?;
        let mut state = State::new(context.output.colored(), first);
        let mut screen = ratatui::try_init()?;
        let outcome = self.live(&client, &mut state, &mut screen).await;
        ratatui::try_restore()?;
        outcome.map(|()| Exit::Ok)
    }

    async fn live(
        &self,
        client: &Client,
        state: &mut State,
        screen: &mut ratatui::DefaultTerminal,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut keyboard = Keyboard::start()?;
        let (mut ended, mut hung_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !state.over() {
            screen.draw(|frame| view::draw(state, frame))?;
            tokio::select! {
                input = keyboard.inputs.recv() => match input {
                    Some(Input::Key(key)) => state.key(key),
                    Some(Input::Resized) => {}
                    // The terminal is gone.
                    None => return Ok(()),
                },
                _ = ticks.tick() => match look(client, start.elapsed().as_nanos() as u64).await {
                    Ok(data) => state.data(data),
                    Err(error) => state.away(error.to_string()),
                },
                _ = ended.recv() => return Ok(()),
                _ = hung_up.recv() => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Asks for everything that is shown. `taken_ns`: when, on any clock that doesn't go back.
async fn look(client: &Client, taken_ns: u64) -> Result<Data, ClientError> {
    let events = EventsQuery { limit: EVENTS, ..EventsQuery::default() };
    Ok(Data {
        taken_ns,
        status: client.status().await?,
        paths: client.paths().await?.items,
        policies: client.policies().await?.items,
        flows: client.flows(&FlowFilter { limit: FLOWS, ..FlowFilter::default() }).await?,
        events: client.events(&events).await?.items,
    })
}

/// What comes from the terminal.
enum Input {
    Key(KeyEvent),
    Resized,
}

/// A thread that reads the keyboard, for reading it blocks.
struct Keyboard {
    inputs: mpsc::Receiver<Input>,
    end: Arc<AtomicBool>,
}

impl Keyboard {
    fn start() -> std::io::Result<Self> {
        let (sender, inputs) = mpsc::channel(64);
        let end = Arc::new(AtomicBool::new(false));
        let over = end.clone();
        std::thread::Builder::new().name("keyboard".into()).spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let input =
                    match event::poll(LOOK).and_then(|ready| if ready { event::read().map(Some) } else { Ok(None) }) {
                        Ok(None) => continue,
                        Ok(Some(Event::Key(key))) if key.kind != KeyEventKind::Release => Input::Key(key),
                        Ok(Some(Event::Resize(..))) => Input::Resized,
                        Ok(Some(_)) => continue,
                        // The receiver sees the channel end.
                        Err(_) => return,
                    };
                if sender.blocking_send(input).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { inputs, end })
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

//! Delay, jitter, loss and MOS of six lines, beside `ping` and `irtt`; and a delay that makes steps.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sdwan::api::views::SpanView;
use sdwan::engine::emodel::Codec;
use sdwan::engine::estimate::{Loss as MeasuredLoss, Quality};
use sdwan::engine::score::mean_opinion_score;

use super::lines::{CLEAN, Line, STEP, lines};
use super::median;
use super::tools::{self, Reading};
use crate::bed::{Bed, Direction, Families, Impairment, LineStatistics, Link, Namespace, Provider};
use crate::figures::Figures;
use crate::mesh::{Discovery, Mesh, MeshOptions};
use crate::pace::patience;

/// Span that all tools look at at once.
const SPAN: Duration = Duration::from_secs(60);
/// By how much the delay steps.
const STEP_BY: Duration = Duration::from_millis(60);
/// Steps that are timed.
const STEPS: usize = 10;
/// Every path is probed at the full pace, with traffic or without.
const PROBES: &str = "[probe]\nidle_interval = \"50ms\"\n";

/// What all say of one line.
struct Row {
    line: Line,
    ours: Reading,
    mos: Option<f64>,
    probes: f64,
    /// Loss that the emulator made there and back, 0.0..=1.0.
    lost: [f64; 2],
    ping: Result<Reading>,
    irtt: Option<Result<Reading>>,
}

/// Adds the figures of the lines.
///
/// # Errors
/// When the bed can't be built or the mesh doesn't come up.
pub fn run(figures: &mut Figures) -> Result<()> {
    let mesh = stage()?;
    eprintln!("all tools look at {} lines for {} s", lines().len(), SPAN.as_secs());
    let rows = look(&mesh)?;
    show(&rows);
    add(figures, &rows);
    match steps(&mesh) {
        Ok(times) => median(figures, "accuracy.step_s", "s", &times),
        Err(error) => figures.missing("accuracy.step_s", "s", format!("{error:#}")),
    }
    Ok(())
}

/// Site a has a line of each kind, site b one that does nothing.
fn stage() -> Result<Mesh> {
    let mut builder = Bed::builder().sites(["a", "b"]).families(Families::V4);
    builder = builder.providers([("isp", Provider::Routed)]).uplinks("b", [("wan", "isp")]);
    builder = builder.uplinks("a", lines().iter().map(|line| (line.name, "isp")));
    for line in lines() {
        builder = builder.impair_directions("a", line.name, line.up, line.down);
    }
    let options =
        MeshOptions { discovery: Discovery::Seed("b".into()), extra: PROBES.into(), ..MeshOptions::default() };
    let mesh = Mesh::prepare(builder.build()?, &options)?;
    for (number, line) in lines().iter().enumerate() {
        let link = mesh.bed().link("a", line.name);
        let (address, gateway) = attachment(link)?;
        let table = 900 + number;
        // What others send from an address of the line leaves by it.
        mesh.gateway("a").namespace().ip(&format!(
            "route add default via {gateway} dev {} table {table}\nrule add pref 50 from {address} table {table}",
            line.name
        ))?;
    }
    mesh.start_daemons()?;
    mesh.wait_until_up(patience(Duration::from_secs(30)))?;
    Ok(mesh)
}

fn attachment(link: &Link) -> Result<(IpAddr, IpAddr)> {
    let first = *link.attachments().first().context("the line has an address")?;
    Ok((first.address.addr(), first.gateway))
}

fn look(mesh: &Mesh) -> Result<Vec<Row>> {
    let (a, b) = (mesh.gateway("a").namespace(), mesh.gateway("b").namespace());
    let (peer, _) = attachment(mesh.bed().link("b", "wan"))?;
    let server = if tools::has_irtt(a) { Some(tools::IrttServer::start(b)?) } else { None };
    let lines = lines();
    let others = std::thread::scope(|scope| -> Result<Vec<_>> {
        let mut started = Vec::new();
        for line in &lines {
            let (source, _) = attachment(mesh.bed().link("a", line.name))?;
            let with_irtt = server.is_some();
            let ask = |tool: fn(&Namespace, IpAddr, IpAddr, Duration) -> Result<Reading>| {
                scope.spawn(move || tool(a, source, peer, SPAN))
            };
            started.push((ask(tools::ping), with_irtt.then(|| ask(tools::irtt))));
        }
        let joined = started.into_iter().map(|(ping, irtt)| {
            let panicked = |_| Err(anyhow::anyhow!("the thread of the tool panicked"));
            (ping.join().unwrap_or_else(panicked), irtt.map(|irtt| irtt.join().unwrap_or_else(panicked)))
        });
        Ok(joined.collect())
    })?;
    let paths = mesh.gateway("a").paths()?;
    let mut rows = Vec::new();
    for (line, (ping, irtt)) in lines.into_iter().zip(others) {
        let path = paths.iter().find(|path| path.local_uplink == line.name).context("each line has a path")?;
        let span = path.spans.iter().find(|span| span.span_s == SPAN.as_secs()).context("the path was answered")?;
        let lost = shares(&mesh.bed().link("a", line.name).statistics()?);
        let (ours, mos, probes) = (reading(span), path.mos, probes(span));
        rows.push(Row { line, ours, mos, probes, lost, ping, irtt });
    }
    Ok(rows)
}

/// What the emulator lost there and back, of what came in.
fn shares(statistics: &LineStatistics) -> [f64; 2] {
    [statistics.up, statistics.down].map(|pipe| pipe.lost as f64 / pipe.received.max(1) as f64)
}

fn reading(span: &SpanView) -> Reading {
    Reading {
        rtt_ms: Some(span.rtt_p50_ms),
        jitter_ms: [Some(span.jitter_forward_ms), Some(span.jitter_backward_ms)],
        loss_pct: [span.loss_forward_pct, span.loss_backward_pct],
        round_trip_loss_pct: span.loss_round_trip_pct,
    }
}

/// Probes of the span: those that were answered, and those that were lost.
fn probes(span: &SpanView) -> f64 {
    let lost = span.loss_round_trip_pct.unwrap_or_default() / 100.0;
    span.samples as f64 / (1.0 - lost).max(1e-3)
}

fn show(rows: &[Row]) {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    eprintln!("\n{:8} {:7} {:>8} {:>13} {:>13} {:>7}", "line", "", "RTT ms", "jitter ms", "loss %", "MOS");
    for row in rows {
        let print = |name: &str, reading: &Reading, mos: Option<f64>| {
            let both = |pair: [Option<f64>; 2]| format!("{}/{}", number(pair[0]), number(pair[1]));
            let loss = match reading.loss_pct {
                [None, None] => number(reading.round_trip_loss_pct),
                pair => both(pair),
            };
            let (rtt, jitter) = (number(reading.rtt_ms), both(reading.jitter_ms));
            eprintln!("{:8} {name:7} {rtt:>8} {jitter:>13} {loss:>13} {:>7}", row.line.name, number(mos));
        };
        let truth = Reading {
            rtt_ms: Some(row.line.rtt_ms()),
            jitter_ms: row.line.jitter_ms().map(Some),
            loss_pct: row.lost.map(|lost| Some(lost * 100.0)),
            round_trip_loss_pct: None,
        };
        print("truth", &truth, mos_of_truth(row));
        print("sdwan", &row.ours, row.mos);
        for (name, other) in [("ping", Some(&row.ping)), ("irtt", row.irtt.as_ref())] {
            match other {
                Some(Ok(reading)) => print(name, reading, None),
                Some(Err(error)) => eprintln!("{:8} {name:7} failed: {error:#}", row.line.name),
                None => eprintln!("{:8} {name:7} isn't installed: apt-get install {name}", row.line.name),
            }
        }
    }
}

fn mos_of_truth(row: &Row) -> Option<f64> {
    let jitter = row.line.jitter_ms().map(|jitter| Duration::from_secs_f64(jitter / 1e3));
    let quality = Quality {
        rtt: Some(row.line.up.delay + row.line.down.delay),
        jitter_forward: jitter[0],
        jitter_backward: jitter[1],
        // The score is of the moment, so what it rests on is the line as it is set up, not one stretch of it.
        loss: MeasuredLoss {
            forward: row.line.up.loss.mean(),
            backward: row.line.down.loss.mean(),
            ..MeasuredLoss::default()
        },
        ..Quality::default()
    };
    mean_opinion_score(Codec::G711, &quality)
}

fn add(figures: &mut Figures, rows: &[Row]) {
    // What veth pairs, the emulator and the processors add to a round trip, by another's clock.
    let floor = rows.iter().find(|row| row.line.name == CLEAN).and_then(|row| row.ping.as_ref().ok()?.rtt_ms);
    match floor {
        Some(floor) => {
            let steady = rows.iter().filter(|row| row.line.jitter_ms() == [0.0, 0.0] && row.line.name != CLEAN);
            let errors = steady.filter_map(|row| Some((row.ours.rtt_ms? - row.line.rtt_ms() - floor).abs() * 1e3));
            median(figures, "accuracy.rtt_err_us", "us", &errors.collect::<Vec<_>>());
            figures.add("accuracy.rtt_floor_us", floor * 1e3, "us", 1);
        }
        None => figures.missing("accuracy.rtt_err_us", "us", "ping got no answer on the line that does nothing"),
    }
    let mut jitter = Vec::new();
    let mut scores: Vec<f64> = Vec::new();
    for row in rows {
        for (truth, ours) in row.line.jitter_ms().into_iter().zip(row.ours.jitter_ms) {
            jitter.extend(ours.filter(|_| truth > 0.0).map(|ours| (ours / truth - 1.0).abs() * 100.0));
        }
        for (share, ours) in row.lost.into_iter().zip(row.ours.loss_pct) {
            let deviation = (share * (1.0 - share) / row.probes.max(1.0)).sqrt();
            let error = ours.unwrap_or_default() / 100.0 - share;
            scores.push(if deviation > 0.0 { (error / deviation).abs() } else { error.abs() * row.probes });
        }
    }
    median(figures, "accuracy.jitter_err_pct", "%", &jitter);
    let worst = scores.iter().copied().fold(0.0, f64::max);
    figures.add("accuracy.loss_err_z", worst, "sigma", scores.len() as u64);
    // The score of the moment rests on ten seconds of loss: only where none is, its truth is sharp.
    let lossless = rows.iter().filter(|row| row.line.up.loss.mean() + row.line.down.loss.mean() == 0.0);
    let errors: Vec<f64> = lossless.filter_map(|row| Some((row.mos? - mos_of_truth(row)?).abs())).collect();
    figures.add("accuracy.mos_err", errors.iter().copied().fold(0.0, f64::max), "MOS", errors.len() as u64);
}

/// Times from a step of the delay until the score has made half of its way, s.
fn steps(mesh: &Mesh) -> Result<Vec<f64>> {
    let line = lines().into_iter().find(|line| line.name == STEP).context("the line exists")?;
    let link = mesh.bed().link("a", STEP);
    let score = || -> Result<f64> {
        let paths = mesh.gateway("a").paths()?;
        Ok(paths.iter().find(|path| path.local_uplink == STEP).context("the path exists")?.score)
    };
    let mut times = Vec::new();
    for step in 0..STEPS {
        let before = score()?;
        let later = Impairment {
            delay: line.up.delay + if step % 2 == 0 { STEP_BY } else { Duration::ZERO },
            ..line.up.clone()
        };
        // 40 ms and 100 ms of RTT are 100 and 83 points of the latency's 40 %.
        let way = 0.4 * (100.0 - 83.3);
        let start = Instant::now();
        link.impair_direction(Direction::Up, later)?;
        while (score()? - before).abs() < way / 2.0 {
            anyhow::ensure!(
                start.elapsed() < Duration::from_secs(20),
                "the score doesn't follow a step of {STEP_BY:?}"
            );
            sleep(Duration::from_millis(10));
        }
        times.push(start.elapsed().as_secs_f64());
        sleep(Duration::from_secs(4));
    }
    Ok(times)
}

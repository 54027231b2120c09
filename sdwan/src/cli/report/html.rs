//! The report as one page that needs nothing else: no script, no font, no address outside of it.

use std::fmt::Write as _;

use super::super::output::{decimal, short};
use super::super::when;
use super::plot::{At, line, shares};
use super::{gaps, minute, quality_cells, share, sla, span, up_cells, uplinks};
use crate::api::views::{ClassReport, PathReport, ProviderReport, ReportView, StepView};

/// With more paths than this, their plots are folded up at first.
const UNFOLDED: usize = 8;

const STYLE: &str = "\
:root{color-scheme:light dark;--back:#fff;--text:#1b1f24;--dim:#59636e;--rule:#d1d9e0;--up:#2da44e;--down:#cf222e;\
--broken:#bf8700;--unknown:#afb8c1;--line:#0969da;--band:#0969da33}\
@media(prefers-color-scheme:dark){:root{--back:#0d1117;--text:#e6edf3;--dim:#9198a1;--rule:#3d444d;--up:#3fb950;\
--down:#f85149;--broken:#d29922;--unknown:#484f58;--line:#4493f8;--band:#4493f833}}\
*{box-sizing:border-box}body{margin:0 auto;padding:1rem;max-width:75rem;background:var(--back);color:var(--text);\
font:1rem/1.45 system-ui,sans-serif}h1{font-size:1.5rem;margin:0}h2{font-size:1.2rem;margin:2rem 0 .5rem}\
p{margin:.25rem 0}.dim{color:var(--dim)}.table{overflow-x:auto}table{border-collapse:collapse;width:100%;\
font-variant-numeric:tabular-nums}th,td{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--rule);\
white-space:nowrap;vertical-align:top}th{font-weight:600;color:var(--dim);font-size:.85rem}.n{text-align:right}\
td.wrap{white-space:normal;min-width:14rem}details{border:1px solid var(--rule);border-radius:.4rem;margin:.6rem 0;\
padding:.5rem .8rem}summary{cursor:pointer;font-weight:600}.plots{display:grid;gap:.8rem 1.5rem;\
grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));margin:.6rem 0}figure{margin:0;min-width:0}\
figcaption,.ends{display:flex;justify-content:space-between;gap:.5rem;font-size:.8rem;color:var(--dim)}\
svg{display:block;width:100%;height:3.5rem;border-bottom:1px solid var(--rule)}svg.low{height:1.5rem}\
.up,.kept{fill:var(--up)}.down,.without{fill:var(--down)}.broken{fill:var(--broken)}.unknown{fill:var(--unknown)}\
.loss{fill:var(--down)}.band{fill:var(--band)}.line{fill:none;stroke:var(--line);stroke-width:1.5;\
vector-effect:non-scaling-stroke}.key span{margin-right:1rem}.key i{display:inline-block;width:.8rem;height:.8rem;\
margin-right:.3rem;border-radius:.15rem;vertical-align:-.05rem}@media print{details{break-inside:avoid}}";

/// The whole page.
pub(super) fn render(view: &ReportView) -> String {
    let title = match &view.site_name {
        Some(name) => format!("SD-WAN report of {}", escape(name)),
        None => "SD-WAN report".into(),
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<h1>{title}</h1>\n<p>{} to {} UTC ({})</p>\n",
        minute(view.since_unix_s),
        minute(view.until_unix_s),
        span((view.until_unix_s - view.since_unix_s) as f64)
    );
    for gap in gaps(view) {
        page.push_str(&format!("<p class=\"dim\">{}</p>\n", escape(&gap)));
    }
    page.push_str(
        "<p class=\"key dim\"><span><i style=\"background:var(--up)\"></i>up, SLA kept</span><span><i \
         style=\"background:var(--broken)\"></i>SLA broken</span><span><i style=\"background:var(--down)\"></i>down, no \
         path</span><span><i style=\"background:var(--unknown)\"></i>not watched</span></p>\n",
    );
    section(&mut page, "Providers", &providers(view));
    section(&mut page, "Classes", &classes(view));
    section(&mut page, "Paths", &paths(view));
    section(&mut page, "Failovers", &failovers(view));
    page.push_str("</body>\n</html>\n");
    page
}

fn section(page: &mut String, title: &str, content: &str) {
    if !content.is_empty() {
        // Writing to a string can't fail.
        let _ = writeln!(page, "<h2>{title}</h2>\n{content}");
    }
}

/// Text that can't be taken for markup.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// How a column is shown.
#[derive(Clone, Copy)]
enum Column {
    Text,
    Number,
    Wrapped,
}

fn table(headings: &[(&str, Column)], rows: &[Vec<String>]) -> String {
    let class = |column: Column| match column {
        Column::Text => "",
        Column::Number => " class=\"n\"",
        Column::Wrapped => " class=\"wrap\"",
    };
    let mut html = String::from("<div class=\"table\"><table>\n<thead><tr>");
    for (heading, column) in headings {
        let _ = write!(html, "<th scope=\"col\"{}>{heading}</th>", class(*column));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        html.push_str("<tr>");
        for (cell, (_, column)) in row.iter().zip(headings) {
            let _ = write!(html, "<td{}>{}</td>", class(*column), escape(cell));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
    html
}

const UP: [(&str, Column); 3] = [("up %", Column::Number), ("down", Column::Number), ("not watched", Column::Number)];
const QUALITY: [(&str, Column); 4] = [
    ("RTT, ms", Column::Number),
    ("jitter out/in, ms", Column::Number),
    ("loss out/in, %", Column::Number),
    ("MOS", Column::Number),
];
const TRAFFIC: [(&str, Column); 2] = [("bytes out", Column::Number), ("bytes in", Column::Number)];

fn providers(view: &ReportView) -> String {
    if view.providers.is_empty() {
        return String::new();
    }
    let row = |provider: &ProviderReport| {
        let mut row = vec![provider.name.clone()];
        row.extend(up_cells(&provider.availability));
        row.extend(quality_cells(&provider.quality));
        row.extend([short(provider.sent_bytes), short(provider.received_bytes)]);
        row
    };
    let headings = [&[("uplink", Column::Text)][..], &UP, &QUALITY, &TRAFFIC].concat();
    let mut html = table(&headings, &view.providers.iter().map(row).collect::<Vec<_>>());
    html.push_str("<div class=\"plots\">\n");
    for provider in &view.providers {
        html.push_str(&availability(view, &provider.name, &provider.series));
    }
    html.push_str("</div>");
    html
}

fn classes(view: &ReportView) -> String {
    if view.classes.is_empty() {
        return String::new();
    }
    let row = |class: &ClassReport| {
        let kept = &class.compliance;
        vec![
            class.site_name.clone(),
            class.class.clone(),
            share(kept.compliance_pct),
            span(kept.broken_s),
            span(kept.without_path_s),
            span(kept.unknown_s),
            sla(class).to_owned(),
        ]
    };
    let headings = [
        ("site", Column::Text),
        ("class", Column::Text),
        ("kept %", Column::Number),
        ("broken", Column::Number),
        ("no path", Column::Number),
        ("not watched", Column::Number),
        ("SLA", Column::Wrapped),
    ];
    let mut html = table(&headings, &view.classes.iter().map(row).collect::<Vec<_>>());
    html.push_str("<div class=\"plots\">\n");
    for class in view.classes.iter().filter(|class| !class.sla.is_empty()) {
        let steps = class.series.iter().map(|step| {
            let part = |seconds: f64| seconds / view.step_s as f64;
            let of = &step.compliance;
            let value = [part(of.without_path_s), part(of.broken_s), part(of.unknown_s), part(of.kept_s)];
            place(view, step.time_unix_s, value)
        });
        let steps: Vec<_> = steps.collect();
        let name = format!("{}, {}", class.site_name, class.class);
        let label = format!("SLA of {name} over time");
        let svg = shares(&escape(&label), ["without", "broken", "unknown", "kept"], &steps);
        html.push_str(&figure(view, &name, &format!("{} %", share(class.compliance.compliance_pct)), &low(svg)));
    }
    html.push_str("</div>");
    html
}

fn paths(view: &ReportView) -> String {
    if view.paths.is_empty() {
        return String::new();
    }
    let row = |path: &PathReport| {
        let mut row = vec![path.site_name.clone(), uplinks(path)];
        row.extend(up_cells(&path.availability));
        row.push(path.falls.values().sum::<u64>().to_string());
        row.extend(quality_cells(&path.quality));
        row.extend([short(path.sent_bytes), short(path.received_bytes)]);
        row
    };
    let headings = [
        &[("site", Column::Text), ("uplinks", Column::Text)][..],
        &UP,
        &[("falls", Column::Number)],
        &QUALITY,
        &TRAFFIC,
    ]
    .concat();
    let mut html = table(&headings, &view.paths.iter().map(row).collect::<Vec<_>>());
    for path in &view.paths {
        html.push_str(&path_details(view, path));
    }
    html
}

fn path_details(view: &ReportView, path: &PathReport) -> String {
    let open = if view.paths.len() <= UNFOLDED { " open" } else { "" };
    let name = format!("{} {}", path.site_name, uplinks(path));
    let falls: Vec<String> = path.falls.iter().map(|(cause, count)| format!("{count} × {cause}")).collect();
    let falls = if falls.is_empty() { "never went down".into() } else { format!("went down: {}", falls.join(", ")) };
    let mut html = format!(
        "<details{open}><summary>{}</summary>\n<p class=\"dim\">{}</p>\n<div class=\"plots\">\n",
        escape(&name),
        escape(&falls)
    );
    html.push_str(&availability(view, "availability", &path.series));
    let rtt = |step: &StepView| {
        let of = &step.quality;
        let mean = of.rtt_ms?;
        Some((of.rtt_min_ms.unwrap_or(mean), mean, of.rtt_max_ms.unwrap_or(mean)))
    };
    let flat = |value: Option<f64>| value.map(|value| (value, value, value));
    html.push_str(&curve(view, "RTT", "ms", &path.series, rtt));
    html.push_str(&curve(view, "jitter, the worse direction", "ms", &path.series, |step| {
        flat(step.quality.jitter_ms())
    }));
    html.push_str(&curve(view, "loss, the worse direction", "%", &path.series, |step| flat(step.quality.loss_pct())));
    html.push_str(&curve(view, "MOS", "", &path.series, |step| flat(step.quality.mos)));
    html.push_str("</div></details>\n");
    html
}

/// A step's place in the span, 0–1.
fn place<T>(view: &ReportView, from: i64, value: T) -> At<T> {
    let length = (view.until_unix_s - view.since_unix_s).max(1) as f64;
    let at = |time: i64| ((time - view.since_unix_s) as f64 / length).clamp(0.0, 1.0);
    At { from: at(from), to: at(from + view.step_s), value }
}

fn availability(view: &ReportView, name: &str, series: &[StepView]) -> String {
    let steps = series.iter().map(|step| {
        let of = &step.availability;
        let part = |seconds: f64| seconds / view.step_s as f64;
        place(view, step.time_unix_s, [part(of.down_s), part(of.unknown_s), part(of.up_s)])
    });
    let svg = shares(&escape(&format!("{name} over time")), ["down", "unknown", "up"], &steps.collect::<Vec<_>>());
    figure(view, name, "", &low(svg))
}

fn low(svg: String) -> String {
    svg.replacen("<svg ", "<svg class=\"low\" ", 1)
}

/// A line with its smallest and largest value as text.
fn curve(
    view: &ReportView,
    name: &str,
    unit: &str,
    series: &[StepView],
    value: impl Fn(&StepView) -> Option<(f64, f64, f64)>,
) -> String {
    let steps: Vec<At<(f64, f64, f64)>> =
        series.iter().filter_map(|step| Some(place(view, step.time_unix_s, value(step)?))).collect();
    let least = steps.iter().map(|step| step.value.0).reduce(f64::min);
    let most = steps.iter().map(|step| step.value.2).reduce(f64::max);
    let (Some(least), Some(most)) = (least, most) else {
        return figure(view, name, "nothing was measured", "");
    };
    let range = format!("{} – {} {unit}", decimal(Some(least)), decimal(Some(most)));
    let svg = line(&escape(&format!("{name} over time, {range}")), most, &steps);
    figure(view, name, range.trim_end(), &svg)
}

fn figure(view: &ReportView, name: &str, note: &str, svg: &str) -> String {
    format!(
        "<figure><figcaption><span>{}</span><span>{}</span></figcaption>{svg}<div class=\"ends\"><span>{}</span><span>{}\
         </span></div></figure>\n",
        escape(name),
        escape(note),
        minute(view.since_unix_s),
        minute(view.until_unix_s)
    )
}

fn failovers(view: &ReportView) -> String {
    if view.paths.is_empty() {
        return String::new();
    }
    if view.moves.is_empty() {
        return "<p>None.</p>".into();
    }
    let headings = [
        ("site", Column::Text),
        ("left", Column::Text),
        ("times", Column::Number),
        ("classes", Column::Wrapped),
        ("because", Column::Wrapped),
    ];
    let row = |moves: &crate::api::views::MovesView| {
        let count = moves.count.to_string();
        vec![moves.site_name.clone(), moves.from.clone(), count, moves.classes.join(", "), moves.cause.clone()]
    };
    let mut html = table(&headings, &view.moves.iter().map(row).collect::<Vec<_>>());
    let headings = [
        ("time (UTC)", Column::Text),
        ("site", Column::Text),
        ("class", Column::Text),
        ("from", Column::Text),
        ("to", Column::Text),
        ("because", Column::Wrapped),
    ];
    let row = |failover: &crate::api::views::FailoverView| {
        vec![
            when::second(failover.time_unix_ns),
            failover.site_name.clone(),
            failover.class.clone(),
            failover.from.clone(),
            failover.to.clone(),
            failover.cause.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = view.failovers.iter().rev().map(row).collect();
    let _ =
        write!(html, "<details><summary>Each of them, the latest first</summary>{}</details>", table(&headings, &rows));
    html
}

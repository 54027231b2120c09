// How a path did: round-trip time, jitter, loss, traffic and capacity, and the quality of calls.
import uPlot from "uplot";

import { get } from "../api/client";
import type { History, HistoryPoint, Path } from "../api/types";
import { duration, milliseconds, mos, percent, rate } from "../lib/format";
import { columns, summary } from "../lib/series";
import { pathLook } from "../lib/state";
import { badge, h, setBadge, setText } from "../ui/dom";
import { look } from "../ui/theme";

const SPANS: [string, number][] = [
  ["15 min", 900],
  ["1 h", 3600],
  ["6 h", 21_600],
  ["24 h", 86_400],
  ["7 d", 604_800],
  ["30 d", 2_592_000],
];
/** Records come every 10 s. */
const EVERY_MS = 10_000;
const HEIGHT = 132;
/** Shortest span that is plotted, s. */
const LEAST_S = 120;

type Field = Exclude<keyof HistoryPoint, "time_unix_s">;

interface Chart {
  title: string;
  fields: { field: Field; label: string; color: "one" | "two" | "three"; dash?: boolean; thin?: boolean }[];
  text: (value: number | null) => string;
  axis: (value: number) => string;
  range: (most: number) => [number, number];
}

const fromZero = (least: number) => (most: number): [number, number] => [0, Math.max(most * 1.1, least)];

const CHARTS: Chart[] = [
  {
    title: "RTT",
    fields: [
      { field: "rtt_max_ms", label: "longest", color: "two", thin: true },
      { field: "rtt_min_ms", label: "shortest", color: "two", thin: true },
      { field: "rtt_ms", label: "mean", color: "one" },
    ],
    text: milliseconds,
    axis: (value) => `${value} ms`,
    range: fromZero(2),
  },
  {
    title: "Jitter",
    fields: [
      { field: "jitter_forward_ms", label: "to the site", color: "one" },
      { field: "jitter_backward_ms", label: "from the site", color: "two" },
    ],
    text: milliseconds,
    axis: (value) => `${value} ms`,
    range: fromZero(1),
  },
  {
    title: "Loss",
    fields: [
      { field: "loss_forward_pct", label: "to the site", color: "one" },
      { field: "loss_backward_pct", label: "from the site", color: "two" },
    ],
    text: percent,
    axis: (value) => `${value} %`,
    range: fromZero(1),
  },
  {
    title: "Traffic and capacity",
    fields: [
      { field: "sent_bps", label: "sent", color: "one" },
      { field: "received_bps", label: "received", color: "two" },
      { field: "capacity_bps", label: "capacity out", color: "three", dash: true },
      { field: "capacity_backward_bps", label: "capacity in", color: "three", thin: true },
    ],
    text: rate,
    axis: rate,
    range: fromZero(1e5),
  },
  {
    title: "MOS",
    fields: [{ field: "mos", label: "G.711 call", color: "one" }],
    text: mos,
    axis: (value) => value.toFixed(1),
    range: () => [1, 4.6],
  },
];

export class PathHistory {
  readonly element: HTMLElement;
  private readonly title = h("h2");
  private readonly state = badge({ mood: "wait", shape: "○", word: "" });
  private readonly facts = h("dl", { class: "facts" });
  private readonly charts = h("div", { class: "charts" });
  private readonly note = h("p", { class: "note" });
  private readonly buttons: HTMLButtonElement[];
  private plots: uPlot[] = [];
  private drawn = "";
  private wanted: string | null = null;
  private span = 3600;
  private asked = { what: "", at: 0 };
  private history: History | null = null;

  constructor(close: () => void) {
    this.buttons = SPANS.map(([label, span]) =>
      h("button", { type: "button", onclick: () => this.choose(span), "aria-pressed": String(span === this.span) }, label),
    );
    this.element = h(
      "section",
      { class: "card history", hidden: true, "aria-label": "History of a path" },
      h("header", {}, this.title, this.state, h("button", { type: "button", class: "quiet", "aria-label": "Close the history", onclick: close }, "✕")),
      this.facts,
      h("div", { class: "spans", role: "group", "aria-label": "Span" }, ...this.buttons),
      this.note,
      this.charts,
    );
    new ResizeObserver(() => this.fit()).observe(this.charts);
    look.onChange(() => this.draw(true));
  }

  /** Shows a path, or nothing; says whether it shows something. */
  show(id: string | null, path: Path | null): boolean {
    if (id !== this.wanted) {
      this.wanted = id;
      this.history = null;
      this.asked.at = 0;
      this.clear();
      if (id) void this.ask().catch(() => {});
    }
    this.element.hidden = id === null;
    if (path) this.describe(path);
    return id !== null;
  }

  /** With each poll; asks when a new record may be there. An error is the poll's. */
  async ask(): Promise<void> {
    const [site, tunnel] = (this.wanted ?? "").split("/");
    const what = `${this.wanted} ${this.span}`;
    if (!site || !tunnel || (this.asked.what === what && Date.now() - this.asked.at < EVERY_MS)) return;
    this.asked = { what, at: Date.now() };
    const until = Math.floor(Date.now() / 1000) + 1;
    const [local, remote] = tunnel.split("-");
    try {
      const history = await get<History>("/v1/history", { site, local, remote, since: until - this.span, until, points: 400 });
      if (what !== `${this.wanted} ${this.span}`) return;
      this.history = history;
      this.draw(false);
    } catch (error) {
      this.asked.at = 0;
      throw error;
    }
  }

  leave(): void {
    this.wanted = null;
    this.clear();
  }

  private choose(span: number): void {
    this.span = span;
    SPANS.forEach(([, other], at) => this.buttons[at]!.setAttribute("aria-pressed", String(other === span)));
    void this.ask().catch((error: unknown) => setText(this.note, String(error)));
  }

  private describe(path: Path): void {
    setText(this.title, `${path.site_name}: ${path.local_uplink} → ${path.remote_uplink}`);
    setBadge(this.state, { ...pathLook(path), word: `${pathLook(path).word} for ${duration(path.since_s)}` });
    const facts: [string, string][] = [
      ["RTT", milliseconds(path.rtt_ms)],
      ["Jitter", `${milliseconds(path.jitter_forward_ms)} / ${milliseconds(path.jitter_backward_ms)}`],
      ["Loss", `${percent(path.loss_forward_pct)} / ${percent(path.loss_backward_pct)}`],
      ["MOS", mos(path.mos)],
      ["Capacity", `${rate(path.capacity_bps)}${path.capacity_how ? ` (${path.capacity_how})` : ""}`],
      ["Left after", milliseconds(path.detection_ms)],
      ["MTU", `${path.mtu} B`],
      ["Tunnel", `${path.interface} to ${path.endpoint ?? "–"}`],
    ];
    if (this.facts.children.length !== facts.length) {
      this.facts.replaceChildren(...facts.map(([name]) => h("div", {}, h("dt", {}, name), h("dd"))));
    }
    facts.forEach(([, text], at) => setText(this.facts.children[at]!.children[1]!, text));
  }

  private clear(): void {
    for (const plot of this.plots) plot.destroy();
    this.plots = [];
    this.drawn = "";
    this.charts.replaceChildren();
    setText(this.note, "");
  }

  private draw(anew: boolean): void {
    const { history } = this;
    if (!history || this.wanted === null) return;
    const known = history.points.length;
    setText(this.note, known === 0 ? "Nothing is recorded of this span yet: records come every 10 s." : `${known} records, ${duration(history.step_s)} each`);
    const id = this.wanted;
    if (anew || this.drawn !== id) {
      this.clear();
      this.drawn = id;
      setText(this.note, `${known} records, ${duration(history.step_s)} each`);
      for (const chart of CHARTS) this.make(chart, history);
    } else {
      CHARTS.forEach((chart, at) => this.plots[at]!.setData(data(chart, history)));
    }
    // Of a gateway that is younger than the span, the plot begins with what there is.
    const first = history.points[0]?.time_unix_s ?? history.since_unix_s;
    const min = Math.max(history.since_unix_s, Math.min(first, history.until_unix_s - LEAST_S));
    for (const plot of this.plots) plot.setScale("x", { min, max: history.until_unix_s });
    CHARTS.forEach((chart, at) => this.describeChart(chart, at, history));
  }

  private make(chart: Chart, history: History): void {
    const figure = h("figure", { role: "img" }, h("figcaption", {}, h("strong", {}, chart.title), h("span")));
    this.charts.append(figure);
    const axis = { stroke: look.color("--muted"), grid: { stroke: look.color("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const options: uPlot.Options = {
      width: Math.max(200, this.charts.clientWidth),
      height: HEIGHT,
      padding: [8, 8, 0, 0],
      cursor: { sync: { key: "history" }, drag: { x: false, y: false }, points: { size: 5 } },
      legend: { live: true },
      scales: { x: { time: true }, y: { range: (_plot, _least, most) => chart.range(most ?? 0) } },
      axes: [
        { ...axis, size: 26, space: 64, values: (_plot, ticks) => ticks.map((tick) => clock(tick, history.until_unix_s - history.since_unix_s)) },
        { ...axis, size: 66, space: 26, values: (_plot, ticks) => ticks.map(chart.axis) },
      ],
      series: [
        { value: (_plot, at) => (at == null ? "–" : new Date(at * 1000).toLocaleString("en-GB")) , label: "at" },
        ...chart.fields.map(({ label, color, dash, thin }): uPlot.Series => ({
          label,
          stroke: look.color(`--plot-${color}`),
          width: thin ? 1 : 1.8,
          points: { show: history.points.length < 30, size: 4 },
          value: (_plot, value) => chart.text(value),
          ...(dash ? { dash: [6, 4] } : {}),
        })),
      ],
    };
    this.plots.push(new uPlot(options, data(chart, history), figure));
  }

  private describeChart(chart: Chart, at: number, history: History): void {
    const figure = this.charts.children[at]!;
    const texts = chart.fields.map(({ field, label }) => {
      const of = summary(columns(history, [field])[1]!);
      return of ? `${label} ${chart.text(of.last)} (${chart.text(of.least)} to ${chart.text(of.most)})` : null;
    });
    const text = texts.filter((text) => text !== null).join("; ") || "nothing known";
    figure.setAttribute("aria-label", `${chart.title}: ${text}`);
    figure.setAttribute("data-points", String(history.points.length));
    const main = summary(columns(history, [chart.fields.find(({ thin }) => !thin)!.field])[1]!);
    setText(figure.querySelector("figcaption span")!, main ? `now ${chart.text(main.last)}, ${chart.text(main.least)} to ${chart.text(main.most)}` : "");
  }

  private fit(): void {
    const width = this.charts.clientWidth;
    if (width > 0) for (const plot of this.plots) if (plot.width !== width) plot.setSize({ width, height: HEIGHT });
  }
}

function data(chart: Chart, history: History): uPlot.AlignedData {
  return columns(history, chart.fields.map(({ field }) => field)) as uPlot.AlignedData;
}

function clock(unix: number, span: number): string {
  const at = new Date(unix * 1000);
  if (span > 2 * 86_400) return at.toLocaleDateString("en-GB", { day: "2-digit", month: "short" });
  return at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(span <= 900 ? { second: "2-digit" } : {}) });
}


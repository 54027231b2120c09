// What an operator must see in one second: is something wrong, and where.
import type { Live } from "../api/live";
import type { EventView } from "../api/types";
import { count, duration, moment, plural, rate } from "../lib/format";
import { eventLook, healthLook, pathLook } from "../lib/state";
import { h, keyed, setBadge, setClass, setText } from "../ui/dom";
import { Topology } from "./topology";
import { address, type View } from "./view";

const LATEST = 9;

interface Tile {
  label: string;
  value: string;
  detail: string;
  mood: string;
  to: string;
}

export function overview(): View {
  const topology = new Topology();
  const word = h("strong");
  const shape = h("span", { class: "shape", "aria-hidden": "true" });
  const since = h("span", { class: "since" });
  const problems = h("ul", { class: "problems" });
  const banner = h("section", { class: "banner", "aria-label": "Health" }, h("div", { class: "banner-head" }, shape, word, since), problems);
  const tiles = h("div", { class: "tiles" });
  const classes = h("div", { class: "bars" });
  const events = h("ol", { class: "latest" });
  const legend = h("p", { class: "legend", "aria-hidden": "true" });
  for (const [mood, text] of [["good", "● up"], ["warn", "▲ degraded"], ["bad", "✕ down"], ["wait", "◐ coming"]] as const) {
    legend.append(h("span", { class: mood }, text));
  }
  legend.append(h("span", {}, "thickness: traffic"));

  const element = h(
    "div",
    { class: "overview" },
    banner,
    tiles,
    h("section", { class: "card mesh" }, h("header", {}, h("h2", {}, "Mesh"), legend), topology.element),
    h("section", { class: "card" }, h("h2", {}, "Traffic by class"), classes),
    h(
      "section",
      { class: "card" },
      h("header", {}, h("h2", {}, "Latest events"), h("a", { href: address("events") }, "All events")),
      events,
    ),
  );

  return {
    title: "Overview",
    element,
    topics: ["sites", "paths", "policies", "events"],
    update(live) {
      const { status } = live;
      if (!status) return;
      const look = healthLook(status.health);
      setClass(banner, `banner ${look.mood}`);
      setText(shape, look.shape);
      setText(word, look.word);
      setText(since, `${status.site_name} · up for ${duration(status.uptime_s)} · ${status.daemon_version}`);
      keyed(problems, status.problems, (text) => text, (text) => h("li", {}, text), () => {});
      keyed(
        tiles,
        summary(live),
        (tile) => tile.label,
        () => h("a", {}, h("span", { class: "label" }), h("span", { class: "value" }), h("span", { class: "detail" })),
        (element, tile) => {
          setClass(element, `tile ${tile.mood}`);
          element.setAttribute("href", tile.to);
          [tile.label, tile.value, tile.detail].forEach((text, at) => setText(element.children[at]!, text));
        },
      );
      topology.draw(live);
      drawClasses(classes, live);
      drawEvents(events, live.events.slice(-LATEST).reverse());
    },
  };
}

function summary(live: Live): Tile[] {
  const { paths, sites, rates } = live;
  const up = paths.filter((path) => path.state === "up");
  const lost = paths.filter((path) => path.state === "down" || path.state === "recovering").length;
  const degraded = up.filter((path) => path.degraded).length;
  const active = sites.filter((site) => site.state === "active").length;
  const cut = sites.filter((site) => site.state !== "active" || (site.paths > 0 && site.paths_up === 0)).length;
  const sum = (way: string) => paths.reduce((all, path) => all + (rates.of(`${path.site}/${path.tunnel.local}-${path.tunnel.remote} ${way}`) ?? 0), 0);
  const worst = up.reduce((most, path) => Math.max(most, path.loss_forward_pct ?? 0, path.loss_backward_pct ?? 0), 0);
  const slowest = up.reduce((most, path) => Math.max(most, path.rtt_ms ?? 0), 0);
  return [
    {
      label: "Sites",
      value: `${active}/${sites.length}`,
      detail: cut > 0 ? `${cut} unreachable` : "all reachable",
      mood: cut > 0 ? "bad" : "good",
      to: address("paths"),
    },
    {
      label: "Paths up",
      value: `${up.length}/${paths.length}`,
      detail: lost > 0 ? `${lost} down` : degraded > 0 ? `${degraded} degraded` : "none down",
      mood: lost > 0 ? "bad" : degraded > 0 ? "warn" : "good",
      to: address("paths"),
    },
    { label: "Sent", value: rate(sum("out")), detail: "into the tunnels", mood: "", to: address("flows") },
    { label: "Received", value: rate(sum("in")), detail: "out of the tunnels", mood: "", to: address("flows") },
    {
      label: "Worst loss",
      value: up.length === 0 ? "–" : `${worst.toFixed(worst < 10 ? 1 : 0)} %`,
      detail: "of paths that are up",
      mood: worst >= 5 ? "bad" : worst >= 1 ? "warn" : "good",
      to: address("paths"),
    },
    {
      label: "Longest RTT",
      value: up.length === 0 ? "–" : `${slowest.toFixed(slowest < 10 ? 1 : 0)} ms`,
      detail: "of paths that are up",
      mood: "",
      to: address("paths"),
    },
  ];
}

function drawClasses(parent: HTMLElement, live: Live): void {
  const seen = new Map<string, { name: string; bps: number; packets: number }>();
  for (const policy of live.policies) {
    const name = policy.class ?? policy.name;
    if (!seen.has(name)) seen.set(name, { name, bps: live.rates.of(`class ${name}`) ?? 0, packets: policy.packets ?? 0 });
  }
  const all = [...seen.values()];
  const most = Math.max(1, ...all.map((entry) => entry.bps));
  keyed(
    parent,
    all,
    (entry) => entry.name,
    () => h("a", { class: "bar" }, h("span", { class: "name" }), h("span", { class: "value" }), h("span", { class: "track", "aria-hidden": "true" }, h("i"))),
    (element, entry) => {
      element.setAttribute("href", address("flows", { class: entry.name }));
      setText(element.children[0]!, entry.name);
      setText(element.children[1]!, rate(entry.bps));
      element.title = `${plural(entry.packets, "packet")} since the data path was set up`;
      (element.children[2]!.firstElementChild as HTMLElement).style.width = `${(entry.bps / most) * 100}%`;
    },
  );
}

export function drawEvents(parent: HTMLElement, events: readonly EventView[]): void {
  keyed(
    parent,
    events,
    (event) => String(event.id),
    () => h("li", {}, h("time"), h("span"), h("span", { class: "text" })),
    (element, event) => {
      const at = event.time_unix_ns / 1e6;
      const time = element.children[0] as HTMLTimeElement;
      setText(time, moment(at));
      time.dateTime = new Date(at).toISOString();
      setBadge(element.children[1] as HTMLElement, { ...eventLook(event), word: event.kind });
      setText(element.children[2]!, event.message);
    },
  );
}

/** One sentence of how the mesh does, for those who listen to it. */
export function spoken(live: Live): string {
  if (!live.status) return "";
  const bad = live.paths.filter((path) => pathLook(path).mood === "bad");
  const names = bad.slice(0, 4).map((path) => `${path.site_name} by ${path.local_uplink} to ${path.remote_uplink}`);
  const more = bad.length > names.length ? ` and ${count(bad.length - names.length)} more` : "";
  const down = bad.length > 0 ? ` ${plural(bad.length, "path")} down: ${names.join(", ")}${more}.` : "";
  return `${healthLook(live.status.health).word}.${down}`;
}


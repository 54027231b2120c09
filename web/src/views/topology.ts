// The mesh as seen from this site: its uplinks on the left, the other sites on the right, a line for each path.
import { scaleSqrt } from "d3-scale";
import { type EnterElement, type Selection, select } from "d3-selection";
import { linkHorizontal } from "d3-shape";

import type { Live } from "../api/live";
import type { Path, Site } from "../api/types";
import { duration, milliseconds, percent, rate } from "../lib/format";
import { layout, type Layout, type Line, type SiteBox, type UplinkBox } from "../lib/layout";
import { pathId, pathLook, severity, siteLook } from "../lib/state";
import { h } from "../ui/dom";
import { address } from "./view";

/** More sites than this are folded, those that need attention first. */
const UNFOLDED = 16;
/** More lines than this are no stops of the Tab key: the list of paths has them all. */
const TAB_STOPS = 48;

const thickness = scaleSqrt<number>().domain([0, 1e5, 1e9]).range([1.6, 2.2, 14]).clamp(true);

/** Traffic in both directions, bit/s. */
export function traffic(live: Live, path: Path): number {
  const id = pathId(path);
  return (live.rates.of(`${id} out`) ?? 0) + (live.rates.of(`${id} in`) ?? 0);
}

function describe(live: Live, path: Path): string {
  const id = pathId(path);
  return [
    `${path.site_name}: ${path.local_uplink} → ${path.remote_uplink}, ${pathLook(path).word} for ${duration(path.since_s)}`,
    `RTT ${milliseconds(path.rtt_ms)}, loss ${percent(path.loss_forward_pct)} / ${percent(path.loss_backward_pct)}`,
    `traffic ${rate(live.rates.of(`${id} out`))} out, ${rate(live.rates.of(`${id} in`))} in`,
  ].join("\n");
}

/** The parts of a box that is new in the picture. */
function emptyBoxes<D>(enter: Selection<EnterElement, D, SVGGElement, unknown>): Selection<SVGAElement, D, SVGGElement, unknown> {
  const link = enter.append<SVGAElement>("a");
  link.append("rect").attr("rx", 8);
  for (const name of ["shape", "name", "detail"]) link.append("text").attr("class", name);
  link.append("title");
  return link;
}

export class Topology {
  readonly element: HTMLElement;
  private readonly svg = select(document.createElementNS("http://www.w3.org/2000/svg", "svg"));
  private readonly fold = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => this.toggle() });
  private unfolded = false;
  private live: Live | null = null;
  private width = 0;

  constructor() {
    this.svg.attr("class", "topology").attr("role", "group").attr("aria-label", "The mesh: uplinks, sites and paths");
    for (const layer of ["lines", "labels", "nodes"]) this.svg.append("g").attr("class", layer);
    this.element = h("div", { class: "topology-box" }, this.svg.node()! as unknown as HTMLElement, this.fold);
    new ResizeObserver(() => {
      const width = this.element.clientWidth;
      if (width !== this.width) {
        this.width = width;
        if (this.live) this.draw(this.live);
      }
    }).observe(this.element);
  }

  draw(live: Live): void {
    this.live = live;
    if (!live.status || this.width === 0) return;
    const sites = this.shown(live);
    const names = new Set(sites.map((site) => site.id));
    const picture = layout(this.width, live.status.uplinks, sites, live.paths.filter((path) => names.has(path.site)));
    this.svg.attr("viewBox", `0 0 ${picture.width} ${picture.height}`).attr("height", picture.height);
    this.drawLines(live, picture);
    this.drawUplinks(live, picture.uplinks);
    this.drawSites(live, picture);
  }

  private toggle(): void {
    this.unfolded = !this.unfolded;
    if (this.live) this.draw(this.live);
  }

  /** By name; in a large mesh those that need attention first, and the others folded. */
  private shown(live: Live): Site[] {
    const paths = new Map<string, Path[]>();
    for (const path of live.paths) paths.set(path.site, [...(paths.get(path.site) ?? []), path]);
    const rank = (site: Site) => severity(siteLook(site, paths.get(site.id) ?? []).mood);
    const sites = [...live.sites].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    const large = sites.length > UNFOLDED;
    this.fold.hidden = !large;
    if (!large) return sites;
    const ranks = new Map(sites.map((site) => [site.id, rank(site)]));
    sites.sort((a, b) => ranks.get(a.id)! - ranks.get(b.id)!);
    if (this.unfolded) {
      this.fold.textContent = "Show only the first sites";
      return sites;
    }
    const hidden = sites.slice(UNFOLDED);
    const well = hidden.filter((site) => ranks.get(site.id) === severity("good")).length;
    const state = well === hidden.length ? "all of them well" : `${hidden.length - well} of them need attention`;
    this.fold.textContent = `Show ${hidden.length} more sites (${state})`;
    return sites.slice(0, UNFOLDED);
  }

  private drawLines(live: Live, picture: Layout): void {
    const curve = linkHorizontal<Line, [number, number]>();
    // What is broken is drawn last, and so lies on top.
    const lines = [...picture.lines].sort((a, b) => severity(pathLook(b.path).mood) - severity(pathLook(a.path).mood));
    const stops = lines.length <= TAB_STOPS;
    const groups = this.svg
      .select<SVGGElement>("g.lines")
      .selectAll<SVGAElement, Line>("a")
      .data(lines, (line) => pathId(line.path))
      .join((enter) => {
        const link = enter.append("a");
        link.append("path").attr("class", "hit");
        link.append("path").attr("class", "line");
        link.append("title");
        return link;
      })
      .order();
    groups.each(function (line) {
      const link = select(this);
      const text = describe(live, line.path);
      const look = pathLook(line.path);
      link.attr("href", address("paths", { path: pathId(line.path) }));
      link.attr("class", look.mood).attr("tabindex", stops ? null : "-1").attr("aria-label", text);
      link.attr("data-path", `${line.path.site_name}/${line.path.local_uplink}/${line.path.remote_uplink}`);
      link.attr("data-state", line.path.state);
      const course = curve(line);
      link.select("path.hit").attr("d", course);
      link.select("path.line").attr("d", course).attr("stroke-width", thickness(traffic(live, line.path)).toFixed(1));
      link.select("title").text(text);
    });
    this.drawLabels(picture.labelled ? lines : []);
  }

  private drawLabels(lines: Line[]): void {
    // Lines that meet at an uplink have their labels in the order in which they come in: the first above, others below.
    const places = new Map<string, number>();
    const met = new Map<string, number>();
    for (const line of [...lines].sort((a, b) => a.source[1] - b.source[1])) {
      const rank = met.get(String(line.target)) ?? 0;
      met.set(String(line.target), rank + 1);
      places.set(pathId(line.path), rank === 0 ? -5 : 13 * rank);
    }
    this.svg
      .select<SVGGElement>("g.labels")
      .selectAll<SVGTextElement, Line>("text")
      .data(lines, (line) => pathId(line.path))
      .join("text")
      .attr("class", (line) => pathLook(line.path).mood)
      .attr("x", (line) => line.target[0] - 12)
      .attr("text-anchor", "end")
      .attr("y", (line) => line.target[1] + places.get(pathId(line.path))!)
      .text((line) => (line.path.state === "up" ? milliseconds(line.path.rtt_ms) : `${pathLook(line.path).shape} ${line.path.state}`));
  }

  private drawUplinks(live: Live, boxes: UplinkBox[]): void {
    const groups = this.svg
      .select<SVGGElement>("g.nodes")
      .selectAll<SVGAElement, UplinkBox>("a.uplink")
      .data(boxes, (box) => box.uplink.name)
      .join(emptyBoxes);
    groups.each(function ({ uplink, x, y, width, height }) {
      const paths = live.paths.filter((path) => path.tunnel.local === uplink.index);
      const up = paths.filter((path) => path.state === "up").length;
      const dead = !uplink.usable || (paths.length > 0 && up === 0);
      const mood = dead ? "bad" : up < paths.length ? "warn" : "good";
      const moved = paths.reduce((sum, path) => sum + traffic(live, path), 0);
      const state = uplink.usable ? `${up} of ${paths.length} paths up` : `down: ${uplink.reason ?? "not usable"}`;
      const link = select(this).attr("class", `uplink ${mood}`).attr("href", address("paths", { uplink: uplink.name }));
      link.attr("aria-label", `Uplink ${uplink.name} (${uplink.interface}): ${state}, ${rate(moved)}`);
      link.select("rect").attr("x", x).attr("y", y).attr("width", width).attr("height", height);
      link.select(".shape").attr("x", x + 12).attr("y", y + 22).text(dead ? "✕" : mood === "warn" ? "▲" : "●");
      link.select(".name").attr("x", x + 28).attr("y", y + 22).text(uplink.name);
      link.select(".detail").attr("x", x + 12).attr("y", y + 41).text(dead ? `${up}/${paths.length} up` : rate(moved));
      link.select("title").text(`${uplink.name} (${uplink.interface}, ${uplink.addresses.join(", ")}): ${state}`);
    });
  }

  private drawSites(live: Live, picture: Layout): void {
    const groups = this.svg
      .select<SVGGElement>("g.nodes")
      .selectAll<SVGAElement, SiteBox>("a.site")
      .data(picture.sites, (box) => box.site.id)
      .join(emptyBoxes);
    groups.each(function (box) {
      const { site, x, y, width, height } = box;
      const paths = live.paths.filter((path) => path.site === site.id);
      const look = siteLook(site, paths);
      const up = paths.filter((path) => path.state === "up").length;
      const link = select(this).attr("class", `site ${look.mood}`).attr("href", address("paths", { site: site.name }));
      const text = `Site ${site.name}: ${look.word}, ${up} of ${paths.length} paths up, ${site.prefixes.join(", ")}`;
      link.attr("aria-label", text).attr("data-site", site.name);
      link.select("rect").attr("x", x).attr("y", y).attr("width", width).attr("height", height);
      link.select(".shape").attr("x", x + 14).attr("y", y + 20).text(look.shape);
      link.select(".name").attr("x", x + 32).attr("y", y + 20).text(shortened(site.name, width - 84));
      link.select(".detail").attr("x", x + width - 10).attr("y", y + 20).attr("text-anchor", "end").text(`${up}/${paths.length}`);
      link.select("title").text(text);
      const ports = link.selectAll<SVGGElement, (typeof box.ports)[number]>("g.port").data(box.ports, (port) => port.index);
      const groups = ports.join((enter) => {
        const port = enter.append("g").attr("class", "port");
        port.append("circle");
        port.append("text");
        return port;
      });
      groups.select("circle").attr("cx", x).attr("cy", (port) => port.y).attr("r", picture.compact ? 2 : 4);
      groups
        .select("text")
        .attr("x", x + 14)
        .attr("y", (port) => port.y + 4)
        .text((port) => (picture.compact ? "" : shortened(port.name, width - 20)));
    });
  }
}

/** At about 8 px a character. */
function shortened(name: string, room: number): string {
  const most = Math.max(4, Math.floor(room / 8));
  return name.length <= most ? name : `${name.slice(0, most - 1)}…`;
}

// Classes, and the flows in the kernel's table with the paths that they stick to.
import { get } from "../api/client";
import type { Live } from "../api/live";
import type { Flow, Listing } from "../api/types";
import { bytes, count, duration, endpoint, plural, rate } from "../lib/format";
import { h, keyed, setClass, setText } from "../ui/dom";
import { VirtualTable } from "../ui/table";
import { address, type View } from "./view";

const LIMITS = [100, 1000, 10_000];

export function flowKey(flow: Flow): string {
  return `${flow.protocol} ${flow.source} ${flow.source_port} ${flow.destination} ${flow.destination_port}`;
}

export function flows(live: Live): View {
  const table = new VirtualTable<Flow>({
    label: "Flows",
    empty: "No flow fits. Flows appear here as soon as a host behind this gateway talks to another site.",
    key: flowKey,
    sort: { id: "bytes", down: true },
    columns: [
      { id: "source", label: "Source", track: "minmax(9em, 1.6fr)", text: (flow) => endpoint(flow.source, flow.source_port) },
      { id: "destination", label: "Destination", track: "minmax(9em, 1.6fr)", text: (flow) => endpoint(flow.destination, flow.destination_port) },
      { id: "protocol", label: "Proto", track: "4.2em", from: 560, text: (flow) => flow.protocol },
      { id: "class", label: "Class", track: "minmax(5.5em, 0.9fr)", from: 480, text: (flow) => flow.class },
      { id: "site", label: "Site", track: "minmax(4em, 0.7fr)", from: 820, text: (flow) => flow.path.site_name },
      { id: "path", label: "Path", track: "minmax(8em, 1.2fr)", from: 380, text: (flow) => flow.path.uplinks + (flow.second ? ` + ${flow.second.uplinks}` : "") },
      { id: "packets", label: "Packets", track: "5.5em", from: 940, text: (flow) => count(flow.packets), order: (flow) => flow.packets, numeric: true },
      { id: "bytes", label: "Bytes", track: "5.5em", from: 640, text: (flow) => bytes(flow.bytes), order: (flow) => flow.bytes, numeric: true },
      { id: "age", label: "Age", track: "6em", from: 1040, text: (flow) => duration(flow.age_s), order: (flow) => flow.age_s, numeric: true },
      { id: "idle", label: "Idle", track: "5.5em", from: 740, text: (flow) => duration(flow.idle_s), order: (flow) => flow.idle_s, numeric: true },
      { id: "moves", label: "Moves", track: "4.4em", from: 1000, text: (flow) => String(flow.moves), order: (flow) => flow.moves, numeric: true },
    ],
  });
  const classes = h("div", { class: "tiles classes" });
  const filter = h("input", { type: "search", placeholder: "address, port, site or path", "aria-label": "Filter flows", oninput: () => show() });
  const limit = h("select", { "aria-label": "Flows asked for", onchange: () => live.now() }, ...LIMITS.map((limit) => h("option", { value: limit, selected: limit === 1000 }, `up to ${count(limit)}`)));
  const counted = h("span", { class: "counted", "aria-live": "polite" });
  let items: Flow[] = [];
  let truncated = false;
  let parameters = new URLSearchParams();

  function show(): void {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (flow: Flow) => {
      const text = `${endpoint(flow.source, flow.source_port)} ${endpoint(flow.destination, flow.destination_port)} ${flow.protocol} ${flow.class} ${flow.path.site_name} ${flow.path.uplinks}`;
      const low = text.toLowerCase();
      return words.every((word) => low.includes(word));
    };
    const shown = words.length > 0 ? items.filter(fits) : items;
    table.set(shown);
    const all = `${count(items.length)}${truncated ? " and more" : ""}`;
    setText(counted, shown.length === items.length ? all : `${count(shown.length)} of ${all}`);
  }

  const element = h(
    "div",
    { class: "stack" },
    h("section", { class: "card" }, h("h2", {}, "Classes"), classes),
    h("section", { class: "card grow" }, h("header", {}, h("h2", {}, "Flows"), filter, limit, counted), table.element),
  );
  return {
    title: "Flows",
    element,
    topics: ["policies"],
    async ask() {
      const query = { limit: Number(limit.value), class: parameters.get("class") ?? undefined, site: parameters.get("site") ?? undefined };
      ({ items, truncated } = await get<Listing<Flow>>("/v1/flows", query));
    },
    update(live, now) {
      const changed = now.get("class") !== parameters.get("class");
      parameters = now;
      if (changed) live.now();
      drawClasses(classes, live, now.get("class"), items);
      show();
    },
  };
}

function drawClasses(parent: HTMLElement, live: Live, chosen: string | null, flows: readonly Flow[]): void {
  const numbers = new Map<string, number>();
  for (const flow of flows) numbers.set(flow.class, (numbers.get(flow.class) ?? 0) + 1);
  const seen = new Map<string, { name: string; preference: string; packets: number | null }>();
  for (const policy of live.policies) {
    const name = policy.class ?? policy.name;
    if (!seen.has(name)) seen.set(name, { name, preference: `${policy.preference}, ${policy.mode}`, packets: policy.packets });
  }
  keyed(
    parent,
    [...seen.values()],
    (entry) => entry.name,
    () => h("a", {}, h("span", { class: "label" }), h("span", { class: "value" }), h("span", { class: "detail" })),
    (element, entry) => {
      const mine = entry.name === chosen;
      setClass(element, `tile ${mine ? "chosen" : ""}`);
      element.setAttribute("href", mine ? address("flows") : address("flows", { class: entry.name }));
      element.setAttribute("aria-current", String(mine));
      setText(element.children[0]!, entry.name);
      setText(element.children[1]!, rate(live.rates.of(`class ${entry.name}`)));
      setText(element.children[2]!, `${entry.preference} · ${plural(numbers.get(entry.name) ?? 0, "flow")} listed`);
    },
  );
}

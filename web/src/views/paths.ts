// All paths, and the history of the one that is chosen.
import type { Live } from "../api/live";
import type { Path } from "../api/types";
import { duration, milliseconds, mos, percent, rate, score } from "../lib/format";
import { pathId, pathLook, severity } from "../lib/state";
import { h, setText } from "../ui/dom";
import { VirtualTable } from "../ui/table";
import { PathHistory } from "./history";
import { address, type View } from "./view";

export function paths(live: Live): View {
  const rates = live.rates;
  const table = new VirtualTable<Path>({
    label: "Paths",
    empty: "No path fits.",
    key: pathId,
    rowClass: (path) => pathLook(path).mood,
    open: (path) => go({ path: pathId(path) }),
    sort: { id: "state", down: false },
    columns: [
      {
        id: "state",
        label: "State",
        track: "minmax(6.4em, 0.8fr)",
        text: (path) => `${pathLook(path).shape} ${pathLook(path).word}`,
        className: (path) => `state ${pathLook(path).mood}`,
        order: (path) => `${severity(pathLook(path).mood)} ${path.site_name} ${pathId(path)}`,
      },
      { id: "site", label: "Site", track: "minmax(3em, 1fr)", text: (path) => path.site_name },
      { id: "uplinks", label: "Uplinks", track: "minmax(5.5em, 1.3fr)", text: (path) => `${path.local_uplink} → ${path.remote_uplink}` },
      { id: "for", label: "For", track: "6.5em", from: 1200, text: (path) => duration(path.since_s), order: (path) => path.since_s, numeric: true },
      { id: "score", label: "Score", track: "4.2em", from: 815, text: (path) => score(path.score), order: (path) => path.score, numeric: true },
      { id: "rtt", label: "RTT", track: "4.9em", text: (path) => milliseconds(path.rtt_ms), order: (path) => path.rtt_ms, numeric: true },
      { id: "jitter", label: "Jitter", track: "5.5em", from: 1020, text: (path) => milliseconds(worst(path.jitter_forward_ms, path.jitter_backward_ms)), order: (path) => worst(path.jitter_forward_ms, path.jitter_backward_ms), numeric: true },
      { id: "loss", label: "Loss", track: "4.8em", from: 480, text: (path) => percent(worst(path.loss_forward_pct, path.loss_backward_pct)), order: (path) => worst(path.loss_forward_pct, path.loss_backward_pct), numeric: true },
      { id: "mos", label: "MOS", track: "4em", from: 1090, text: (path) => mos(path.mos), order: (path) => path.mos, numeric: true },
      { id: "capacity", label: "Capacity", track: "7em", from: 930, text: (path) => rate(path.capacity_bps), order: (path) => path.capacity_bps, numeric: true },
      { id: "out", label: "Sent", track: "7em", from: 625, text: (path) => rate(rates.of(`${pathId(path)} out`)), order: (path) => rates.of(`${pathId(path)} out`), numeric: true },
      { id: "in", label: "Received", track: "7em", from: 740, text: (path) => rate(rates.of(`${pathId(path)} in`)), order: (path) => rates.of(`${pathId(path)} in`), numeric: true },
    ],
  });
  const filter = h("input", { type: "search", placeholder: "site, uplink or state", "aria-label": "Filter paths", oninput: () => go({ filter: filter.value }) });
  const clear = h("a", { class: "chip", hidden: true });
  const counted = h("span", { class: "counted", "aria-live": "polite" });
  const history = new PathHistory(() => go({}, ["path"]));
  let parameters = new URLSearchParams();

  function go(change: Record<string, string>, drop: string[] = []): void {
    const next = new URLSearchParams(parameters);
    for (const [key, value] of Object.entries(change)) value ? next.set(key, value) : next.delete(key);
    for (const key of drop) next.delete(key);
    window.location.replace(address("paths", Object.fromEntries(next)));
  }

  const element = h(
    "div",
    { class: "split" },
    h("section", { class: "card" }, h("header", {}, h("h2", {}, "Paths"), clear, filter, counted), table.element),
    history.element,
  );
  return {
    title: "Paths",
    element,
    topics: ["paths"],
    ask: () => history.ask(),
    update(live, now) {
      parameters = now;
      const site = now.get("site");
      const uplink = now.get("uplink");
      const words = (now.get("filter") ?? "").toLowerCase().split(/\s+/).filter(Boolean);
      if (document.activeElement !== filter) filter.value = now.get("filter") ?? "";
      clear.hidden = !site && !uplink;
      clear.href = address("paths");
      setText(clear, site ? `site ${site} ✕` : `uplink ${uplink} ✕`);
      clear.setAttribute("aria-label", "Show the paths of all sites and uplinks");
      const fits = (path: Path) => {
        if (site && path.site_name !== site) return false;
        if (uplink && path.local_uplink !== uplink) return false;
        const text = `${path.site_name} ${path.local_uplink} ${path.remote_uplink} ${pathLook(path).word}`.toLowerCase();
        return words.every((word) => text.includes(word));
      };
      const shown = live.paths.filter(fits);
      table.set(shown);
      setText(counted, shown.length === live.paths.length ? `${shown.length}` : `${shown.length} of ${live.paths.length}`);
      const wanted = now.get("path");
      const chosen = live.paths.find((path) => pathId(path) === wanted);
      table.select(wanted);
      element.classList.toggle("open", history.show(wanted, chosen ?? null));
    },
    leave: () => history.leave(),
  };
}

function worst(a: number | null, b: number | null): number | null {
  return a === null ? b : b === null ? a : Math.max(a, b);
}

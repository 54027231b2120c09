// What happened, the latest first.
import type { EventView } from "../api/types";
import { moment } from "../lib/format";
import { eventLook } from "../lib/state";
import { h, setText } from "../ui/dom";
import { drawEvents } from "./overview";
import type { View } from "./view";

/** Events that have elements at a time. */
const SHOWN = 200;

export function events(): View {
  const list = h("ol", { class: "latest long" });
  const kinds = h("select", { "aria-label": "Kind of events", onchange: () => show() }, h("option", { value: "" }, "all kinds"));
  const filter = h("input", { type: "search", placeholder: "words in it", "aria-label": "Filter events", oninput: () => show() });
  const trouble = h("input", { type: "checkbox", id: "trouble", onchange: () => show() });
  const counted = h("span", { class: "counted", "aria-live": "polite" });
  const more = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => ((most += SHOWN), show()) }, "Show older ones");
  let all: readonly EventView[] = [];
  let most = SHOWN;

  function show(): void {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (event: EventView) => {
      if (kinds.value && event.kind !== kinds.value) return false;
      if (trouble.checked && !["bad", "warn"].includes(eventLook(event).mood)) return false;
      const text = `${event.kind} ${event.message} ${event.class ?? ""}`.toLowerCase();
      return words.every((word) => text.includes(word));
    };
    const fitting = all.filter(fits);
    drawEvents(list, fitting.slice(-most).reverse());
    more.hidden = fitting.length <= most;
    const since = all[0] ? `, since ${moment(all[0].time_unix_ns / 1e6)}` : "";
    setText(counted, `${fitting.length} of ${all.length}${since}`);
  }

  function offerKinds(): void {
    const known = new Set(Array.from(kinds.options, (option) => option.value));
    for (const kind of [...new Set(all.map((event) => event.kind))].sort()) {
      if (!known.has(kind)) kinds.append(h("option", { value: kind }, kind));
    }
  }

  const element = h(
    "section",
    { class: "card" },
    h("header", {}, h("h2", {}, "Events"), kinds, filter, h("label", { class: "check" }, trouble, "trouble only"), counted),
    list,
    more,
  );
  return {
    title: "Events",
    element,
    topics: ["events"],
    update(live) {
      if (all === live.events) return;
      all = live.events;
      offerKinds();
      show();
    },
  };
}

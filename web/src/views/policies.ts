// The policies in their order, and the form that changes them.
import type { Live } from "../api/live";
import type { PolicyView } from "../api/types";
import { bytes, rate } from "../lib/format";
import { matchText, slaText } from "../lib/policy";
import { h, keyed, setText } from "../ui/dom";
import { Editor } from "./editor";
import { address, type View } from "./view";

export function policies(live: Live): View {
  const list = h("ol", { class: "policies" });
  const close = () => window.location.replace(address("policies"));
  const editor = new Editor(live, close);
  const add = h("a", { class: "button primary", href: address("policies", { edit: "" }) }, "New policy");
  const element = h(
    "div",
    { class: "split" },
    h("section", { class: "card" }, h("header", {}, h("h2", {}, "Policies"), h("span", { class: "counted" }, "in the order in which they apply"), add), list),
    editor.element,
  );
  let shown: string | null = null;

  return {
    title: "Policies",
    element,
    topics: ["policies"],
    update(live, parameters) {
      keyed(list, live.policies, (policy) => policy.name, make, (element, policy) => fill(element, policy, live));
      const wanted = parameters.get("edit");
      const known = live.policies.find((policy) => policy.name === wanted) ?? null;
      if (wanted === null) {
        if (shown !== null) editor.hide();
        shown = null;
      } else if (shown !== wanted && (wanted === "" || known)) {
        shown = wanted;
        editor.open(known);
      }
      element.classList.toggle("open", wanted !== null);
      for (const item of Array.from(list.children)) item.firstElementChild!.setAttribute("aria-current", String((item as HTMLElement).dataset["key"] === wanted));
      editor.refresh();
    },
    leave() {
      shown = null;
      editor.hide();
    },
  };
}

function make(): HTMLElement {
  const names = ["prio", "name", "source", "matches", "choice", "sla", "rate"];
  return h("li", {}, h("a", { class: "policy" }, ...names.map((name) => h("span", { class: name }))));
}

function fill(element: HTMLElement, policy: PolicyView, live: Live): void {
  const link = element.firstElementChild as HTMLAnchorElement;
  link.setAttribute("href", address("policies", { edit: policy.name }));
  const name = policy.class ?? policy.name;
  const texts = [
    String(policy.priority),
    policy.name,
    policy.source,
    matchText(policy),
    `class ${name} · ${policy.preference}, ${policy.mode}, ${policy.sticky}`,
    slaText(policy.sla) === "–" ? "no SLA" : slaText(policy.sla),
    `${rate(live.rates.of(`class ${name}`))} · ${bytes(policy.bytes)}`,
  ];
  texts.forEach((text, at) => setText(link.children[at]!, text));
}

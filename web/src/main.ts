// The shell: header, navigation, the view that the address names, and whether what is shown is of now.
import "uplot/dist/uPlot.min.css";
import "./style/base.css";
import "./style/shell.css";
import "./style/parts.css";
import "./style/topology.css";
import "./style/views.css";

import { Live } from "./api/live";
import { duration, moment } from "./lib/format";
import { healthLook } from "./lib/state";
import { Login } from "./login";
import { h, setBadge, setClass, setText } from "./ui/dom";
import { look } from "./ui/theme";
import { events } from "./views/events";
import { flows } from "./views/flows";
import { overview, spoken } from "./views/overview";
import { paths } from "./views/paths";
import { policies } from "./views/policies";
import type { View } from "./views/view";

/** Answers may be as old as this and count as of now, ms. */
const FRESH_MS = 5000;

const live = new Live(() => draw());
const login = new Login(live);
const VIEWS: Record<string, () => View> = {
  overview,
  paths: () => paths(live),
  flows: () => flows(live),
  events,
  policies: () => policies(live),
};
const ICONS: Record<string, string> = { overview: "◉", paths: "⇄", flows: "≋", events: "☰", policies: "⚑" };

const site = h("span", { class: "site-name" });
const health = h("span", { class: "badge wait" });
const theme = h("button", { type: "button", class: "quiet theme", onclick: () => (look.next(), showTheme()) });
const links = new Map(
  Object.keys(VIEWS).map((name) => [
    name,
    h("a", { href: `#/${name}` }, h("span", { class: "icon", "aria-hidden": "true" }, ICONS[name]!), h("span", {}, name[0]!.toUpperCase() + name.slice(1))),
  ]),
);
const stale = h("p", { class: "stale", role: "alert", hidden: true });
const spokenState = h("p", { class: "hidden", role: "status", "aria-live": "polite" });
const main = h("main", { id: "main", tabindex: -1 });

document.getElementById("app")!.append(
  h("a", { class: "skip", href: "#main", onclick: (event: Event) => (event.preventDefault(), main.focus()) }, "Skip to the content"),
  h("header", { class: "top" }, h("a", { class: "brand", href: "#/overview" }, h("b", {}, "sdwan"), site), health, h("span", { class: "spring" }), login.element, theme),
  h("nav", { "aria-label": "Views" }, ...links.values()),
  stale,
  spokenState,
  login.form,
  main,
);

let view: View | null = null;
let name = "";

function showTheme(): void {
  const texts = { system: "◐", light: "☀", dark: "☾" };
  setText(theme, texts[look.choice]);
  theme.setAttribute("aria-label", `Colours: ${look.choice}. Change`);
  theme.title = `Colours: ${look.choice}`;
}

/** The view and its parameters; a code to log in with is taken, and leaves the address and the history at once. */
function route(): { name: string; parameters: URLSearchParams } {
  const [path, query] = window.location.hash.replace(/^#\/?/, "").split("?");
  const [first = "", code] = (path ?? "").split("/");
  if (first === "login" && code) {
    history.replaceState(null, "", "#/overview");
    void login.login(code);
    return { name: "overview", parameters: new URLSearchParams() };
  }
  return { name: first in VIEWS ? first : "overview", parameters: new URLSearchParams(query ?? "") };
}

function navigate(): void {
  const next = route();
  if (next.name !== name || !view) {
    view?.leave?.();
    name = next.name;
    view = VIEWS[name]!();
    main.replaceChildren(view.element);
    for (const [other, link] of links) link.setAttribute("aria-current", other === name ? "page" : "false");
    window.scrollTo(0, 0);
    live.want(view.topics, view.ask ?? null);
  }
  draw();
}

function draw(): void {
  const { status } = live;
  if (status) {
    setText(site, status.site_name);
    const state = healthLook(status.health);
    setBadge(health, state);
    document.title = `${state.mood === "good" ? "" : `${state.shape} `}${status.site_name} · ${view?.title ?? ""} – sdwan`;
    view?.update(live, route().parameters);
    setText(spokenState, spoken(live));
  }
  login.update();
  showAge();
}

/** What is old must never look like what is new. */
function showAge(): void {
  const age = live.answeredAt === null ? null : Date.now() - live.answeredAt;
  const locked = live.trouble?.status === 401;
  const old = !locked && live.trouble !== null && (age === null || age > FRESH_MS || live.trouble.status !== 0);
  stale.hidden = !old;
  main.hidden = locked;
  setClass(main, old ? "old" : "");
  if (!old) return;
  const why = live.trouble!.message;
  const since = live.answeredAt === null ? "" : ` since ${moment(live.answeredAt)} (${duration(age! / 1000)})`;
  setText(stale, `✕ No answer${since}: ${why}. ${age === null ? "" : "What is shown is from then."}`);
  setBadge(health, { mood: "wait", shape: "?", word: "no answer" });
}

window.addEventListener("hashchange", navigate);
window.setInterval(showAge, 1000);
showTheme();
navigate();

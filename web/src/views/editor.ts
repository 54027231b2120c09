// The form of a policy: what it would do is tried before it is applied.
import { ApiError, post, remove } from "../api/client";
import type { Live } from "../api/live";
import type { DryRun, Policy, PolicyView } from "../api/types";
import { count, endpoint, plural } from "../lib/format";
import { fromTexts, MATCH_FIELDS, type Problem, refusal, SLA_FIELDS, type Texts, toTexts } from "../lib/policy";
import { h, setText } from "../ui/dom";

const NEW: Policy = { name: "", priority: 150, match: [{}], preference: "balanced", mode: "best", sticky: "until-better" };
const CHOICES: [string, string, string[]][] = [
  ["preference", "Preference", ["latency", "throughput", "cost", "balanced"]],
  ["mode", "Mode", ["best", "balance", "duplicate"]],
  ["sticky", "Flows move", ["until-better", "until-end"]],
];

export class Editor {
  readonly element = h("section", { class: "card editor", hidden: true, "aria-label": "Policy" });
  private readonly form = h("form", { novalidate: true });
  private readonly outcome = h("div", { class: "outcome", role: "status" });
  private readonly title = h("h2", { tabindex: -1 });
  private readonly tryIt = h("button", { type: "submit" }, "Dry run");
  private readonly apply = h("button", { type: "button", class: "primary", disabled: true, onclick: () => void this.doApply() }, "Apply");
  private readonly drop = h("button", { type: "button", class: "danger", onclick: () => void this.doRemove() }, "Remove");
  private readonly why = h("p", { class: "note" });
  private matches = 1;
  private replaces = false;
  /** What was tried, as text: only that may be applied. */
  private tried: string | null = null;
  private removing = false;

  constructor(
    private readonly live: Live,
    private readonly close: () => void,
  ) {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.doTry();
    });
    this.form.addEventListener("input", () => this.edited());
    this.element.append(
      h("header", {}, this.title, h("button", { type: "button", class: "quiet", "aria-label": "Close the form", onclick: () => this.close() }, "✕")),
      this.form,
      this.outcome,
    );
  }

  /** Shows a policy, or an empty form. */
  open(policy: PolicyView | null): void {
    const { texts, matches } = toTexts(policy ?? NEW);
    this.matches = Math.max(1, matches);
    this.replaces = policy !== null;
    this.element.hidden = false;
    setText(this.title, policy ? `Policy ${policy.name}` : "New policy");
    this.drop.hidden = policy?.source !== "stored";
    this.fill(texts, policy);
    this.edited();
    this.outcome.replaceChildren();
    this.title.focus({ preventScroll: true });
    this.element.scrollIntoView({ block: "nearest" });
  }

  hide(): void {
    this.element.hidden = true;
  }

  /** The login is another. */
  refresh(): void {
    const may = this.mayChange();
    this.apply.disabled = !may || (this.tried === null && !this.removing);
    this.drop.disabled = !may;
    setText(this.why, may ? "" : "Read-only: to change policies, run `sdwan dashboard --login` on the gateway and open the address that it prints.");
  }

  private mayChange(): boolean {
    const role = this.live.session?.role;
    return role === "operator" || role === "admin";
  }

  private fill(texts: Texts, policy: PolicyView | null): void {
    const field = (key: string, label: string, hint = "") =>
      h("label", { class: "field" }, h("span", {}, label), h("input", { name: key, value: texts[key] ?? "", placeholder: hint, autocomplete: "off", spellcheck: "false" }), h("em", { class: "wrong", "data-for": key }));
    const choice = ([key, label, values]: [string, string, string[]]) =>
      h("label", { class: "field" }, h("span", {}, label), h("select", { name: key }, ...values.map((value) => h("option", { value, selected: texts[key] === value }, value))), h("em", { class: "wrong", "data-for": key }));
    const matches = h("div", { class: "matches" });
    const addMatch = (at: number) =>
      matches.append(h("fieldset", {}, h("legend", {}, at === 0 ? "Matches" : "or"), ...MATCH_FIELDS.map(([key, label, hint]) => field(`match[${at}].${key}`, label, hint)), h("em", { class: "wrong", "data-for": `match[${at}]` })));
    for (let at = 0; at < this.matches; at += 1) addMatch(at);
    const more = h("button", { type: "button", class: "quiet", onclick: () => addMatch(this.matches++) }, "+ another alternative");
    const origin = policy && policy.source !== "stored" ? h("p", { class: "note" }, policy.source === "file" ? "This policy is in the configuration file: change it there. Here, it can be tried under another name." : "This is a built-in policy: one of the same name replaces it.") : null;
    this.form.replaceChildren(
      ...(origin ? [origin] : []),
      h("fieldset", {}, h("legend", {}, "Policy"), field("name", "Name", "a-z, 0-9 and -"), field("priority", "Priority", "0 to 65535, lower first"), field("class", "Class", "its own name"), ...CHOICES.map(choice)),
      matches,
      more,
      h("fieldset", {}, h("legend", {}, "SLA"), ...SLA_FIELDS.map(([key, label]) => field(`sla.${key}`, label)), h("em", { class: "wrong", "data-for": "sla" })),
      h("fieldset", {}, h("legend", {}, "Marks"), field("dscp", "DSCP of the packets", "left alone"), field("outer_dscp", "DSCP outside", "0")),
      h("div", { class: "actions" }, this.tryIt, this.apply, this.drop),
      this.why,
    );
  }

  private edited(): void {
    this.tried = null;
    this.removing = false;
    setText(this.apply, "Apply");
    this.refresh();
  }

  private read(): Policy | null {
    const texts: Texts = {};
    for (const [key, value] of new FormData(this.form)) texts[key] = String(value);
    const { policy, problems } = fromTexts(texts, this.matches);
    this.complain(problems);
    return problems.length > 0 ? null : policy;
  }

  private complain(problems: readonly Problem[]): void {
    const rest: string[] = [];
    const places = Array.from(this.form.querySelectorAll<HTMLElement>("em.wrong"));
    for (const place of places) setText(place, "");
    for (const input of this.form.querySelectorAll("input, select")) input.removeAttribute("aria-invalid");
    for (const { key, text } of problems) {
      const place = places.find((place) => place.dataset["for"] === key) ?? places.find((place) => key.startsWith(`${place.dataset["for"]}.`));
      if (place && key) setText(place, text);
      else rest.push(text);
      this.form.querySelector(`[name="${CSS.escape(key)}"]`)?.setAttribute("aria-invalid", "true");
    }
    this.form.querySelector<HTMLElement>("[aria-invalid]")?.focus();
    if (problems.length > 0) this.say("bad", rest.length > 0 ? rest : ["Not yet: see the fields that are marked."]);
  }

  private say(mood: string, lines: readonly string[]): void {
    this.outcome.replaceChildren(...lines.map((line) => h("p", { class: `said ${mood}` }, line)));
  }

  private fail(error: unknown): void {
    if (error instanceof ApiError && [400, 409].includes(error.status)) this.complain(refusal(error.message));
    else this.say("bad", [error instanceof Error ? error.message : String(error)]);
  }

  private async doTry(): Promise<void> {
    const policy = this.read();
    if (!policy) return;
    this.say("wait", ["Trying …"]);
    try {
      this.show(await post<DryRun>(`/v1/policies/dry-run?replace=${this.replaces}`, [policy]));
      this.tried = JSON.stringify(policy);
      this.removing = false;
      setText(this.apply, "Apply");
      this.refresh();
    } catch (error) {
      this.fail(error);
    }
  }

  private async doApply(): Promise<void> {
    const policy = this.removing ? null : this.read();
    if (!this.removing && (!policy || JSON.stringify(policy) !== this.tried)) return;
    this.apply.disabled = true;
    try {
      const name = String(new FormData(this.form).get("name"));
      const done = this.removing
        ? await remove<{ message: string }>(`/v1/policies/${encodeURIComponent(name)}`)
        : await post<{ message: string }>(`/v1/policies?replace=${this.replaces}`, [policy]);
      this.edited();
      this.say("good", [done.message]);
      this.replaces = true;
      this.live.now();
    } catch (error) {
      this.fail(error);
      this.live.session = null;
      this.live.now();
    }
  }

  /** A removal, too, is tried first. */
  private async doRemove(): Promise<void> {
    const name = String(new FormData(this.form).get("name"));
    try {
      this.show(await post<DryRun>(`/v1/policies/dry-run?remove=${encodeURIComponent(name)}`, []));
      this.tried = null;
      this.removing = true;
      setText(this.apply, `Apply: remove ${name}`);
      this.refresh();
    } catch (error) {
      this.fail(error);
    }
  }

  private show(run: DryRun): void {
    const head = `Of ${plural(run.looked_at, "flow")}, ${count(run.change_class)} would change the class and ${count(run.change_path)} the path.`;
    const rows = run.flows.map(({ flow, class: to, path }) =>
      h(
        "tr",
        {},
        h("td", {}, `${endpoint(flow.source, flow.source_port)} → ${endpoint(flow.destination, flow.destination_port)} ${flow.protocol}`),
        h("td", {}, to === flow.class ? flow.class : `${flow.class} → ${to ?? "none"}`),
        h("td", { class: path?.number === flow.path.number ? "" : "moves" }, path?.number === flow.path.number ? flow.path.uplinks : `${flow.path.uplinks}  ⇒  ${path?.uplinks ?? "left to the kernel's routes"}`),
      ),
    );
    this.outcome.replaceChildren(
      h("p", { class: `said ${run.change_path > 0 ? "warn" : "good"}`, "data-moves": run.change_path, "data-classes": run.change_class }, head),
      ...run.notes.map((note) => h("p", { class: "note" }, note)),
      ...(rows.length > 0
        ? [h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Flows that would change" }, h("table", { class: "dry" }, h("thead", {}, h("tr", {}, ...["Flow", "Class", "Path"].map((name) => h("th", {}, name)))), h("tbody", {}, ...rows)))]
        : []),
      ...(run.truncated || run.flows.length < Math.max(run.change_class, run.change_path) ? [h("p", { class: "note" }, "Not all of them are listed.")] : []),
    );
  }
}

// Policies as people write them in the form, and as the daemon takes them.
import type { Match, Policy, Sla } from "../api/types";

export const MATCH_FIELDS = [
  ["protocols", "Protocols", "udp, tcp, icmp, 47"],
  ["ports", "Ports, either end", "5060, 16384-32767"],
  ["source_ports", "Source ports", "1024-65535"],
  ["destination_ports", "Destination ports", "443, 8000-8099"],
  ["dscp", "DSCP", "ef, af41, 26"],
  ["sources", "Source prefixes", "10.1.0.0/16, fd00:1::/48"],
  ["destinations", "Destination prefixes", "10.2.0.0/16"],
  ["zones", "Zones", "lan"],
] as const satisfies readonly (readonly [keyof Match, string, string])[];

export const SLA_FIELDS = [
  ["latency_ms", "RTT at most, ms"],
  ["jitter_ms", "Jitter at most, ms"],
  ["loss_pct", "Loss at most, %"],
  ["bandwidth_mbps", "Capacity at least, Mbit/s"],
  ["mos", "MOS at least"],
] as const satisfies readonly (readonly [keyof Sla, string])[];

/** A field that can't be read; the key is the daemon's name for it, such as `match[0].ports`. */
export interface Problem {
  key: string;
  text: string;
}

export type Texts = Record<string, string>;

/** `a, b c` → `["a", "b", "c"]`. */
export function list(text: string): string[] {
  return text.split(/[\s,]+/).filter(Boolean);
}

function number(texts: Texts, key: string, problems: Problem[]): number | undefined {
  const text = (texts[key] ?? "").trim().replace(",", ".");
  if (text === "") return undefined;
  const value = Number(text);
  if (Number.isFinite(value)) return value;
  problems.push({ key, text: `"${text}" is no number` });
  return undefined;
}

/** Reads the form; whether what it says makes sense is the daemon's to tell. */
export function fromTexts(texts: Texts, matches: number): { policy: Policy; problems: Problem[] } {
  const problems: Problem[] = [];
  const text = (key: string) => (texts[key] ?? "").trim();
  const policy: Policy = {
    name: text("name"),
    priority: number(texts, "priority", problems) ?? -1,
    preference: text("preference") || "balanced",
    mode: text("mode") || "best",
    sticky: text("sticky") || "until-better",
  };
  if (policy.name === "") problems.push({ key: "name", text: "a policy needs a name" });
  if (policy.priority < 0 || !Number.isInteger(policy.priority) || policy.priority > 65_535) {
    problems.push({ key: "priority", text: "write a number from 0 to 65535; lower ones apply first" });
  }
  if (text("class")) policy.class = text("class");
  const all: Match[] = [];
  for (let at = 0; at < matches; at += 1) {
    const match: Match = {};
    for (const [field] of MATCH_FIELDS) {
      const entries = list(text(`match[${at}].${field}`));
      if (entries.length > 0) match[field] = entries;
    }
    if (Object.keys(match).length > 0) all.push(match);
  }
  if (all.length > 0) policy.match = all;
  const sla: Sla = {};
  for (const [field] of SLA_FIELDS) {
    const value = number(texts, `sla.${field}`, problems);
    if (value !== undefined) sla[field] = value;
  }
  if (Object.keys(sla).length > 0) policy.sla = sla;
  for (const field of ["dscp", "outer_dscp"] as const) {
    const value = number(texts, field, problems);
    if (value === undefined) continue;
    if (Number.isInteger(value) && value >= 0 && value <= 63) policy[field] = value;
    else problems.push({ key: field, text: "write a number from 0 to 63" });
  }
  return { policy, problems };
}

/** The form's texts for a policy. */
export function toTexts(policy: Policy): { texts: Texts; matches: number } {
  const texts: Texts = {
    name: policy.name,
    priority: String(policy.priority),
    class: policy.class ?? "",
    preference: policy.preference,
    mode: policy.mode,
    sticky: policy.sticky,
    dscp: policy.dscp === undefined ? "" : String(policy.dscp),
    outer_dscp: policy.outer_dscp === undefined ? "" : String(policy.outer_dscp),
  };
  for (const [field] of SLA_FIELDS) {
    const value = policy.sla?.[field];
    texts[`sla.${field}`] = value === undefined ? "" : String(value);
  }
  const matches = policy.match ?? [];
  matches.forEach((match, at) => {
    for (const [field] of MATCH_FIELDS) texts[`match[${at}].${field}`] = (match[field] ?? []).join(", ");
  });
  return { texts, matches: matches.length };
}

/** What a policy matches, in a line. */
export function matchText(policy: Policy): string {
  const one = (match: Match) =>
    MATCH_FIELDS.filter(([field]) => match[field]?.length)
      .map(([field]) => `${field.replace("_", " ")} ${match[field]!.join(", ")}`)
      .join(" · ");
  return (policy.match ?? []).map(one).filter(Boolean).join("  or  ") || "everything";
}

export function slaText(sla: Sla | undefined): string {
  const parts: string[] = [];
  if (sla?.latency_ms !== undefined) parts.push(`RTT ≤ ${sla.latency_ms} ms`);
  if (sla?.jitter_ms !== undefined) parts.push(`jitter ≤ ${sla.jitter_ms} ms`);
  if (sla?.loss_pct !== undefined) parts.push(`loss ≤ ${sla.loss_pct} %`);
  if (sla?.bandwidth_mbps !== undefined) parts.push(`capacity ≥ ${sla.bandwidth_mbps} Mbit/s`);
  if (sla?.mos !== undefined) parts.push(`MOS ≥ ${sla.mos}`);
  return parts.join(", ") || "–";
}

/** The daemon's refusal, by the fields that it names: `policy "x": match[0].ports: …`, a line for each. */
export function refusal(text: string): Problem[] {
  return text.split("\n").map((line) => {
    const rest = line.replace(/^policy "[^"]*": /, "");
    const found = /^(name|priority|class|preference|mode|sticky|dscp|outer_dscp|sla(?:\.\w+)?|match\[\d+\](?:\.\w+)?): (.*)$/.exec(rest);
    return found ? { key: found[1]!, text: found[2]! } : { key: "", text: line };
  });
}

import { describe, expect, it } from "vitest";

import type { Policy } from "../src/api/types";
import { fromTexts, list, matchText, refusal, slaText, toTexts } from "../src/lib/policy";

const POLICY: Policy = {
  name: "crm",
  priority: 120,
  match: [{ protocols: ["tcp"], destination_ports: ["443", "8000-8099"] }, { destinations: ["10.2.0.0/16"] }],
  class: "business",
  preference: "latency",
  sla: { latency_ms: 80, loss_pct: 0.5 },
  mode: "best",
  sticky: "until-end",
  dscp: 26,
};

describe("the form of a policy", () => {
  it("gives back what it was given", () => {
    const { texts, matches } = toTexts(POLICY);
    expect(fromTexts(texts, matches)).toEqual({ policy: POLICY, problems: [] });
  });
  it("leaves out what is empty", () => {
    const { policy, problems } = fromTexts({ name: "x", priority: "5" }, 3);
    expect(problems).toEqual([]);
    expect(policy).toEqual({ name: "x", priority: 5, preference: "balanced", mode: "best", sticky: "until-better" });
  });
  it("names each field that can't be read", () => {
    const { problems } = fromTexts({ name: " ", priority: "1.5", "sla.mos": "good", dscp: "64" }, 1);
    expect(problems.map(({ key }) => key)).toEqual(["name", "priority", "sla.mos", "dscp"]);
  });
  it("takes commas and blanks between entries", () => {
    expect(list(" 80, 443  8000-8099,")).toEqual(["80", "443", "8000-8099"]);
  });
});

describe("the daemon's refusal", () => {
  it("finds its fields", () => {
    const text = 'policy "x": match[0].ports: tcp is needed: add it\nsla.mos: 9 is too much: write less';
    expect(refusal(text)).toEqual([
      { key: "match[0].ports", text: "tcp is needed: add it" },
      { key: "sla.mos", text: "9 is too much: write less" },
    ]);
  });
  it("shows whole what names no field", () => {
    expect(refusal('there is a stored policy "x" already')).toEqual([{ key: "", text: 'there is a stored policy "x" already' }]);
  });
});

it("policies are told in a line", () => {
  expect(matchText(POLICY)).toBe("protocols tcp · destination ports 443, 8000-8099  or  destinations 10.2.0.0/16");
  expect(matchText({ ...POLICY, match: [] })).toBe("everything");
  expect(slaText(POLICY.sla)).toBe("RTT ≤ 80 ms, loss ≤ 0.5 %");
});

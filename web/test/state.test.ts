import { describe, expect, it } from "vitest";

import type { History, Path, PathState, Site } from "../src/api/types";
import { columns, summary } from "../src/lib/series";
import { eventLook, pathLook, severity, siteLook } from "../src/lib/state";

const path = (state: PathState, degraded = false) => ({ state, degraded }) as Path;
const site = { state: "active" } as Site;

describe("states", () => {
  it("differ in shape and word, not in colour alone", () => {
    const looks = [path("up"), path("up", true), path("down"), path("recovering"), path("starting")].map(pathLook);
    expect(new Set(looks.map(({ shape }) => shape)).size).toBe(5);
    expect(new Set(looks.map(({ word }) => word)).size).toBe(5);
  });
  it("of a site are as bad as what it has lost", () => {
    expect(siteLook(site, [path("up"), path("up")]).mood).toBe("good");
    expect(siteLook(site, [path("up"), path("down")]).mood).toBe("warn");
    expect(siteLook(site, [path("down"), path("down")]).mood).toBe("bad");
    expect(siteLook({ ...site, state: "inactive" }, []).mood).toBe("bad");
    expect(severity("bad")).toBeLessThan(severity("good"));
  });
  it("of events are told by their kind", () => {
    expect(["path-down", "tunnel-trouble", "path-degraded", "path-up", "class-moved"].map((kind) => eventLook({ kind }).mood)).toEqual(["bad", "bad", "warn", "good", "wait"]);
  });
});

describe("series", () => {
  const history = { step_s: 10, points: [0, 10, 40].map((time_unix_s) => ({ time_unix_s, rtt_ms: time_unix_s })) } as unknown as History;
  it("have a gap where nothing was recorded", () => {
    expect(columns(history, ["rtt_ms"])).toEqual([
      [0, 10, 20, 40],
      [0, 10, null, 40],
    ]);
  });
  it("are told in words", () => {
    expect(summary([1, null, 5, null])).toEqual({ last: null, least: 1, most: 5 });
    expect(summary([null])).toBeNull();
  });
});

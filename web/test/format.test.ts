import { describe, expect, it } from "vitest";

import { bytes, duration, endpoint, milliseconds, moment, percent, rate } from "../src/lib/format";

describe("numbers for people", () => {
  it("scale rates by thousands, with three digits that count", () => {
    expect([0, 999, 1000, 12_345, 99_960, 1e9].map(rate)).toEqual(["0 bit/s", "999 bit/s", "1.00 kbit/s", "12.3 kbit/s", "100 kbit/s", "1.00 Gbit/s"]);
    expect(bytes(1_500_000)).toBe("1.50 MB");
  });
  it("say so where nothing is known, and zero is something", () => {
    expect([rate(null), milliseconds(undefined), percent(null)]).toEqual(["–", "–", "–"]);
    expect([percent(0), percent(0.04), percent(12.34)]).toEqual(["0 %", "0.04 %", "12.3 %"]);
  });
  it("tell spans in two units", () => {
    expect([0, 59.9, 60, 3661, 90_000].map(duration)).toEqual(["0 s", "59 s", "1 min", "1 h 1 min", "1 d 1 h"]);
  });
  it("write IPv6 endpoints in brackets, and none of port 0", () => {
    expect([endpoint("10.0.0.1", 80), endpoint("fd00::1", 80), endpoint("fd00::1", 0)]).toEqual(["10.0.0.1:80", "[fd00::1]:80", "fd00::1"]);
  });
  it("leave out the date of today", () => {
    const now = new Date(2026, 4, 3, 12, 0, 0).getTime();
    expect(moment(now - 1000, now)).toBe("11:59:59");
    expect(moment(now - 86_400_000, now)).toBe("2026-05-02 12:00:00");
  });
});

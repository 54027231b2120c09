import { expect, it } from "vitest";

import { Rates } from "../src/lib/rates";

it("a rate takes two readings, and begins anew with its counter", () => {
  const rates = new Rates();
  expect(rates.note("a", 1000, 0)).toBeNull();
  expect(rates.note("a", 2000, 1000)).toBe(8000);
  expect(rates.note("a", 3000, 1050), "too soon to say").toBe(8000);
  expect(rates.note("a", 10, 2000), "the counter went back").toBeNull();
  expect(rates.note("a", 260, 3000)).toBe(2000);
});

it("what is gone is forgotten", () => {
  const rates = new Rates();
  rates.note("a", 0, 0);
  rates.note("b", 0, 0);
  rates.note("b", 125, 1000);
  rates.keep(new Set(["b"]));
  expect([rates.of("a"), rates.of("b")]).toEqual([null, 1000]);
  expect(rates.note("a", 5, 2000)).toBeNull();
});

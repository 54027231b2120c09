import { describe, expect, it } from "vitest";

import type { Path, Site, Uplink } from "../src/api/types";
import { layout, ROOMY } from "../src/lib/layout";

const uplinks = ["fibre", "lte"].map((name, index) => ({ name, index }) as Uplink);

function mesh(count: number): { sites: Site[]; paths: Path[] } {
  const sites = Array.from({ length: count }, (_, at) => ({ id: `${at}`, name: `s${at}` }) as Site);
  const paths = sites.flatMap((site) =>
    [0, 1, 2, 3].map((at) => ({ site: site.id, tunnel: { local: at >> 1, remote: at & 1 }, remote_uplink: `r${at & 1}` }) as Path),
  );
  return { sites, paths };
}

describe("the picture of the mesh", () => {
  for (const [width, count] of [[320, 2], [900, 3], [1200, ROOMY + 1], [900, 100]] as const) {
    it(`keeps ${count} sites apart on ${width} px, with a line for each path`, () => {
      const { sites, paths } = mesh(count);
      const picture = layout(width, uplinks, sites, paths);
      expect(picture.lines).toHaveLength(paths.length);
      picture.sites.slice(1).forEach((box, at) => {
        const above = picture.sites[at]!;
        expect(box.y).toBeGreaterThanOrEqual(above.y + above.height);
      });
      for (const box of [...picture.sites, ...picture.uplinks]) {
        expect(box.x).toBeGreaterThanOrEqual(0);
        expect(box.x + box.width).toBeLessThanOrEqual(width);
        expect(box.y + box.height).toBeLessThanOrEqual(picture.height);
      }
      for (const { source, target } of picture.lines) expect(source[0] + 40).toBeLessThan(target[0]);
    });
  }
  it("is there without any site", () => {
    const picture = layout(600, uplinks, [], []);
    expect([picture.lines.length, picture.uplinks.length]).toEqual([0, 2]);
  });
});

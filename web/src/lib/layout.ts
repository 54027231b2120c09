// Where sites and uplinks stand in the picture of the mesh: this site's uplinks on the left, the others on the right.
import type { Path, Site, Uplink } from "../api/types";

export interface UplinkBox {
  uplink: Uplink;
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Port {
  index: number;
  name: string;
  y: number;
}

export interface SiteBox {
  site: Site;
  x: number;
  y: number;
  width: number;
  height: number;
  ports: Port[];
}

export interface Line {
  path: Path;
  source: [number, number];
  target: [number, number];
}

export interface Layout {
  width: number;
  height: number;
  compact: boolean;
  uplinks: UplinkBox[];
  sites: SiteBox[];
  lines: Line[];
  /** There is room for a label at each line. */
  labelled: boolean;
}

/** Most lines with labels, and the least width for them. */
const MOST_LABELS = 16;
const LABEL_WIDTH = 520;

/** With more sites than this, their uplinks have no names in the picture. */
export const ROOMY = 8;
const GAP = 14;
const HEAD = 30;
const PORT = 21;
/** … and where each of their lines has a label. */
const LABELLED = 36;
const COMPACT = 30;
const BOX = 52;

export function layout(width: number, uplinks: readonly Uplink[], sites: readonly Site[], paths: readonly Path[]): Layout {
  const compact = sites.length > ROOMY;
  const labelled = !compact && paths.length <= MOST_LABELS && width >= LABEL_WIDTH;
  const pitch = labelled ? LABELLED : PORT;
  const left = Math.max(92, Math.min(170, width * 0.24));
  const right = Math.max(112, Math.min(210, width * 0.3));
  const gap = compact ? 5 : GAP;
  const bySite = new Map<string, Path[]>();
  for (const path of paths) {
    const known = bySite.get(path.site);
    if (known) known.push(path);
    else bySite.set(path.site, [path]);
  }

  let y = 2;
  const boxes = sites.map((site): SiteBox => {
    const names = new Map<number, string>();
    for (const path of bySite.get(site.id) ?? []) names.set(path.tunnel.remote, path.remote_uplink);
    const remote = [...names.keys()].sort((a, b) => a - b);
    const height = compact ? COMPACT : HEAD + Math.max(1, remote.length) * pitch + 8;
    const step = compact ? (height - 8) / Math.max(1, remote.length) : pitch;
    const first = compact ? y + 4 + step / 2 : y + HEAD + pitch / 2;
    const ports = remote.map((index, at) => ({ index, name: names.get(index)!, y: first + at * step }));
    const box = { site, x: width - right - 1, y, width: right, height, ports };
    y += height + gap;
    return box;
  });

  const needed = uplinks.length * (BOX + GAP) - GAP;
  const height = Math.max(y - gap + 2, needed + 4, 120);
  const room = Math.min(height - 4, Math.max(needed, needed + (height - needed) * 0.4));
  const stride = uplinks.length > 1 ? (room - BOX) / (uplinks.length - 1) : 0;
  const top = (height - (stride * (uplinks.length - 1) + BOX)) / 2;
  const own = uplinks.map((uplink, at) => ({ uplink, x: 1, y: top + at * stride, width: left, height: BOX }));

  // What leaves an uplink leaves it in the order of where it goes: lines of one uplink don't cross there.
  const lines: Line[] = [];
  for (const box of own) {
    const mine = boxes.flatMap((site) => {
      const of = (bySite.get(site.site.id) ?? []).filter((path) => path.tunnel.local === box.uplink.index);
      return of.map((path) => ({ path, site, port: site.ports.find((port) => port.index === path.tunnel.remote)! }));
    });
    mine.sort((a, b) => a.port.y - b.port.y);
    const spread = (box.height - 16) / Math.max(1, mine.length);
    mine.forEach(({ path, site, port }, at) => {
      lines.push({ path, source: [box.x + box.width, box.y + 8 + spread * (at + 0.5)], target: [site.x, port.y] });
    });
  }
  return { width, height, compact, uplinks: own, sites: boxes, lines, labelled };
}

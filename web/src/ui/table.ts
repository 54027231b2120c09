// A table that has elements only for the rows in sight: 10,000 flows cost as much as 30. By keyboard: arrows, Page Up and
// Down, Home and End move along the rows, Enter opens one.
import { h, setAttribute, setClass, setText } from "./dom";

export interface Column<T> {
  id: string;
  label: string;
  /** Track of the CSS grid. */
  track: string;
  /** Shown where the table is at least so wide, px. */
  from?: number;
  numeric?: boolean;
  text: (item: T) => string;
  /** Besides the text. */
  className?: (item: T) => string;
  /** What the column is sorted by; by its text if left out. */
  order?: (item: T) => number | string | null;
}

export interface TableOptions<T> {
  label: string;
  columns: Column<T>[];
  key: (item: T) => string;
  rowClass?: (item: T) => string;
  open?: (item: T) => void;
  sort?: { id: string; down: boolean };
  empty: string;
}

const ROW = 34;
const BEYOND = 6;

export class VirtualTable<T> {
  readonly element: HTMLElement;
  private readonly head = h("div", { role: "row", class: "vt-row vt-head" });
  private readonly body = h("div", { class: "vt-body", role: "rowgroup" });
  private readonly space = h("div", { class: "vt-space" });
  private readonly nothing = h("p", { class: "vt-empty" });
  private readonly pool: HTMLElement[] = [];
  private items: T[] = [];
  private sorted: T[] = [];
  private columns: Column<T>[] = [];
  private sort: { id: string; down: boolean } | null;
  private current: string | null = null;
  private selected: string | null = null;
  private frame = 0;

  constructor(private readonly options: TableOptions<T>) {
    this.sort = options.sort ?? null;
    this.body.append(this.space);
    this.element = h(
      "div",
      { class: "vt", role: options.open ? "grid" : "table", "aria-label": options.label },
      h("div", { role: "rowgroup" }, this.head),
      this.body,
      this.nothing,
    );
    setText(this.nothing, options.empty);
    this.body.addEventListener("scroll", () => this.soon(), { passive: true });
    this.body.addEventListener("keydown", (event) => this.onKey(event));
    this.body.addEventListener("click", (event) => {
      const row = (event.target as Element).closest<HTMLElement>(".vt-row");
      const item = row && this.sorted[Number(row.dataset["index"])];
      if (item !== undefined && item !== null) this.choose(item);
    });
    new ResizeObserver(() => this.resized()).observe(this.element);
  }

  set(items: T[]): void {
    this.items = items;
    this.arrange();
    this.draw();
  }

  /** Marks a row as the one that is looked at. */
  select(key: string | null): void {
    this.selected = key;
    this.soon();
  }

  get length(): number {
    return this.items.length;
  }

  private choose(item: T): void {
    this.current = this.options.key(item);
    this.options.open?.(item);
    this.soon();
  }

  private resized(): void {
    const width = this.element.clientWidth;
    const columns = this.options.columns.filter((column) => width >= (column.from ?? 0));
    const same = columns.length === this.columns.length && columns.every((column, at) => column === this.columns[at]);
    if (!same) {
      this.columns = columns;
      this.element.style.setProperty("--tracks", columns.map((column) => column.track).join(" "));
      this.makeHead();
      for (const row of this.pool.splice(0)) row.remove();
    }
    this.soon();
  }

  private makeHead(): void {
    const cells = this.columns.map((column) => {
      const button = h("button", { type: "button", class: "vt-sort", onclick: () => this.sortBy(column.id) }, column.label);
      return h("div", { role: "columnheader", class: column.numeric ? "num" : "", "data-id": column.id }, button);
    });
    this.head.replaceChildren(...cells);
    this.showSort();
  }

  private showSort(): void {
    for (const cell of Array.from(this.head.children)) {
      const mine = this.sort?.id === (cell as HTMLElement).dataset["id"];
      setAttribute(cell, "aria-sort", mine ? (this.sort!.down ? "descending" : "ascending") : null);
    }
  }

  private sortBy(id: string): void {
    this.sort = this.sort?.id === id ? { id, down: !this.sort.down } : { id, down: false };
    this.showSort();
    this.arrange();
    this.draw();
  }

  private arrange(): void {
    const column = this.options.columns.find((column) => column.id === this.sort?.id);
    if (!column) {
      this.sorted = this.items;
      return;
    }
    const order = column.order ?? column.text;
    const way = this.sort!.down ? -1 : 1;
    const known = this.items.map((item) => ({ item, by: order(item) }));
    // What isn't known comes last, either way.
    known.sort((a, b) => {
      if (a.by === null || b.by === null) return Number(a.by === null) - Number(b.by === null);
      return (a.by < b.by ? -1 : a.by > b.by ? 1 : 0) * way;
    });
    this.sorted = known.map(({ item }) => item);
  }

  private soon(): void {
    if (this.frame === 0) {
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        this.draw();
      });
    }
  }

  private draw(): void {
    this.nothing.hidden = this.sorted.length > 0;
    this.body.hidden = this.sorted.length === 0;
    this.element.setAttribute("aria-rowcount", String(this.sorted.length + 1));
    this.space.style.height = `${this.sorted.length * ROW}px`;
    if (this.columns.length === 0) return;
    const { scrollTop, clientHeight } = this.body;
    const first = Math.max(0, Math.floor(scrollTop / ROW) - BEYOND);
    const last = Math.min(this.sorted.length, Math.ceil((scrollTop + clientHeight) / ROW) + BEYOND);
    const at = this.current === null ? 0 : Math.max(0, this.indexOf(this.current));
    for (let slot = 0; slot < Math.max(last - first, this.pool.length); slot += 1) {
      const index = first + slot;
      if (index >= last) {
        this.pool[slot]!.hidden = true;
        continue;
      }
      const row = this.pool[slot] ?? this.makeRow();
      row.hidden = false;
      this.fill(row, index, index === at || (at < first && slot === 0) || (at >= last && index === last - 1));
    }
  }

  private makeRow(): HTMLElement {
    const role = this.options.open ? "gridcell" : "cell";
    const cells = this.columns.map((column) => h("div", { role, class: column.numeric ? "num" : "" }));
    const row = h("div", { role: "row", class: "vt-row" }, ...cells);
    this.pool.push(row);
    this.body.append(row);
    return row;
  }

  private fill(row: HTMLElement, index: number, reachable: boolean): void {
    const item = this.sorted[index]!;
    const key = this.options.key(item);
    row.dataset["index"] = String(index);
    row.style.transform = `translateY(${index * ROW}px)`;
    setAttribute(row, "aria-rowindex", String(index + 2));
    setAttribute(row, "tabindex", reachable ? "0" : "-1");
    if (this.options.open) setAttribute(row, "aria-selected", String(key === this.selected));
    setClass(row, `vt-row ${this.options.rowClass?.(item) ?? ""}`);
    this.columns.forEach((column, at) => {
      const cell = row.children[at]!;
      const text = column.text(item);
      setText(cell, text);
      setAttribute(cell, "title", text.length > 18 ? text : null);
      setClass(cell, `${column.numeric ? "num " : ""}${column.className?.(item) ?? ""}`);
    });
  }

  private indexOf(key: string): number {
    return this.sorted.findIndex((item) => this.options.key(item) === key);
  }

  private onKey(event: KeyboardEvent): void {
    const row = (event.target as Element).closest<HTMLElement>(".vt-row");
    if (!row) return;
    const index = Number(row.dataset["index"]);
    const page = Math.max(1, Math.floor(this.body.clientHeight / ROW) - 1);
    const last = this.sorted.length - 1;
    const to: Record<string, number> = {
      ArrowDown: index + 1,
      ArrowUp: index - 1,
      PageDown: index + page,
      PageUp: index - page,
      Home: 0,
      End: last,
    };
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.choose(this.sorted[index]!);
    } else if (to[event.key] !== undefined) {
      event.preventDefault();
      this.focus(Math.min(Math.max(to[event.key]!, 0), last));
    }
  }

  private focus(index: number): void {
    this.current = this.options.key(this.sorted[index]!);
    const top = index * ROW;
    if (top < this.body.scrollTop) this.body.scrollTop = top;
    else if (top + ROW > this.body.scrollTop + this.body.clientHeight) this.body.scrollTop = top + ROW - this.body.clientHeight;
    this.draw();
    this.pool.find((row) => !row.hidden && Number(row.dataset["index"]) === index)?.focus({ preventScroll: true });
  }
}

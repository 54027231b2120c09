// Elements without a framework, and without ever reading HTML from a text.

type Value = string | number | boolean | null | undefined | ((event: never) => void);
export type Attributes = Record<string, Value>;
export type Child = Node | string | number | null | undefined | false;

/** An element; `on…` are listeners, `false` and `null` leave an attribute out. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value as EventListener);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child != null && child !== false).map((child) => child as Node | string));
  return element;
}

/** Writes a text where it differs: the browser does nothing for what stays. */
export function setText(node: Node, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

export function setClass(element: Element, name: string): void {
  if (element.getAttribute("class") !== name) element.setAttribute("class", name);
}

export function setAttribute(element: Element, name: string, value: string | null): void {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** A list of elements that follows its data by key; those that stay are kept, with their focus. */
export function keyed<T>(
  parent: Element,
  items: readonly T[],
  key: (item: T) => string,
  make: (item: T) => HTMLElement,
  update: (element: HTMLElement, item: T) => void,
): void {
  const known = new Map<string, HTMLElement>();
  for (const child of Array.from(parent.children)) known.set((child as HTMLElement).dataset["key"] ?? "", child as HTMLElement);
  let before: Element | null = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let element = known.get(name);
    known.delete(name);
    if (!element) {
      element = make(item);
      element.dataset["key"] = name;
    }
    update(element, item);
    if (element === before) before = before.nextElementSibling;
    else parent.insertBefore(element, before);
  }
  for (const element of known.values()) element.remove();
}

/** The state in a shape, a colour and a word. */
export function badge(look: { mood: string; shape: string; word: string }): HTMLElement {
  const element = h("span", { class: `badge ${look.mood}` });
  setBadge(element, look);
  return element;
}

export function setBadge(element: HTMLElement, look: { mood: string; shape: string; word: string }): void {
  setClass(element, `badge ${look.mood}`);
  if (element.children.length !== 2) element.replaceChildren(h("span", { "aria-hidden": "true" }), h("span"));
  setText(element.children[0]!, look.shape);
  setText(element.children[1]!, look.word);
}

// Light or dark: as the system says, unless somebody chose here.

type Choice = "system" | "light" | "dark";
const CHOICES: Choice[] = ["system", "light", "dark"];
const KEY = "sdwan-theme";

class Look {
  private readonly listeners: (() => void)[] = [];
  choice: Choice;

  constructor() {
    const stored = readChoice();
    this.choice = CHOICES.includes(stored as Choice) ? (stored as Choice) : "system";
    this.apply();
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.tell());
  }

  next(): void {
    this.choice = CHOICES[(CHOICES.indexOf(this.choice) + 1) % CHOICES.length]!;
    try {
      localStorage.setItem(KEY, this.choice);
    } catch {
      // Without storage the choice lasts as long as the page.
    }
    this.apply();
    this.tell();
  }

  /** A colour of the style sheet, for what is painted rather than styled. */
  color(name: string): string {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  onChange(listener: () => void): void {
    this.listeners.push(listener);
  }

  private apply(): void {
    if (this.choice === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = this.choice;
  }

  private tell(): void {
    for (const listener of this.listeners) listener();
  }
}

function readChoice(): string | null {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

export const look = new Look();

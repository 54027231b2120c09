// The licences of what is bundled, beside the bundle, as they ask for: dist/licenses.txt.
import { existsSync, readFileSync, writeFileSync } from "node:fs";

const { packages } = JSON.parse(readFileSync("package-lock.json", "utf8"));
const texts = [];
for (const [path, { dev, license, version }] of Object.entries(packages)) {
  if (path === "" || dev) continue;
  const file = ["LICENSE", "LICENSE.md", "license"].map((name) => `${path}/${name}`).find(existsSync);
  if (!file) throw new Error(`${path} has no licence text`);
  texts.push(`${path.replace("node_modules/", "")} ${version} (${license})\n\n${readFileSync(file, "utf8").trim()}\n`);
}
if (texts.length === 0) throw new Error("nothing is bundled? package-lock.json says so");
writeFileSync("dist/licenses.txt", texts.join(`\n${"-".repeat(80)}\n\n`));

// Bundles src/ and the packages it uses into the package's static files; the same sources give the same bytes. `make report-assets` runs it.

import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = dirname(fileURLToPath(import.meta.url));
process.chdir(root);
const assets = "../src/saesteer/site/assets";
const digest = (path) => createHash("sha256").update(readFileSync(path)).digest("hex");

const { metafile } = await build({
  absWorkingDir: root,
  entryPoints: { report: "src/main.jsx" },
  outdir: assets,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["chrome123", "firefox121", "safari17.5"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none", // LICENSES.txt has them
  metafile: true,
});
writeFileSync(join(assets, "index.html"), readFileSync("src/index.html"));

const folders = new Set(Object.keys(metafile.inputs).map((path) => /^node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.[0]).filter(Boolean));
const packages = [...folders].sort().map((folder) => ({ folder, ...JSON.parse(readFileSync(join(folder, "package.json"))) }));
const licences = packages.map(({ folder, name, version, license }) => `${name} ${version} (${license})\n\n${readFileSync(join(folder, "LICENSE"), "utf8").trim()}\n`);
writeFileSync(join(assets, "LICENSES.txt"), `report.js and report.css contain these packages.\n\n${licences.join(`\n${"-".repeat(80)}\n\n`)}`);

const made = ["LICENSES.txt", "index.html", "report.css", "report.js"].map((name) => [name, digest(join(assets, name))]);
const sources = ["build.mjs", "package-lock.json", "package.json", ...readdirSync("src").map((name) => `src/${name}`)].sort();
const manifest = {
  built: Object.fromEntries(made),
  from: Object.fromEntries(sources.map((name) => [name, digest(name)])),
  packages: packages.map(({ name, version, license }) => ({ name, version, license })),
};
writeFileSync(join(assets, "assets.json"), `${JSON.stringify(manifest, null, 1)}\n`);

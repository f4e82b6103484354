// Task Master imports fifty packages at its top, most of them SDKs of model providers that a given command never
// touches, and Node runs them all before the first line of its own: most of the seconds that upstream takes to start.
// Here each package that Task Master imports runs when the first of its exports is read.

import { builtinModules } from "node:module";
import { dirname, isAbsolute, join } from "node:path";
import { pathToFileURL } from "node:url";

import { sourceOf } from "./patches.mjs";

// Every command meets marked-terminal, and hardly one shows a code block or an emoji by name.
const ALSO_LAZY = { importer: /\/marked-terminal\/index\.js$/, packages: /^(cli-highlight|node-emoji)$/ };

/**
 * Makes an esbuild plugin out of the rule above, for the files in `upstream`/dist.
 *
 * Three kinds of module, each in a namespace of its own:
 *   upstream  a file of Task Master's. Not in esbuild's "file" namespace, because there a file of a package with
 *             "type": "module" takes `default` to be all of module.exports, getters and all.
 *   lazy      a stand-in with one getter per export; it is what upstream's files get for a package.
 *   real      an ES module that re-exports the package; the getters require it. Named .mjs, for there `default` of a
 *             CommonJS package is what it is in Node.
 */
export function lazyPackages(upstream) {
  const dist = join(upstream, "dist");
  return {
    name: "lazy-packages",
    setup(build) {
      build.onResolve({ filter: /^task-master-ai\/dist\// }, ({ path }) => ({
        path,
        namespace: "upstream",
      }));
      build.onResolve({ filter: /.*/, namespace: "upstream" }, async ({ path, kind, importer }) => {
        if (path.startsWith(".")) return { path: join(dirname(importer), path), namespace: "upstream" };
        if (isAbsolute(path)) return { path }; // of ours, by a patch
        if (builtinModules.includes(path.replace(/^node:/, ""))) return { path, external: true };
        if (kind !== "import-statement") return build.resolve(path, { kind, resolveDir: dist });
        return { path, namespace: "lazy" };
      });
      build.onResolve({ filter: ALSO_LAZY.packages, namespace: "file" }, ({ path, importer }) =>
        ALSO_LAZY.importer.test(importer) ? { path, namespace: "lazy" } : undefined,
      );
      build.onResolve({ filter: /.*/, namespace: "lazy" }, ({ path }) => ({
        path: `${path}.mjs`,
        namespace: "real",
      }));
      build.onResolve({ filter: /.*/, namespace: "real" }, ({ path, kind }) =>
        build.resolve(path, { kind, resolveDir: dist }),
      );
      build.onLoad({ filter: /.*/, namespace: "upstream" }, async ({ path }) => ({
        contents: await sourceOf(dirname(upstream), join(dirname(upstream), path)),
        resolveDir: dist,
      }));
      build.onLoad({ filter: /.*/, namespace: "lazy" }, async ({ path }) => ({
        contents: standIn(path, await exportsOf(build, path, dist)),
        resolveDir: dist,
      }));
      build.onLoad({ filter: /.*/, namespace: "real" }, async ({ path }) => {
        const name = path.replace(/\.mjs$/, "");
        return { contents: reExport(name, await exportsOf(build, name, dist)), resolveDir: dist };
      });
    },
  };
}

/** Names that Node itself sees: it is the one to say what a CommonJS package exports. */
async function exportsOf(build, name, resolveDir) {
  const { path } = await build.resolve(name, { kind: "import-statement", resolveDir });
  const names = Object.keys(await import(pathToFileURL(path)));
  return names.filter((each) => each !== "__esModule" && each !== "module.exports"); // marks, not exports
}

function standIn(name, names) {
  return `
    Object.defineProperty(exports, "__esModule", { value: true });
    let loaded;
    const load = () => (loaded ??= require(${JSON.stringify(name)}));
    for (const name of ${JSON.stringify(names)})
      Object.defineProperty(exports, name, { enumerable: true, get: () => load()[name] });`;
}

function reExport(name, names) {
  return `export { ${names.map((each) => JSON.stringify(each)).join()} } from ${JSON.stringify(name)};`;
}

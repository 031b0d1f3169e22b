// The fixture server over stdin and stdout, in both eras: fixture-stdio.mjs MODULES.
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { fixture, requestState } from "./fixture-offers.mjs";

const require = createRequire(join(process.argv[2], "x.js"));
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const sdk = await load("@modelcontextprotocol/server");
const { serveStdio } = await load("@modelcontextprotocol/server/stdio");
const zod = (await load("zod")).z;
const state = requestState(sdk);
serveStdio(({ era }) => fixture({ sdk, zod, era, state }));

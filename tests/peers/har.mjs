// Checks an HTTP archive against its JSON Schema: har.mjs MODULES FILE; prints how many entries it has.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [modules, file] = process.argv.slice(2);
const require = createRequire(join(modules, "x.js"));
const Ajv = require("ajv").default ?? require("ajv");
const formats = require("ajv-formats").default ?? require("ajv-formats");
const ajv = new Ajv({ strict: false, allErrors: true });
formats(ajv);
ajv.addMetaSchema(require("ajv/dist/refs/json-schema-draft-06.json"));
const schemas = Object.values(require("har-schema"));
// The form of ids that later drafts ask for.
for (const schema of schemas) ajv.addSchema({ ...schema, $id: schema.$id.replace(/#$/, "") });
const archive = JSON.parse(readFileSync(file, "utf8"));
const validate = ajv.getSchema("har.json");
if (!validate(archive)) {
  console.error(validate.errors.slice(0, 10));
  process.exit(1);
}
console.log(archive.log.entries.length);

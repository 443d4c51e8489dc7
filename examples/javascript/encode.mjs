// node encode.mjs EXPORT TEXT...: a line of JSON for each text.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { argv, exit } from "node:process";
import { Encoder } from "./tercet.mjs";

const [folder, ...texts] = argv.slice(2);
if (!texts.length) {
  console.error("usage: node encode.mjs EXPORT TEXT...; EXPORT is what `tercet export onnx` wrote");
  exit(2);
}
const encoder = await Encoder.load(async (name) => new Uint8Array(await readFile(join(folder, name))));
for (const row of await encoder.encode(texts)) {
  const plain = { ...row, dense: [...row.dense], multi: row.multi?.map((vector) => [...vector]) };
  console.log(JSON.stringify(plain));
}

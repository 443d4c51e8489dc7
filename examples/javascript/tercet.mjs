// A model that `tercet export onnx` wrote, for Node and browsers: texts in, three representations out.

import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-web";

// What the tokenizers library for JavaScript does not know: which characters fall out, and which
// become spaces, in the normalizer "Nmt" of SentencePiece.
const NMT = [
  ["[\\u0001-\\u0008\\u000b\\u000e-\\u001f\\u007f\\u008f\\u009f]", ""],
  ["[\\t\\n\\f\\r\\u1680\\u200b-\\u200f\\u2028\\u2029\\u2581\\ufeff\\ufffd]", " "],
].map(([Regex, content]) => ({ type: "Replace", pattern: { Regex }, content }));

function known(normalizer) {
  if (normalizer?.type === "Nmt") return { type: "Sequence", normalizers: NMT };
  if (normalizer?.type !== "Sequence") return normalizer;
  return { ...normalizer, normalizers: normalizer.normalizers.map(known) };
}

export class Encoder {
  // read gives the bytes of a file of the export by its name: a fetch in a page, a file in Node.
  static async load(read) {
    const json = async (name) => JSON.parse(new TextDecoder().decode(await read(name)));
    const encoder = new Encoder();
    encoder.facts = await json("export.json");
    encoder.config = await json("config.json");
    const tokenizer = await json("tokenizer.json");
    tokenizer.normalizer = known(tokenizer.normalizer);
    encoder.tokenizer = new Tokenizer(tokenizer, await json("tokenizer_config.json"));
    encoder.session = await ort.InferenceSession.create(await read("model.onnx"));
    return encoder;
  }

  // Of each text { dense, sparse: { indices, values }, multi }, as Tercet gives them.
  async encode(texts, maxLength = 512) {
    const rows = texts.map((text) => {
      const ids = this.tokenizer.encode(text).ids;
      return ids.length <= maxLength ? ids : [...ids.slice(0, maxLength - 1), ids.at(-1)];
    });
    const longest = Math.max(...rows.map((ids) => ids.length));
    const size = [rows.length, longest];
    const ids = new BigInt64Array(rows.length * longest).fill(BigInt(this.config.pad_token_id));
    const mask = new BigInt64Array(ids.length);
    rows.forEach((row, text) =>
      row.forEach((id, place) => {
        ids[text * longest + place] = BigInt(id);
        mask[text * longest + place] = 1n;
      }),
    );
    const out = await this.session.run({
      input_ids: new ort.Tensor("int64", ids, size),
      attention_mask: new ort.Tensor("int64", mask, size),
    });
    return rows.map((row, text) => {
      const part = (output, start, count, width) =>
        output.data.slice((text * output.dims[1] + start) * width, (text * output.dims[1] + start + count) * width);
      const { dense, multi_vectors: multi, token_weights: weights } = out;
      const hidden = dense.dims[1];
      const made = { tokens: row.length, dense: dense.data.slice(text * hidden, (text + 1) * hidden) };
      if (weights) {
        const best = new Map(); // an id's weight is its largest
        part(weights, 0, row.length, 1).forEach((weight, place) => {
          if (weight > (best.get(row[place]) ?? 0)) best.set(row[place], weight);
        });
        const indices = [...best.keys()].sort((a, b) => a - b);
        made.sparse = { indices, values: indices.map((id) => best.get(id)) };
      }
      if (multi) {
        const width = multi.dims[2]; // the first token, [CLS], is no part of it
        made.multi = Array.from({ length: row.length - 1 }, (_, place) => part(multi, place + 1, 1, width));
      }
      return made;
    });
  }
}

// Runs a piece of JavaScript beside the playground's engine, with a packed model if there is one.
// Standard input: {script, code, values, recipe, functions, table, bytes}; standard output: what the code gives.
import fs from "node:fs";

const given = JSON.parse(fs.readFileSync(0, "utf8"));
const body = `${given.script}
return (async () => {
  const tensors = given.table && new Tensors(given.table, fromBase64(given.bytes));
  const model = given.recipe && new Model(given.recipe, tensors);
  const { values } = given, { functions } = given;
  const catalogue = functions && new Catalogue({ functions, model: given.recipe }, tensors);
  ${given.code}
})();`;
const plain = (key, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);
process.stdout.write(JSON.stringify(await new Function("given", body)(given), plain));

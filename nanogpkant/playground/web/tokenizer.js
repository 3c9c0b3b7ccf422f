/** Tokenizers: characters, bytes and byte-pair encoding, as nanogpkant/data/tokenizer has them. */

/** @typedef {{encode: (text: string) => number[], pieces: (ids: number[]) => string[], unit: string}} Tokenizer */

const utf8 = new TextEncoder();

/** A token's text as one can see it; a part of a character has none. @param {string} text */
export function shown(text) {
  return text === "" ? "…" : text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/ /g, "␣").replace(/\0/g, "∅");
}

/** @param {string[]} characters @returns {Tokenizer} */
function ofCharacters(characters) {
  const ids = new Map(characters.map((character, id) => [character, id]));
  return {
    unit: "character",
    encode: (text) => [...text].map((character) => {
      const id = ids.get(character);
      if (id === undefined) throw new Error(`The model has never seen ${JSON.stringify(character)}.`);
      return id;
    }),
    pieces: (all) => all.map((id) => characters[id]),
  };
}

/**
 * The text of each token; one that ends within a character is empty, and the next one has it whole.
 * @param {Uint8Array[]} tokens
 * @param {number[]} ids
 */
function decoded(tokens, ids) {
  const decoder = new TextDecoder();
  return ids.map((id) => decoder.decode(tokens[id], { stream: true }));
}

/** @returns {Tokenizer} */
function ofBytes() {
  const tokens = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte));
  return { unit: "byte", encode: (text) => [...utf8.encode(text)], pieces: (ids) => decoded(tokens, ids) };
}

/**
 * In each pretoken the pair with the lowest id merges first.
 * @param {string[]} latin the bytes of each token, a character for each
 * @param {string} pattern
 * @returns {Tokenizer}
 */
function ofPairs(latin, pattern) {
  const ids = new Map(latin.map((token, id) => [token, id]));
  const tokens = [...latin.map((token) => Uint8Array.from(token, (c) => c.charCodeAt(0))), new Uint8Array(0)];
  const pretokens = new RegExp(pattern.replace(/([+*?}])\+/g, "$1"), "gu");  // possessive: only faster
  return {
    unit: "token",
    encode(text) {
      const found = [];
      for (const [pretoken] of text.matchAll(pretokens)) {
        const parts = Array.from(utf8.encode(pretoken), (byte) => String.fromCharCode(byte));
        for (;;) {
          let best = Infinity, at = -1;
          for (let i = 0; i + 1 < parts.length; i++) {
            const id = ids.get(parts[i] + parts[i + 1]) ?? Infinity;
            if (id < best) [best, at] = [id, i];
          }
          if (at < 0) break;
          parts.splice(at, 2, parts[at] + parts[at + 1]);
        }
        found.push(...parts.map((part) => /** @type {number} */ (ids.get(part))));
      }
      return found;
    },
    pieces: (all) => decoded(tokens, all),
  };
}

/** @param {any} given the run's tokenizer.json @returns {Tokenizer} */
export function makeTokenizer(given) {
  if (given.type === "char") return ofCharacters(given.characters);
  return given.type === "byte" ? ofBytes() : ofPairs(given.tokens, given.pattern);
}

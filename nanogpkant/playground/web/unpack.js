/** Tensors of the page: what nanogpkant/playground/pack.py wrote. */

/** @typedef {{shape: number[], kind: string, at: number, scale?: number}} Entry */

export class Tensors {
  /** @param {Entry[]} table @param {ArrayBuffer} bytes */
  constructor(table, bytes) {
    this.table = table;
    this.bytes = bytes;
  }

  /** @param {number} number @returns {number[]} */
  shape(number) {
    return this.table[number].shape;
  }

  /**
   * The numbers of a tensor, in float32.
   * @param {number} number
   */
  get(number) {
    const { shape, kind, at, scale } = this.table[number];
    const count = shape.reduce((a, b) => a * b, 1);
    if (kind === "float32") return new Float32Array(this.bytes, at, count);
    const values = new Float32Array(count);
    if (kind === "bfloat16") {
      const halves = new Uint16Array(this.bytes, at, count), words = new Uint32Array(values.buffer);
      for (let i = 0; i < count; i++) words[i] = halves[i] << 16;
      return values;
    }
    const small = new Int8Array(this.bytes, at, count), columns = count / shape[0];
    const scales = new Float32Array(this.bytes, /** @type {number} */ (scale), shape[0]);
    for (let i = 0; i < count; i++) values[i] = small[i] * scales[Math.floor(i / columns)];
    return values;
  }
}

/**
 * @param {string} text base64
 * @returns {ArrayBuffer}
 */
export function fromBase64(text) {
  const binary = atob(text.trim()), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes.buffer;
}

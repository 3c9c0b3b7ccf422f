/**
 * Products with a matrix: in WebAssembly's vectors of four numbers, or in JavaScript without them.
 * A matrix (n, m) lies in panels of 8 columns, so that a product reads it once from end to end.
 */

const PAGE = 65536, PANEL = 8, ROWS = 4;

/** @param {number} value */
function leb(value) {
  const bytes = [];
  do {
    const more = value >>> 7;
    bytes.push((value & 127) | (more ? 128 : 0));
    value = more;
  } while (value);
  return bytes;
}

/** @param {number} id @param {number[]} content */
const section = (id, content) => [id, ...leb(content.length), ...content];

/**
 * A function (w, x, y, n, m, rows' stride of x and y) that multiplies `rows` rows of x by a matrix.
 *
 *   for each panel p of w, of n rows of 8 numbers:
 *     y[r][8 p .. 8 p + 7] = sum over i of x[r][i] * w[p][i][0 .. 7]
 *
 * @param {number} rows
 */
function product(rows) {
  const [W, X, Y, N, M, XSTRIDE, YSTRIDE, I, PX] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
  const get = (/** @type {number} */ i) => [0x20, ...leb(i)];
  const set = (/** @type {number} */ i) => [0x21, ...leb(i)];
  const add = [0x6a], sub = [0x6b], i32 = (/** @type {number} */ v) => [0x41, ...leb(v)];
  const simd = (/** @type {number} */ op) => [0xfd, ...leb(op)];
  const offset = (/** @type {number} */ bytes) => [4, ...leb(bytes)];  // alignment 2^4, offset
  const aligned4 = [2, 0];
  const V = 9 + rows, sums = V + 2;  // locals: a pointer for each row, two vectors of w, the sums
  const code = [];
  code.push(0x03, 0x40);  // loop over panels
  for (let s = 0; s < 2 * rows; s++)
    code.push(...simd(12), ...new Array(16).fill(0), ...set(sums + s));
  code.push(...get(X), ...set(PX + 1));
  for (let r = 1; r < rows; r++)
    code.push(...get(PX + r), ...get(XSTRIDE), ...add, ...set(PX + r + 1));
  code.push(...get(N), ...set(I));
  code.push(0x03, 0x40);  // loop over inputs
  code.push(...get(W), ...simd(0), ...offset(0), ...set(V));
  code.push(...get(W), ...simd(0), ...offset(16), ...set(V + 1));
  for (let r = 0; r < rows; r++)
    for (let v = 0; v < 2; v++)
      code.push(
        ...get(sums + 2 * r + v),
        ...get(PX + r + 1), ...simd(9), ...aligned4,  // one number of x, four times
        ...get(V + v), ...simd(230), ...simd(228),  // multiply, add
        ...set(sums + 2 * r + v),
      );
  for (let r = 0; r < rows; r++) code.push(...get(PX + r + 1), ...i32(4), ...add, ...set(PX + r + 1));
  code.push(...get(W), ...i32(32), ...add, ...set(W));
  code.push(...get(I), ...i32(1), ...sub, ...[0x22, ...leb(I)], 0x0d, 0, 0x0b);
  for (let r = 0; r < rows; r++)
    for (let v = 0; v < 2; v++) {
      code.push(...get(Y));
      for (let k = 0; k < r; k++) code.push(...get(YSTRIDE), ...add);
      code.push(...get(sums + 2 * r + v), ...simd(11), ...offset(16 * v));
    }
  code.push(...get(Y), ...i32(32), ...add, ...set(Y));
  code.push(...get(M), ...i32(8), ...sub, ...[0x22, ...leb(M)], 0x0d, 0, 0x0b, 0x0b);
  const locals = [2, ...leb(2 + rows), 0x7f, ...leb(2 + 2 * rows), 0x7b];
  return [...leb(locals.length + code.length), ...locals, ...code];
}

/** The module: "row" multiplies one row, "rows" four, in an imported memory. */
function assemble() {
  const text = (/** @type {string} */ name) => [name.length, ...[...name].map((c) => c.charCodeAt(0))];
  return new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, [1, 0x60, 7, ...new Array(7).fill(0x7f), 0]),
    ...section(2, [1, ...text("e"), ...text("m"), 2, 0, 1]),
    ...section(3, [2, 0, 0]),
    ...section(7, [2, ...text("row"), 0, 0, ...text("rows"), 0, 1]),
    ...section(10, [2, ...product(1), ...product(ROWS)]),
  ]);
}

/** A matrix (n, m) of a kernel. */
export class Matrix {
  /** @param {number} n @param {number} m @param {Float32Array} data in panels */
  constructor(n, m, data) {
    this.n = n;
    this.m = m;
    this.data = data;
  }

  /** Index of an entry in `data`. @param {number} i @param {number} j */
  at(i, j) {
    return ((j >> 3) * this.n + i) * PANEL + (j & 7);
  }

  /** @param {number} n @param {number} m */
  static size(n, m) {
    return n * PANEL * Math.ceil(m / PANEL);
  }
}

/** Memory for matrices and the products with them. */
export class Kernel {
  /**
   * @param {number} numbers of all matrices together
   * @param {number} widest n or m of any of them
   * @param {number} most rows of a product
   */
  constructor(numbers, widest, most) {
    this.stride = PANEL * Math.ceil(widest / PANEL);
    const rows = ROWS * Math.ceil(most / ROWS), total = numbers + 2 * rows * this.stride;
    this.most = most;
    this.used = 0;
    /** @type {any} */
    this.compiled = null;
    try {
      const memory = new WebAssembly.Memory({ initial: Math.ceil((4 * total) / PAGE) + 1 });
      const module = new WebAssembly.Module(assemble());
      this.compiled = new WebAssembly.Instance(module, { e: { m: memory } }).exports;
      this.memory = new Float32Array(memory.buffer);
    } catch {
      this.memory = new Float32Array(total);  // a browser without WebAssembly: slower
    }
    this.x = this.take(rows * this.stride);
    this.y = this.take(rows * this.stride);
  }

  /** @param {number} numbers */
  take(numbers) {
    const taken = this.memory.subarray(this.used, this.used + numbers);
    this.used += numbers;
    return taken;
  }

  /**
   * Keep a matrix.
   * @param {number} n
   * @param {number} m
   * @param {ArrayLike<number>} values (n, m)
   * @param {boolean} [isTransposed] they are (m, n)
   */
  matrix(n, m, values, isTransposed = false) {
    const made = new Matrix(n, m, this.take(Matrix.size(n, m)));
    for (let i = 0; i < n; i++)
      for (let j = 0; j < m; j++) made.data[made.at(i, j)] = values[isTransposed ? j * n + i : i * m + j];
    return made;
  }

  /**
   * The products of the first rows of `this.x`, each `this.stride` numbers apart, into `this.y`.
   * @param {Matrix} matrix
   * @param {number} rows
   */
  multiply(matrix, rows) {
    const { n, m, data } = matrix, stride = 4 * this.stride, width = PANEL * Math.ceil(m / PANEL);
    for (let r = 0; r < rows; r += ROWS) {
      const x = this.x.byteOffset + r * stride, y = this.y.byteOffset + r * stride;
      if (!this.compiled) this.plainly(matrix, r, Math.min(rows, r + ROWS));
      else if (rows === 1) this.compiled.row(data.byteOffset, x, y, n, width, stride, stride);
      else this.compiled.rows(data.byteOffset, x, y, n, width, stride, stride);
    }
  }

  /** @param {Matrix} matrix @param {number} from @param {number} to rows */
  plainly({ n, m, data }, from, to) {
    for (let r = from; r < to; r++) {
      const row = r * this.stride;
      for (let j = 0, at = 0; j < m; j += PANEL) {
        let a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
        for (let i = 0; i < n; i++, at += PANEL) {
          const x = this.x[row + i];
          a += x * data[at], b += x * data[at + 1], c += x * data[at + 2], d += x * data[at + 3];
          e += x * data[at + 4], f += x * data[at + 5], g += x * data[at + 6], h += x * data[at + 7];
        }
        this.y.set([a, b, c, d, e, f, g, h], row + j);
      }
    }
  }
}

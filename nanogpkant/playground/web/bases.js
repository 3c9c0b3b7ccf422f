/**
 * The one-dimensional functions of KAN layers: bases, families with parameters, base functions.
 * In double precision, as nanogpkant/kan/bases defines them.
 */

/** @typedef {{name: string, [setting: string]: any}} BasisSpec */
/** @typedef {{base: string, basis: BasisSpec}} FeatureSpec */
/** @typedef {{size: number, expand: (x: number, out: Float64Array) => void}} Basis */
/** @typedef {{numbers: number, value: (x: number, c: ArrayLike<number>, at: number) => number}} Family */

/** @param {number} x */
export function sigmoid(x) {
  return 1 / (1 + Math.exp(-x));
}

/**
 * The error function, to 1.2e-7 of 1 - erf. Source: the Chebyshev fit of Numerical Recipes, 6.2.
 * @param {number} x
 */
export function erf(x) {
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const terms = [
    0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418,
    0.37409196, 1.00002368,
  ];
  let sum = 0;
  for (const term of terms) sum = sum * t + term;
  const rest = t * Math.exp(-x * x - 1.26551223 + sum * t);
  return x >= 0 ? 1 - rest : rest - 1;
}

/** @param {number} x */
function gelu(x) {
  return 0.5 * x * (1 + erf(x / Math.SQRT2));
}

/** @param {number} x */
function geluTanh(x) {
  const near = Math.max(-30, Math.min(30, x));
  return x * sigmoid(2 * Math.sqrt(2 / Math.PI) * near * (1 + 0.044715 * near * near));
}

/** Functions by the name of a base function or an activation. @type {Record<string, (x: number) => number>} */
export const FUNCTIONS = {
  silu: (x) => x * sigmoid(x),
  gelu,
  gelu_tanh: geluTanh,
  even: (x) => gelu(x) - 0.5 * x,
  even_cosine: (x) => gelu(x) - 0.5 * x - 0.8 * Math.cos(x) - 0.7 * Math.cos(2 * x),
  relu2: (x) => (x > 0 ? x * x : 0),
  leaky_relu2: (x) => (x > 0 ? x * x : 0.25 * x * x),
  identity: (x) => x,
  none: () => 0,
};

/**
 * Grid points with `order` more on either side.
 * @param {BasisSpec} spec
 */
export function knotsOf(spec) {
  const { order } = spec, [low, high] = spec.grid_range;
  const points = spec.grid ?? Array.from({ length: spec.grid_size + 1 },
    (_, i) => (i === spec.grid_size ? high : low + (i * (high - low)) / spec.grid_size));
  const first = points[1] - points[0], last = points.at(-1) - points.at(-2);
  const knots = [];
  for (let i = order; i > 0; i--) knots.push(points[0] - i * first);
  knots.push(...points);
  for (let i = 1; i <= order; i++) knots.push(points.at(-1) + i * last);
  return knots;
}

/**
 * All B-splines on any knots at x, by the triangular scheme of de Boor's BSPLVB.
 * @param {number[]} t knots
 * @param {number} order
 * @param {number} x
 * @param {Float64Array} out (t.length - order - 1)
 */
function splines(t, order, x, out) {
  const size = t.length - order - 1;
  out.fill(0, 0, size);
  if (!(x >= t[0] && x < t[t.length - 1])) return;
  let low = 0, high = t.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x < t[middle]) high = middle;
    else low = middle;
  }
  const span = low, values = [1];
  // Knots beyond the ends, for intervals in which only some of the functions exist.
  const knot = (/** @type {number} */ i) =>
    i < 0 ? t[0] + i : i >= t.length ? t[t.length - 1] + (i - t.length + 1) : t[i];
  for (let degree = 1; degree <= order; degree++) {
    let saved = 0;
    for (let r = 0; r < degree; r++) {
      const right = knot(span + r + 1), left = knot(span + r + 1 - degree);
      const share = values[r] / (right - left);
      values[r] = saved + (right - x) * share;
      saved = (x - left) * share;
    }
    values.push(saved);
  }
  for (let r = 0; r <= order; r++) {
    const index = span - order + r;
    if (index >= 0 && index < size) out[index] = values[r];
  }
}

/**
 * @param {BasisSpec} spec
 * @returns {Basis}
 */
function bspline(spec) {
  const { order } = spec, t = knotsOf(spec), size = t.length - order - 1;
  const [low, high] = [t[order], t[t.length - 1 - order]];
  if (spec.outside !== "linear") return { size, expand: (x, out) => splines(t, order, x, out) };
  const lower = new Float64Array(size + 1);
  // Slopes of order 1 jump at the ends: there they are taken in the middle of the piece.
  const first = order === 1 ? (low + t[2]) / 2 : low;
  const last = order === 1 ? (high + t[t.length - 3]) / 2 : high;
  return {
    size,
    expand(x, out) {
      const inside = Math.max(low, Math.min(high, x));
      splines(t, order, inside, out);
      if (x === inside) return;
      splines(t, order - 1, Math.max(first, Math.min(last, x)), lower);
      for (let j = 0; j < size; j++) {
        const slope = (order * lower[j]) / (t[j + order] - t[j])
          - (order * lower[j + 1]) / (t[j + order + 1] - t[j + 1]);
        out[j] += slope * (x - inside);
      }
    },
  };
}

/** @type {Record<string, (spec: BasisSpec) => Basis>} */
const BASES = {
  bspline,
  hat: bspline,
  rbf(spec) {
    const [low, high] = spec.grid_range, step = (high - low) / spec.grid_size;
    return {
      size: spec.grid_size + 1,
      expand(x, out) {
        for (let k = 0; k <= spec.grid_size; k++) {
          const r = (x - low) / step - k;
          out[k] = Math.exp(-r * r);
        }
      },
    };
  },
  chebyshev(spec) {
    return {
      size: spec.degree,
      expand(x, out) {
        const u = Math.tanh(x);
        let before = 1, term = u;
        for (let k = 0; k < spec.degree; k++) {
          out[k] = term;
          [before, term] = [term, 2 * u * term - before];
        }
      },
    };
  },
  fourier(spec) {
    return {
      size: 2 * spec.frequencies,
      expand(x, out) {
        const cos = Math.cos(x), sin = Math.sin(x);
        for (let k = 0, c = cos, s = sin; k < spec.frequencies; k++) {
          out[k] = c;
          out[spec.frequencies + k] = s;
          [c, s] = [c * cos - s * sin, s * cos + c * sin];
        }
      },
    };
  },
};

/**
 * @param {BasisSpec} spec
 * @returns {Basis}
 */
export function makeBasis(spec) {
  return BASES[spec.name](spec);
}

/**
 * A family of functions with parameters; of a basis, the sums of a line and its functions.
 * @param {BasisSpec} spec
 * @returns {Family}
 */
export function makeFamily(spec) {
  if (spec.name === "line") return { numbers: 1, value: (x, c, at) => x * c[at] };
  if (spec.name === "rational") {
    const { degree } = spec, limit = 1e30 ** (1 / degree);
    return {
      numbers: 2 * degree,
      value(x, c, at) {
        const u = Math.max(-limit, Math.min(limit, x));
        let above = c[at + degree];
        for (let k = degree - 1; k >= 0; k--) above = above * u + c[at + k];
        if (degree === 1) return above;
        let below = c[at + 2 * degree - 1];
        for (let k = 2 * degree - 2; k > degree; k--) below = below * u + c[at + k];
        return above / (1 + Math.abs(u * below));
      },
    };
  }
  const basis = makeBasis(spec), values = new Float64Array(basis.size);
  return {
    numbers: 1 + basis.size,
    value(x, c, at) {
      basis.expand(x, values);
      let sum = x * c[at];
      for (let k = 0; k < basis.size; k++) sum += values[k] * c[at + 1 + k];
      return sum;
    },
  };
}

/**
 * The M features of the n inputs of a layer: nanogpkant/kan/features.py. Functions that were edited
 * stand in `replaced`, by function * groups + group.
 */
export class Features {
  /**
   * @param {FeatureSpec} spec
   * @param {number} inputs
   * @param {Float32Array | null} coefficients (functions, groups, numbers) of shared functions
   */
  constructor(spec, inputs, coefficients) {
    this.inputs = inputs;
    this.base = FUNCTIONS[spec.base];
    this.isShared = spec.basis.name === "shared";
    this.hasBase = spec.base !== "none" && !this.isShared;
    this.functions = this.isShared ? spec.basis.functions : 1;
    this.groups = this.isShared ? spec.basis.groups : 1;
    this.coefficients = coefficients;
    /** @type {Map<number, (x: number) => number>} */
    this.replaced = new Map();
    if (this.isShared) {
      this.family = makeFamily(spec.basis.family);
      this.size = this.functions;
    } else {
      this.basis = makeBasis(spec.basis);
      this.size = this.basis.size + Number(this.hasBase);
      this.values = new Float64Array(this.basis.size);
    }
  }

  /**
   * A shared function without edits, at x.
   * @param {number} number function * groups + group
   * @param {number} x
   */
  original(number, x) {
    const family = /** @type {Family} */ (this.family);
    const own = family.value(x, /** @type {Float32Array} */ (this.coefficients), number * family.numbers);
    return number < this.groups ? own + this.base(x) : own;
  }

  /**
   * The features of an edge of its own, at x.
   * @param {number} x
   * @param {Float64Array} out (M)
   */
  edge(x, out) {
    const basis = /** @type {Basis} */ (this.basis), first = Number(this.hasBase);
    const values = /** @type {Float64Array} */ (this.values);
    if (this.hasBase) out[0] = this.base(x);
    basis.expand(x, values);
    for (let k = 0; k < basis.size; k++) out[first + k] = values[k];
  }

  /**
   * (n) -> (M, n), at an offset of `out`.
   * @param {ArrayLike<number>} x
   * @param {number} from offset in x
   * @param {{[index: number]: number}} out
   * @param {number} to offset in out
   */
  expand(x, from, out, to) {
    const n = this.inputs;
    if (this.isShared) {
      const each = n / this.groups;
      for (let number = 0; number < this.functions * this.groups; number++) {
        const replaced = this.replaced.get(number), first = (number % this.groups) * each;
        const at = to + Math.floor(number / this.groups) * n;
        for (let i = first; i < first + each; i++)
          out[at + i] = replaced ? replaced(x[from + i]) : this.original(number, x[from + i]);
      }
      return;
    }
    const row = new Float64Array(this.size);
    for (let i = 0; i < n; i++) {
      this.edge(x[from + i], row);
      for (let m = 0; m < this.size; m++) out[to + m * n + i] = row[m];
    }
  }
}

/**
 * The slope of a function, by a central difference in double precision.
 * @param {(x: number) => number} f
 * @param {number} x
 */
export function slope(f, x) {
  const step = 1e-4;
  return (f(x + step) - f(x - step)) / (2 * step);
}

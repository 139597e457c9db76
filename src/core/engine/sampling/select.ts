/** The largest of many, without sorting them all. Every order here is: larger value first, then lower id. */

/** What `argmax` finds in a row of -∞. */
export const NONE = 0x7fffffff;

/** Index of the first logit from `from` on that is above `floor` or NaN, or the length. */
function firstAbove(logits: Float32Array, from: number, floor: number): number {
  let i = from;
  // Four at a time are three times as fast as one by one. NaN is not <= anything.
  for (const end = logits.length - 3; i < end; i += 4) {
    const noneAbove =
      logits[i]! <= floor && logits[i + 1]! <= floor && logits[i + 2]! <= floor && logits[i + 3]! <= floor;
    if (!noneAbove) break;
  }
  while (i < logits.length && logits[i]! <= floor) i++;
  return i;
}

/** Index of the first largest logit, or `-1 - index` of the first one that is NaN or +∞; `NONE` when all are -∞. */
export function argmax(logits: Float32Array): number {
  let best = Number.NEGATIVE_INFINITY;
  let at = NONE;
  for (let i = firstAbove(logits, 0, best); i < logits.length; i = firstAbove(logits, i + 1, best)) {
    if (!(logits[i]! < Number.POSITIVE_INFINITY)) return -1 - i;
    best = logits[i]!;
    at = i;
  }
  return at;
}

/** Token ids and a value each; in order only where a function promises it. */
export interface Candidates {
  readonly ids: Int32Array;
  readonly values: Float64Array;
  count: number;
}

export function createCandidates(capacity: number): Candidates {
  return { ids: new Int32Array(capacity), values: new Float64Array(capacity), count: 0 };
}

function before(c: Candidates, i: number, j: number): boolean {
  const a = c.values[i]!;
  const b = c.values[j]!;
  return a > b || (a === b && c.ids[i]! < c.ids[j]!);
}

function swap(c: Candidates, i: number, j: number): void {
  const id = c.ids[i]!;
  c.ids[i] = c.ids[j]!;
  c.ids[j] = id;
  const value = c.values[i]!;
  c.values[i] = c.values[j]!;
  c.values[j] = value;
}

/** Restores a heap whose root comes last in order, from `i` down. */
function siftDown(c: Candidates, i: number, count: number): void {
  for (;;) {
    let child = 2 * i + 1;
    if (child >= count) return;
    if (child + 1 < count && before(c, child, child + 1)) child++;
    if (!before(c, i, child)) return;
    swap(c, i, child);
    i = child;
  }
}

/**
 * The `k` largest logits into `out`, in order; -∞ is never among them. Returns `NONE` or, like `argmax`, `-1 - index` of
 * the first logit that is NaN or +∞. One comparison per logit plus O(log k) for each that enters the heap.
 */
export function selectTop(logits: Float32Array, k: number, out: Candidates): number {
  const { ids, values } = out;
  let count = 0;
  let floor = Number.NEGATIVE_INFINITY;
  for (let i = firstAbove(logits, 0, floor); i < logits.length; i = firstAbove(logits, i + 1, floor)) {
    const logit = logits[i]!;
    if (!(logit < Number.POSITIVE_INFINITY)) return -1 - i;
    if (count < k) {
      ids[count] = i;
      values[count] = logit;
      count++;
      if (count < k) continue;
      for (let root = (k >> 1) - 1; root >= 0; root--) siftDown(out, root, k);
    } else {
      ids[0] = i;
      values[0] = logit;
      siftDown(out, 0, k);
    }
    floor = values[0]!;
  }
  if (count < k) {
    for (let root = (count >> 1) - 1; root >= 0; root--) siftDown(out, root, count);
  }
  for (let end = count - 1; end > 0; end--) {
    swap(out, 0, end);
    siftDown(out, 0, end);
  }
  out.count = count;
  return NONE;
}

/** Moves the median of the first, middle and last entry to `low`: sorted input stays fast. */
function choosePivot(c: Candidates, low: number, high: number): void {
  const middle = (low + high) >> 1;
  if (before(c, middle, low)) swap(c, middle, low);
  if (before(c, high, middle)) {
    swap(c, high, middle);
    if (before(c, middle, low)) swap(c, middle, low);
  }
  swap(c, low, middle);
}

/** Splits `[low, high]` around the median of three of its entries; returns where that one ends up. */
function partition(c: Candidates, low: number, high: number): number {
  choosePivot(c, low, high);
  let left = low;
  let right = high + 1;
  for (;;) {
    while (before(c, ++left, low)) if (left === high) break;
    while (before(c, low, --right)) if (right === low) break;
    if (left >= right) break;
    swap(c, left, right);
  }
  swap(c, low, right);
  return right;
}

/** Moves the `k` first of order to the front, in no order among themselves, and drops the rest. Expected O(count). */
export function keepLargest(c: Candidates, k: number): void {
  if (k >= c.count) return;
  let low = 0;
  let high = c.count - 1;
  while (low < high) {
    const at = partition(c, low, high);
    if (at === k) break;
    if (at < k) low = at + 1;
    else high = at - 1;
  }
  c.count = k;
}

/**
 * Keeps the shortest run of first entries whose values reach `mass`: an entry stays while the sum before it is below
 * `mass`. At least one stays, in no order. Expected O(count).
 */
export function keepMass(c: Candidates, mass: number): void {
  let low = 0;
  let high = c.count - 1;
  let sumBefore = 0;
  while (low <= high && sumBefore < mass) {
    const at = low === high ? low : partition(c, low, high);
    let sum = sumBefore;
    for (let i = low; i < at; i++) sum += c.values[i]!;
    if (sum >= mass) {
      high = at - 1;
    } else {
      sumBefore = sum + c.values[at]!;
      low = at + 1;
    }
  }
  c.count = Math.max(1, low);
}

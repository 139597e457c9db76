/** Small seeded generator (mulberry32): the same numbers for every back-end. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** In [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  below(n: number): number {
    return Math.floor(this.next() * n);
  }

  /** About normal, mean 0, deviation `spread`. */
  normals(n: number, spread = 1): Float32Array {
    const out = new Float32Array(n);
    for (let i = 0; i < n; i++) {
      let sum = -6;
      for (let j = 0; j < 12; j++) sum += this.next();
      out[i] = sum * spread;
    }
    return out;
  }

  integers(n: number, below: number): Int32Array {
    return Int32Array.from({ length: n }, () => this.below(below));
  }

  shuffled(n: number): number[] {
    const list = Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [list[i], list[j]] = [list[j] as number, list[i] as number];
    }
    return list;
  }
}

import type { SamplingParams, TokenContext } from '../../src/core/engine/types.ts';

/** The rules of sampling written down plainly, in double precision, sorting everything. */
export function naiveDistribution(
  logits: ArrayLike<number>,
  context: TokenContext,
  p: SamplingParams,
  breakers: readonly number[],
): { probabilities: number[]; margin: number } {
  const z = Array.from(logits);
  const generated = Array.from(context.generated);
  const all = [...Array.from(context.prompt), ...generated];
  const vocab = z.length;

  const dry = p.dryParams;
  if (dry?.multiplier) {
    const longest = new Map<number, number>();
    for (let i = 0; i + 1 < all.length; i++) {
      if (all[i] !== all.at(-1) || breakers.includes(all[i + 1]!)) continue;
      let m = 1;
      while (m < 50 && i - m >= 0 && all[i - m] === all[all.length - 1 - m] && !breakers.includes(all[i - m]!)) m++;
      longest.set(all[i + 1]!, Math.max(m, longest.get(all[i + 1]!) ?? 0));
    }
    for (const [token, m] of longest) {
      const excess = m - (dry.allowedLength ?? 2);
      if (token < vocab && excess >= 0) z[token]! -= dry.multiplier * (dry.base ?? 1.75) ** excess;
    }
  }
  const seen = new Set(all);
  const counts = new Map<number, number>();
  for (const t of generated) counts.set(t, (counts.get(t) ?? 0) + 1);
  for (let t = 0; t < vocab; t++) {
    const count = counts.get(t) ?? 0;
    z[t]! -= count * (p.frequencyPenalty ?? 0) + (count > 0 ? (p.presencePenalty ?? 0) : 0);
    const r = p.repetitionPenalty ?? 1;
    if (seen.has(t)) z[t] = z[t]! > 0 ? z[t]! / r : z[t]! * r;
    z[t]! += p.logitsBias?.get(t) ?? 0;
  }

  const order = z.map((_, t) => t).sort((a, b) => z[b]! - z[a]! || a - b);
  const probabilities: number[] = new Array(vocab).fill(0);
  const gap = (i: number) => (i > 0 && i < vocab ? gapOf(z[order[i - 1]!]!, z[order[i]!]!) : 1);
  if ((p.temperature ?? 0) < 1e-7) {
    probabilities[order[0]!] = 1;
    return { probabilities, margin: gap(1) };
  }
  const w = order.map((t) => Math.exp((z[t]! - z[order[0]!]!) / p.temperature!));
  const topK = p.topK !== undefined && p.topK > 0 ? Math.min(p.topK, vocab) : vocab;
  const kept = w.slice(0, topK).reduce((s, x) => s + x, 0);
  const topP = p.topP !== undefined && p.topP > 0 && p.topP < 1 ? p.topP : undefined;
  const minP = p.minP !== undefined && p.minP > 0 && p.minP < 1 ? p.minP : 0;
  let margin = topK < vocab ? gap(topK) : 1;
  let before = 0;
  let count = 0;
  for (; count < topK; count++) {
    if (topP !== undefined && count > 0) {
      margin = Math.min(margin, Math.abs(before / kept - topP));
      if (before >= topP * kept) break;
    }
    if (minP > 0) margin = Math.min(margin, Math.abs(w[count]! - minP));
    if (count > 0 && w[count]! <= minP) break;
    before += w[count]!;
  }
  // Equal logits after rounding to float32 are ordered by id there, by their difference here.
  if (count < topK && count < vocab) margin = Math.min(margin, gap(count));
  const total = w.slice(0, count).reduce((s, x) => s + x, 0);
  for (let i = 0; i < count; i++) probabilities[order[i]!] = w[i]! / total;
  return { probabilities, margin };
}

function gapOf(a: number, b: number): number {
  return a === b ? 1 : Math.abs(a - b) || 1;
}

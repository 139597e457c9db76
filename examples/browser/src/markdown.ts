/**
 * The part of Markdown that answers use, as a tree; nothing of it is HTML. Made for text that is still growing: an open
 * fence or emphasis reads as what it is about to become.
 */
export type Inline =
  | { readonly kind: 'text' | 'code'; readonly text: string }
  | { readonly kind: 'strong' | 'em'; readonly children: readonly Inline[] }
  | { readonly kind: 'link'; readonly href: string; readonly children: readonly Inline[] };

export type Block = (
  | { readonly kind: 'paragraph'; readonly children: readonly Inline[] }
  | { readonly kind: 'heading'; readonly level: number; readonly children: readonly Inline[] }
  | { readonly kind: 'code'; readonly language: string; readonly text: string }
  | { readonly kind: 'list'; readonly ordered: boolean; readonly start: number; readonly items: readonly Block[][] }
  | { readonly kind: 'quote'; readonly blocks: readonly Block[] }
  | { readonly kind: 'rule' }
) & {
  /** The lines it was read from: blocks of equal source look equal. */
  readonly source: string;
};

/** Lists, quotes and emphasis within each other; deeper marks stay text. */
const MAX_DEPTH = 6;
/** Link texts and addresses. */
const MAX_LINK = 2000;

const FENCE = /^ {0,3}(```+|~~~+)\s*([^\s`]*)/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(\s+|$)(.*)$/;
const QUOTE = /^ {0,3}> ?(.*)$/;

export function parseMarkdown(text: string): readonly Block[] {
  return parseBlocks(text.split('\n'), 0);
}

function parseBlocks(lines: readonly string[], depth: number): Block[] {
  const blocks: Block[] = [];
  for (let at = 0; at < lines.length; ) {
    if (lines[at]!.trim() === '') {
      at++;
      continue;
    }
    const [block, next] = parseBlock(lines, at, depth);
    blocks.push({ ...block, source: lines.slice(at, next).join('\n') } as Block);
    at = next;
  }
  return blocks;
}

type Unsourced = Block extends infer B ? (B extends Block ? Omit<B, 'source'> : never) : never;

/** The block that starts at a line that is not empty, and the line behind it. */
function parseBlock(lines: readonly string[], at: number, depth: number): [Unsourced, number] {
  const line = lines[at]!;
  const fence = FENCE.exec(line);
  if (fence) return parseFence(lines, at, fence[1]!, fence[2]!);
  const heading = HEADING.exec(line);
  if (heading) {
    return [{ kind: 'heading', level: heading[1]!.length, children: parseInline(heading[2]!) }, at + 1];
  }
  if (RULE.test(line)) return [{ kind: 'rule' }, at + 1];
  if (depth < MAX_DEPTH) {
    if (ITEM.test(line)) return parseList(lines, at, depth);
    if (QUOTE.test(line)) {
      let end = at;
      while (end < lines.length && QUOTE.test(lines[end]!)) end++;
      const inner = lines.slice(at, end).map((l) => QUOTE.exec(l)![1]!);
      return [{ kind: 'quote', blocks: parseBlocks(inner, depth + 1) }, end];
    }
  }
  let end = at + 1;
  while (end < lines.length && !startsBlock(lines[end]!)) end++;
  const children = parseInline(lines.slice(at, end).join('\n').trim());
  return [{ kind: 'paragraph', children }, end];
}

function startsBlock(line: string): boolean {
  return line.trim() === '' || [FENCE, HEADING, RULE, ITEM, QUOTE].some((start) => start.test(line));
}

function parseFence(lines: readonly string[], at: number, mark: string, language: string): [Unsourced, number] {
  const closes = (line: string): boolean => line.trim().startsWith(mark) && /^[`~]+$/.test(line.trim());
  let end = at + 1;
  while (end < lines.length && !closes(lines[end]!)) end++;
  const text = lines.slice(at + 1, end).join('\n');
  return [{ kind: 'code', language, text }, Math.min(lines.length, end + 1)];
}

function parseList(lines: readonly string[], at: number, depth: number): [Unsourced, number] {
  const first = ITEM.exec(lines[at]!)!;
  const ordered = /\d/.test(first[2]!);
  const items: Block[][] = [];
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]!);
    if (!item || /\d/.test(item[2]!) !== ordered || RULE.test(lines[end]!)) break;
    const indent = item[1]!.length + item[2]!.length + 1;
    const inner = [item[4]!];
    end++;
    for (; end < lines.length; end++) {
      const line = lines[end]!;
      const blank = line.trim() === '';
      // An empty line belongs to the item when what follows is indented.
      const follows = blank ? (lines[end + 1] ?? '') : line;
      if (/^\s/.test(follows) && follows.trim() !== '') {
        inner.push(line.slice(Math.min(indent, line.length - line.trimStart().length)));
      } else if (blank || startsBlock(line)) break;
      else inner.push(line);
    }
    items.push(parseBlocks(inner, depth + 1));
    // Items may be parted by empty lines.
    let next = end;
    while (next < lines.length && lines[next]!.trim() === '') next++;
    if (next > end && ITEM.test(lines[next] ?? '')) end = next;
  }
  return [{ kind: 'list', ordered, start: ordered ? Number.parseInt(first[2]!, 10) : 1, items }, end];
}

export function parseInline(text: string, depth = 0): Inline[] {
  const out: Inline[] = [];
  let plain = '';
  const flush = (): void => {
    if (plain !== '') out.push({ kind: 'text', text: plain });
    plain = '';
  };
  for (let at = 0; at < text.length; ) {
    const found = depth < MAX_DEPTH ? inlineAt(text, at, depth) : undefined;
    if (found === undefined) {
      plain += text[at] === '\\' && /[\\`*_[\]]/.test(text[at + 1] ?? '') ? text[++at] : text[at];
      at++;
      continue;
    }
    flush();
    out.push(found.inline);
    at = found.end;
  }
  flush();
  return out;
}

function inlineAt(text: string, at: number, depth: number): { inline: Inline; end: number } | undefined {
  const c = text[at]!;
  if (c === '`') {
    const ticks = /^`+/.exec(text.slice(at, at + 8))![0];
    const close = text.indexOf(ticks, at + ticks.length);
    if (close < 0) return undefined;
    const code = text.slice(at + ticks.length, close).replace(/^ (.*) $/, '$1');
    return { inline: { kind: 'code', text: code }, end: close + ticks.length };
  }
  if (c === '*' || c === '_') {
    // An underscore within a word is part of a name.
    if (c === '_' && /\w/.test(text[at - 1] ?? '')) return undefined;
    const mark = text[at + 1] === c ? c + c : c;
    const start = at + mark.length;
    if (/^\s?$/.test(text[start] ?? '')) return undefined;
    let close = text.indexOf(mark, start + 1);
    // `**` is no end of `*`.
    while (mark.length === 1 && close >= 0 && text[close + 1] === c) close = text.indexOf(mark, close + 2);
    if (close < 0 || /\s/.test(text[close - 1]!)) return undefined;
    const children = parseInline(text.slice(start, close), depth + 1);
    return { inline: { kind: mark.length === 2 ? 'strong' : 'em', children }, end: close + mark.length };
  }
  if (c === '[') {
    const link = /^\[([^[\]]+)\]\(\s*(\S+?)\s*\)/.exec(text.slice(at, at + MAX_LINK));
    const href = link ? safeHref(link[2]!) : undefined;
    if (!link || href === undefined) return undefined;
    return { inline: { kind: 'link', href, children: parseInline(link[1]!, depth + 1) }, end: at + link[0].length };
  }
  return undefined;
}

/** Only addresses of the web: no `javascript:`, no `data:`. */
function safeHref(text: string): string | undefined {
  try {
    const url = new URL(text);
    return url.protocol === 'https:' || url.protocol === 'http:' ? url.href : undefined;
  } catch {
    return undefined;
  }
}

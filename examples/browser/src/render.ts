/** Markdown trees as elements. A growing answer is rendered again only from the block that changed. */
import { h } from './dom.ts';
import type { Block, Inline } from './markdown.ts';
import { parseMarkdown } from './markdown.ts';

export class MarkdownView {
  readonly element: HTMLElement;
  #shown: readonly Block[] = [];

  constructor(element: HTMLElement) {
    this.element = element;
  }

  update(text: string): void {
    const blocks = parseMarkdown(text);
    const { children } = this.element;
    let same = 0;
    while (same < blocks.length && blocks[same]!.source === this.#shown[same]?.source) same++;
    while (children.length > same) children[same]!.remove();
    for (const block of blocks.slice(same)) this.element.append(blockElement(block));
    this.#shown = blocks;
  }
}

function blockElement(block: Block): HTMLElement {
  switch (block.kind) {
    case 'paragraph':
      return h('p', {}, ...inlines(block.children));
    case 'heading':
      // Below the headings of the page.
      return h(block.level === 1 ? 'h3' : block.level === 2 ? 'h4' : 'h5', {}, ...inlines(block.children));
    case 'code':
      return codeElement(block.language, block.text);
    case 'list': {
      const items = block.items.map((item) => h('li', {}, ...itemChildren(item)));
      return block.ordered ? h('ol', { start: String(block.start) }, ...items) : h('ul', {}, ...items);
    }
    case 'quote':
      return h('blockquote', {}, ...block.blocks.map(blockElement));
    case 'rule':
      return h('hr');
  }
}

/** A paragraph that opens an item stands in it without one of its own. */
function itemChildren([first, ...rest]: readonly Block[]): Node[] {
  if (first === undefined) return [];
  const head = first.kind === 'paragraph' ? inlines(first.children) : [blockElement(first)];
  return [...head, ...rest.map(blockElement)];
}

function codeElement(language: string, text: string): HTMLElement {
  const copy = h('button', { type: 'button', class: 'quiet copy' }, 'Copy');
  copy.addEventListener('click', async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = 'Copied';
    setTimeout(() => (copy.textContent = 'Copy'), 1500);
  });
  const head = h('figcaption', {}, h('span', {}, language), copy);
  // A block that is wider than the page scrolls, also by keyboard.
  return h('figure', { class: 'code' }, head, h('pre', { tabindex: '0' }, h('code', {}, text)));
}

function inlines(children: readonly Inline[]): Node[] {
  return children.map(inlineNode);
}

function inlineNode(inline: Inline): Node {
  switch (inline.kind) {
    case 'text':
      return document.createTextNode(inline.text);
    case 'code':
      return h('code', {}, inline.text);
    case 'strong':
      return h('strong', {}, ...inlines(inline.children));
    case 'em':
      return h('em', {}, ...inlines(inline.children));
    case 'link':
      return h(
        'a',
        { href: inline.href, target: '_blank', rel: 'noopener noreferrer nofollow' },
        ...inlines(inline.children),
      );
  }
}

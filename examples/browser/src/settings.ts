/** What the panel's fields say, kept for the next visit. */
import { element } from './dom.ts';
import type { AskRequest, Device, Turn } from './protocol.ts';

const STORE = 'tramontane-demo';

const DEFAULTS = {
  temperature: '0.4',
  topP: '0.9',
  repetitionPenalty: '1.1',
  topK: '40',
  maxLen: '512',
  seed: '',
  contextLength: '4096',
} as const;

type Field = keyof typeof DEFAULTS;
const FIELDS = Object.keys(DEFAULTS) as readonly Field[];

export class Settings {
  constructor() {
    const saved = read();
    for (const name of FIELDS) this.#set(name, saved[name] ?? DEFAULTS[name]);
    const { system, theme, device } = saved;
    if (system !== undefined) systemField().value = system;
    if (device !== undefined) for (const radio of devices()) radio.checked = radio.value === device;
    themeField().value = theme ?? 'light dark';
    this.#applyTheme();
    document.getElementById('panel')?.addEventListener('input', () => this.#changed());
    element('reset').addEventListener('click', () => {
      for (const name of FIELDS) this.#set(name, DEFAULTS[name]);
      this.#changed();
    });
  }

  get device(): Device {
    return (devices().find((radio) => radio.checked)?.value ?? 'auto') as Device;
  }

  get contextLength(): number {
    return this.#number('contextLength');
  }

  get systemTurns(): readonly Turn[] {
    const content = systemField().value.trim();
    return content === '' ? [] : [{ role: 'system', content }];
  }

  /** Sampling of the next answer. */
  get request(): Pick<AskRequest, 'sampling' | 'seed'> {
    const seed = input('seed');
    return {
      sampling: {
        temperature: this.#number('temperature'),
        topP: this.#number('topP'),
        topK: this.#number('topK'),
        repetitionPenalty: this.#number('repetitionPenalty'),
        maxLen: this.#number('maxLen'),
      },
      seed: seed.value === '' ? undefined : this.#number('seed'),
    };
  }

  /** A field's number within its bounds: what was typed may be anything. */
  #number(name: Field): number {
    const { value, min, max, step } = input(name);
    const typed = value === '' ? Number.NaN : Number(value);
    const number = Number.isFinite(typed) ? typed : Number(DEFAULTS[name]);
    const bounded = Math.min(Number(max), Math.max(Number(min), number));
    return step === '1' ? Math.round(bounded) : bounded;
  }

  #set(name: Field, value: string): void {
    input(name).value = value;
    showOutput(name);
  }

  #changed(): void {
    for (const name of FIELDS) showOutput(name);
    this.#applyTheme();
    const values: Record<string, string> = {
      system: systemField().value,
      theme: themeField().value,
      device: this.device,
    };
    for (const name of FIELDS) values[name] = input(name).value;
    try {
      localStorage.setItem(STORE, JSON.stringify(values));
    } catch {
      // Storage is off or full: the settings last as long as the page.
    }
  }

  #applyTheme(): void {
    document.documentElement.style.colorScheme = themeField().value;
  }
}

function read(): Partial<Record<string, string>> {
  try {
    const values: unknown = JSON.parse(localStorage.getItem(STORE) ?? '{}');
    const entries = Object.entries(values ?? {}).filter(([, value]) => typeof value === 'string');
    return Object.fromEntries(entries) as Record<string, string>;
  } catch {
    return {};
  }
}

function showOutput(name: Field): void {
  const output = document.querySelector<HTMLOutputElement>(`output[for="${name}"]`);
  if (output) output.value = Number(input(name).value).toFixed(2);
}

function input(name: Field): HTMLInputElement {
  return element<HTMLInputElement>(name);
}

function systemField(): HTMLTextAreaElement {
  return element<HTMLTextAreaElement>('system');
}

function themeField(): HTMLSelectElement {
  return element<HTMLSelectElement>('theme');
}

function devices(): HTMLInputElement[] {
  return [...document.querySelectorAll<HTMLInputElement>('input[name="device"]')];
}

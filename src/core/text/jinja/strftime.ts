/** Dates as text, by the codes of C and Python, in English. */
import { Fault } from './fault.ts';

const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const MONTHS = 'January February March April May June July August September October November December'.split(' ');
const DAY_MS = 86_400_000;

/** Marks between `%` and the letter: no padding, padding with space or zeros, capitals, the other case; then a width. */
const CODE = /%([-_0^#]*)(\d*)[EO]?(.)?/gsu;
const MAX_WIDTH = 1000;

/** The time of a date as its own clock shows it. */
export function strftime(date: Date, format: string): string {
  return format.replace(CODE, (all, flags: string, width: string, letter?: string) => {
    if (letter === undefined) return all;
    const found = field(date, letter);
    if (found === undefined) return all;
    const columns = width === '' ? found.width : Number(width);
    if (columns > MAX_WIDTH) throw new Fault(`strftime: expected widths of at most ${MAX_WIDTH}, got ${columns}`);
    let fill: string = found.pad || ' ';
    for (const flag of flags) if (flag !== '^' && flag !== '#') fill = flag === '_' ? ' ' : flag === '0' ? '0' : '';
    const text = fill === '' ? found.text : found.text.padStart(columns, fill);
    if (flags.includes('^')) return text.toUpperCase();
    return flags.includes('#') ? (letter === 'p' || letter === 'Z' ? text.toLowerCase() : text.toUpperCase()) : text;
  });
}

interface Field {
  readonly text: string;
  /** What numbers are filled with; '' for words. */
  readonly pad: '0' | ' ' | '';
  readonly width: number;
}

function number(value: number, width: number, pad: '0' | ' ' = '0'): Field {
  return { text: String(value), pad, width };
}

function word(text: string): Field {
  return { text, pad: '', width: 0 };
}

function field(date: Date, letter: string): Field | undefined {
  const year = date.getFullYear();
  const weekday = date.getDay();
  const hour12 = date.getHours() % 12 || 12;
  switch (letter) {
    case 'a':
      return word((DAYS[weekday] as string).slice(0, 3));
    case 'A':
      return word(DAYS[weekday] as string);
    case 'b':
    case 'h':
      return word((MONTHS[date.getMonth()] as string).slice(0, 3));
    case 'B':
      return word(MONTHS[date.getMonth()] as string);
    case 'C':
      return number(Math.floor(year / 100), 2);
    case 'd':
      return number(date.getDate(), 2);
    case 'e':
      return number(date.getDate(), 2, ' ');
    case 'f':
      return word(String(date.getMilliseconds() * 1000).padStart(6, '0'));
    case 'G':
      return number(isoWeek(date).year, 0);
    case 'g':
      return number(isoWeek(date).year % 100, 2);
    case 'H':
      return number(date.getHours(), 2);
    case 'I':
      return number(hour12, 2);
    case 'j':
      return number(dayOfYear(date) + 1, 3);
    case 'k':
      return number(date.getHours(), 2, ' ');
    case 'l':
      return number(hour12, 2, ' ');
    case 'm':
      return number(date.getMonth() + 1, 2);
    case 'M':
      return number(date.getMinutes(), 2);
    case 'p':
      return word(date.getHours() < 12 ? 'AM' : 'PM');
    case 'P':
      return word(date.getHours() < 12 ? 'am' : 'pm');
    case 's':
      return number(Math.floor(date.getTime() / 1000), 0);
    case 'S':
      return number(date.getSeconds(), 2);
    case 'u':
      return number(weekday || 7, 1);
    case 'U':
      return number(Math.floor((dayOfYear(date) + 7 - weekday) / 7), 2);
    case 'V':
      return number(isoWeek(date).week, 2);
    case 'w':
      return number(weekday, 1);
    case 'W':
      return number(Math.floor((dayOfYear(date) + 7 - ((weekday + 6) % 7)) / 7), 2);
    case 'y':
      return number(year % 100, 2);
    case 'Y':
      return number(year, 0);
    case 'n':
      return word('\n');
    case 't':
      return word('\t');
    case '%':
      return word('%');
    // A time without a zone has none of these.
    case 'z':
    case 'Z':
      return word('');
  }
  const pattern = COMPOSED[letter];
  return pattern === undefined ? undefined : word(strftime(date, pattern));
}

const COMPOSED: Readonly<Record<string, string>> = {
  c: '%a %b %e %H:%M:%S %Y',
  D: '%m/%d/%y',
  F: '%Y-%m-%d',
  r: '%I:%M:%S %p',
  R: '%H:%M',
  T: '%H:%M:%S',
  x: '%m/%d/%y',
  X: '%H:%M:%S',
};

/** Days since the first of January; summer time does not count. */
function dayOfYear(date: Date): number {
  return Math.round(
    (Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) - Date.UTC(date.getFullYear(), 0, 1)) / DAY_MS,
  );
}

/** Weeks begin on Monday and belong to the year that has their Thursday. */
function isoWeek(date: Date): { readonly year: number; readonly week: number } {
  const thursday = new Date(date.getFullYear(), date.getMonth(), date.getDate() + 4 - (date.getDay() || 7));
  return { year: thursday.getFullYear(), week: Math.floor(dayOfYear(thursday) / 7) + 1 };
}

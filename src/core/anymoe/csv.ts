import { FormatError } from '../errors.ts';

/**
 * Rows of a text of comma-separated values (RFC 4180): quoted cells may hold commas, line ends and doubled quotes. Empty
 * lines are left out. Throws `FormatError` for quotes that do not end or stand within a cell, and beyond `maxRows` rows.
 */
export function parseCsv(text: string, name: string, maxRows: number): string[][] {
  const rows: string[][] = [];
  let row: string[] = [];
  let at = text.charCodeAt(0) === 0xfeff ? 1 : 0;
  const wrong = (expected: string) => new FormatError(`${name}: row ${rows.length + 1}: expected ${expected}`);
  while (at < text.length) {
    let cell = '';
    if (text[at] === '"') {
      for (;;) {
        const end = text.indexOf('"', at + 1);
        if (end < 0) throw wrong('a quote at the end of a cell, got none');
        cell += text.slice(at + 1, end);
        at = end + 1;
        if (text[at] !== '"') break;
        cell += '"';
      }
    } else {
      const rest = /[,\r\n]/g;
      rest.lastIndex = at;
      const end = rest.exec(text)?.index ?? text.length;
      cell = text.slice(at, end);
      if (cell.includes('"')) throw wrong('quotes around a whole cell, got one within');
      at = end;
    }
    row.push(cell);
    const next = text[at];
    if (next === ',') {
      at++;
      if (at < text.length) continue;
      row.push('');
    } else if (next !== undefined && next !== '\n' && next !== '\r') {
      throw wrong(`a comma behind a cell, got ${JSON.stringify(next)}`);
    }
    at += next === '\r' && text[at + 1] === '\n' ? 2 : 1;
    if (row.length > 1 || row[0] !== '') rows.push(row);
    if (rows.length > maxRows) throw wrong(`at most ${maxRows} rows`);
    row = [];
  }
  return rows;
}

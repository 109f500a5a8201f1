// JSON without loss: integers that a JavaScript number would round are kept as they are written.

/** An integer, or another number, as it was written. */
export class Digits {
  constructor(text) {
    this.text = text;
  }
  toString() {
    return this.text;
  }
}

const MARK = '\u0000digits';
const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const INTEGER = /^-?\d{16,}$/;

export function parse(text) {
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  const marked = text.replace(TOKEN, (token) => (INTEGER.test(token) ? `{"\\u0000digits":"${token}"}` : token));
  return JSON.parse(marked, (_, value) => {
    const digits = value !== null && typeof value === 'object' ? value[MARK] : undefined;
    return typeof digits === 'string' && INTEGER.test(digits) ? new Digits(digits) : value;
  });
}

/** With `indent`, laid out for people. */
export function stringify(value, indent = '', at = '') {
  if (value instanceof Digits) return value.text;
  if (value === null || typeof value !== 'object') return JSON.stringify(value) ?? 'null';
  const inner = at + indent;
  const wrap = (open, items, close) => {
    if (items.length === 0) return open + close;
    const flat = open + items.join(indent ? ', ' : ',') + close;
    if (!indent || (flat.length <= 60 && !flat.includes('\n'))) return flat;
    return `${open}\n${inner}${items.join(`,\n${inner}`)}\n${at}${close}`;
  };
  if (Array.isArray(value)) return wrap('[', value.map((item) => stringify(item, indent, inner)), ']');
  const fields = Object.entries(value).filter(([, field]) => field !== undefined);
  const colon = indent ? ': ' : ':';
  return wrap('{', fields.map(([name, field]) => JSON.stringify(name) + colon + stringify(field, indent, inner)), '}');
}

export const pretty = (value) => stringify(value, '  ');

// Elements, built so that text can only ever be text: nothing here parses HTML, and every text that is
// shown has been through `clean`.

/** Longest text shown in one place, logs aside; guests choose the length of theirs. */
const TEXT_MOST = 4000;
/** The same where it is laid out in lines. */
const PRE_MOST = 100_000;

// Escape sequences of terminals: CSI, terminated strings (OSC, DCS, …), and any other escape.
const ANSI = new RegExp(
  [
    '(?:\\u001b\\[|\\u009b)[0-?]*[ -/]*[@-~]',
    '(?:\\u001b[\\]PX^_]|[\\u0090\\u0098\\u009d-\\u009f])[^\\u0007\\u001b\\u009c\\n]{0,4096}(?:\\u0007|\\u001b\\\\|\\u009c)',
    '\\u001b[ -/]*[0-~]?',
  ].join('|'),
  'g',
);
const BIDI = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\ufeff]/g;
const CONTROLS_BUT_LINES = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\ufeff]/g;

/** Text as it may be shown: no escapes, no control characters, no marks that reorder it. */
export function clean(text, { lines = false, most = TEXT_MOST } = {}) {
  let shown = String(text ?? '');
  const cut = shown.length > most;
  if (cut) shown = shown.slice(0, most);
  shown = shown.replace(ANSI, '').replace(BIDI, '');
  shown = lines
    ? shown.replace(/\r\n?/g, '\n').replace(CONTROLS_BUT_LINES, '')
    : shown.replace(/[\n\r\t]+/g, ' ').replace(CONTROLS, '');
  return cut ? `${shown} … [cut]` : shown;
}

/** Attributes that people see or hear. */
const SPOKEN = /^(title|placeholder|alt|label|aria-label|aria-valuetext|aria-description|data-label)$/;
/** What is set as a property: the attribute of the same name means something else. */
const PROPERTIES = new Set(['value', 'checked', 'disabled', 'hidden', 'open', 'selected', 'indeterminate', 'readOnly', 'multiple']);

function set(element, name, value) {
  if (value === null || value === undefined) return;
  if (name.startsWith('on')) {
    element.addEventListener(name.slice(2), value);
  } else if (PROPERTIES.has(name)) {
    element[name] = value;
  } else if (value !== false) {
    if (name === 'href' && !/^(#|\/(?!\/))/.test(value)) throw new Error('a link leads to a place of this page');
    element.setAttribute(name, value === true ? '' : SPOKEN.test(name) ? clean(value, { most: 500 }) : String(value));
  }
}

function fill(element, children) {
  const lines = element.localName === 'pre';
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : clean(child, lines ? { lines, most: PRE_MOST } : {}));
  }
  return element;
}

function make(element, classes, rest) {
  const plain = rest[0] !== null && typeof rest[0] === 'object' && !Array.isArray(rest[0]) && !(rest[0] instanceof Node);
  const props = plain ? rest[0] : {};
  if (classes.length > 0) element.setAttribute('class', classes.join(' '));
  for (const [name, value] of Object.entries(props)) set(element, name, value);
  return fill(element, plain ? rest.slice(1) : rest);
}

/** `h('p.note', { title: 'why' }, 'text', node, [more])`. Functions named `on…` are listeners. */
export function h(tag, ...rest) {
  const [name, ...classes] = tag.split('.');
  return make(document.createElement(name), classes, rest);
}

/** The same for SVG. */
export function svg(tag, ...rest) {
  const [name, ...classes] = tag.split('.');
  return make(document.createElementNS('http://www.w3.org/2000/svg', name), classes, rest);
}

/** Gives an element these children instead of its own. */
export function replace(element, ...children) {
  element.replaceChildren();
  return fill(element, children);
}

/** Sets a text only if it is another, so that nothing is laid out or announced for nothing. */
export function setText(element, text) {
  const shown = clean(text);
  if (element.textContent !== shown) element.textContent = shown;
}

let ids = 0;
/** An id for what a label or a description points to. */
export const newId = (prefix) => `${prefix}-${(ids += 1)}`;

/** Code, ids, signatures. */
export const code = (text) => h('code', text);

/** Text with the parts between backticks as code, as the API writes its messages. */
export function withCode(text) {
  const parts = clean(text).split('`');
  // An odd backtick is one that was meant.
  if (parts.length % 2 === 0) return [parts.join('`')];
  return parts.map((part, at) => (at % 2 === 1 ? code(part) : part));
}

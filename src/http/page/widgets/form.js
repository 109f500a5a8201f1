// Fields made from WIT types. A field has a `node`, `read()` (throws FieldError) and `write(value)`
// (throws if the value is not of its type). How JSON maps to types is said in src/sandbox/value.rs.

import { h, newId, replace } from '../dom.js';
import { Digits, parse, pretty } from '../json.js';
import { busy } from './feedback.js';

/** A value that cannot be sent, and the input that has it. */
export class FieldError extends Error {
  constructor(message, input) {
    super(message);
    this.input = input;
  }
}

const unfit = () => new Error('the value is not of this type');

/** An input with its label, a hint, and a place for what is wrong with it. */
export function labelled(label, input, { hint, type } = {}) {
  const id = newId('field');
  const error = h('p.field-error', { id: `${id}-error`, role: 'alert' });
  input.id = id;
  input.setAttribute('aria-describedby', `${id}-error${hint ? ` ${id}-hint` : ''}`);
  input.addEventListener('input', () => mark(''));
  const mark = (message) => {
    error.textContent = message;
    if (message) input.setAttribute('aria-invalid', 'true');
    else input.removeAttribute('aria-invalid');
  };
  input.complain = mark;
  return h('div.field', h('label', { for: id }, label, type && [' ', h('code.type', type)]), input, hint && h('p.hint', { id: `${id}-hint` }, hint), error);
}

/** Shows what is wrong beside its input, and goes there. */
export function complain(error) {
  error.input.complain?.(error.message);
  reach(error.input);
}

/** Goes to an input, however it is folded away. */
export function reach(input) {
  for (let around = input.parentElement; around; around = around.parentElement) {
    if (around instanceof HTMLDetailsElement) around.open = true;
  }
  input.focus();
}

export function select(options, value) {
  const node = h('select', options.map(([name, text]) => h('option', { value: name, selected: name === value }, text)));
  return node;
}

const RANGES = { s8: 7, s16: 15, s32: 31, s64: 63, u8: 8, u16: 16, u32: 32, u64: 64 };

function integerField(kind, label) {
  const bits = BigInt(RANGES[kind]);
  const [least, most] = kind[0] === 'u' ? [0n, (1n << bits) - 1n] : [-(1n << bits), (1n << bits) - 1n];
  const input = h('input', { type: 'text', inputmode: 'numeric', autocomplete: 'off', spellcheck: 'false', value: '0' });
  return {
    node: labelled(label, input, { type: kind }),
    read() {
      const text = input.value.trim();
      if (!/^-?\d{1,24}$/.test(text)) throw new FieldError('a whole number, please', input);
      const value = BigInt(text);
      if (value < least || value > most) throw new FieldError(`from ${least} to ${most}`, input);
      return new Digits(String(value));
    },
    write(value) {
      if (!(value instanceof Digits) && typeof value !== 'number' && !/^-?\d+$/.test(value)) throw unfit();
      input.value = String(value);
    },
  };
}

function floatField(kind, label) {
  const input = h('input', { type: 'text', inputmode: 'decimal', autocomplete: 'off', value: '0' });
  return {
    node: labelled(label, input, { type: kind }),
    read() {
      const text = input.value.trim();
      if (!/^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/.test(text)) throw new FieldError('a number such as 1.5, please', input);
      return new Digits(text);
    },
    write(value) {
      if (!(value instanceof Digits) && typeof value !== 'number') throw unfit();
      input.value = String(value);
    },
  };
}

function textField(kind, label) {
  const char = kind === 'char';
  const input = char ? h('input', { type: 'text', autocomplete: 'off' }) : h('textarea', { rows: 1, spellcheck: 'false' });
  return {
    node: labelled(label, input, { type: kind }),
    read() {
      if (char && [...input.value].length !== 1) throw new FieldError('one character, please', input);
      return input.value;
    },
    write(value) {
      if (typeof value !== 'string') throw unfit();
      input.value = value;
      if (value.includes('\n')) input.rows = Math.min(10, value.split('\n').length);
    },
  };
}

function check(label, type) {
  const input = h('input', { type: 'checkbox' });
  return { input, node: h('label.check', input, h('span', label, type && [' ', h('code.type', type)])) };
}

function boolField(label) {
  const { input, node } = check(label, 'bool');
  return {
    node: h('div.field', node),
    read: () => input.checked,
    write(value) {
      if (typeof value !== 'boolean') throw unfit();
      input.checked = value;
    },
  };
}

/** A group of fields under a name. */
const group = (label, type, ...inner) => h('fieldset', h('legend', label, type && [' ', h('code.type', type)]), inner);

function listField(of, label, depth) {
  const items = h('ol.items');
  const fields = new Map();
  const add = (value) => {
    const field = fieldOf(of, 'item', depth + 1);
    if (value !== undefined) field.write(value);
    const item = h('li', field.node, h('button.quiet.small', { type: 'button', onclick: () => (fields.delete(item), item.remove(), more.focus()) }, 'Remove'));
    fields.set(item, field);
    items.append(item);
    return item;
  };
  const more = h('button.small', { type: 'button', onclick: () => add().querySelector('input, textarea, select')?.focus() }, 'Add an item');
  return {
    node: group(label, 'list', items, more),
    read: () => [...items.children].map((item) => fields.get(item).read()),
    write(value) {
      if (!Array.isArray(value)) throw unfit();
      fields.clear();
      items.replaceChildren();
      value.forEach(add);
    },
  };
}

function bytesField(label) {
  const input = h('textarea', { rows: 1, spellcheck: 'false' });
  return {
    node: labelled(label, input, { type: 'list<u8>', hint: 'as base64' }),
    read() {
      const text = input.value.replace(/\s/g, '');
      if (!/^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(text)) throw new FieldError('this is no base64', input);
      return text;
    },
    write(value) {
      if (Array.isArray(value)) input.value = btoa(String.fromCharCode(...value));
      else if (typeof value === 'string') input.value = value;
      else throw unfit();
    },
  };
}

function recordField(parts, label, depth) {
  const fields = parts.map(({ name, type }) => [name, fieldOf(type, name, depth + 1)]);
  return {
    node: group(label, 'record', fields.map(([, field]) => field.node)),
    read: () => Object.fromEntries(fields.map(([name, field]) => [name, field.read()])),
    write(value) {
      if (value === null || typeof value !== 'object' || Array.isArray(value) || value instanceof Digits) throw unfit();
      for (const [name, field] of fields) field.write(value[name] ?? null);
    },
  };
}

function tupleField(types, label, depth) {
  const fields = types.map((type, at) => fieldOf(type, String(at + 1), depth + 1));
  return {
    node: group(label, 'tuple', fields.map((field) => field.node)),
    read: () => fields.map((field) => field.read()),
    write(value) {
      if (!Array.isArray(value) || value.length !== fields.length) throw unfit();
      fields.forEach((field, at) => field.write(value[at]));
    },
  };
}

/** A choice of cases, of which some have a value. `wrap(name, value)` is the choice as JSON. */
function caseField(kind, cases, label, depth, wrap) {
  const choice = select(cases.map(({ name }) => [name, name]));
  const place = h('div.nested');
  let field = null;
  const show = () => {
    const { type } = cases.find(({ name }) => name === choice.value);
    field = type ? fieldOf(type, choice.value, depth + 1) : null;
    replace(place, field?.node);
  };
  choice.addEventListener('change', show);
  show();
  return {
    node: h('div.field', labelled(label, choice, { type: kind }), place),
    read: () => wrap(choice.value, field === null ? null : field.read(), field !== null),
    write(value) {
      const [name, inner] = typeof value === 'string' ? [value, null] : (Object.entries(value ?? {})[0] ?? []);
      if (!cases.some((one) => one.name === name)) throw unfit();
      choice.value = name;
      show();
      field?.write(inner);
    },
  };
}

function flagsField(names, label) {
  const checks = names.map((name) => [name, check(name)]);
  return {
    node: group(label, 'flags', h('div.checks', checks.map(([, { node }]) => node))),
    read: () => checks.filter(([, { input }]) => input.checked).map(([name]) => name),
    write(value) {
      if (!Array.isArray(value)) throw unfit();
      for (const [name, { input }] of checks) input.checked = value.includes(name);
    },
  };
}

function optionField(of, label, depth) {
  const { input, node } = check(`${label}: give it`, 'option');
  const place = h('div.nested');
  const field = fieldOf(of, label, depth + 1);
  const show = () => replace(place, input.checked && field.node);
  input.addEventListener('change', show);
  const nested = of.kind === 'option';
  return {
    node: h('div.field', node, place),
    read() {
      if (!input.checked) return null;
      return nested ? { some: field.read() } : field.read();
    },
    write(value) {
      input.checked = value !== null && value !== undefined;
      if (input.checked) field.write(nested ? value.some : value);
      show();
    },
  };
}

/** Types within each other that get fields; what is deeper is written as JSON. */
const DEPTH_MOST = 8;

/** A value of any type, as JSON. */
function jsonField(label, kind) {
  const input = h('textarea.mono', { rows: 2, spellcheck: 'false', value: 'null' });
  return {
    node: labelled(label, input, { type: kind, hint: 'as JSON' }),
    read() {
      try {
        return parse(input.value);
      } catch (error) {
        throw new FieldError(`this is no JSON: ${error.message}`, input);
      }
    },
    write(value) {
      input.value = pretty(value);
    },
  };
}

/** The field of a type. */
export function fieldOf(type, label, depth = 0) {
  if (depth > DEPTH_MOST) return jsonField(label, type.kind);
  switch (type.kind) {
    case 'bool':
      return boolField(label);
    case 'f32':
    case 'f64':
      return floatField(type.kind, label);
    case 'char':
    case 'string':
      return textField(type.kind, label);
    case 'list':
      return type.of.kind === 'u8' ? bytesField(label) : listField(type.of, label, depth);
    case 'record':
      return recordField(type.fields, label, depth);
    case 'tuple':
      return tupleField(type.items, label, depth);
    case 'variant':
      return caseField('variant', type.cases, label, depth, (name, value, has) => (has ? { [name]: value } : name));
    case 'enum':
      return caseField('enum', type.names.map((name) => ({ name })), label, depth, (name) => name);
    case 'result':
      return caseField('result', [{ name: 'ok', type: type.ok }, { name: 'err', type: type.err }], label, depth, (name, value) => ({ [name]: value }));
    case 'flags':
      return flagsField(type.names, label);
    case 'option':
      return optionField(type.of, label, depth);
    default:
      return type.kind in RANGES ? integerField(type.kind, label) : jsonField(label, type.kind);
  }
}

/** Fields for the parameters of a function, as { args, kwargs }. */
function paramFields({ params, command }) {
  if (command) {
    const argv = fieldOf({ kind: 'list', of: { kind: 'string' } }, 'arguments');
    return { node: argv.node, read: () => ({ args: argv.read(), kwargs: {} }), write: ({ args }) => argv.write(args) };
  }
  const fields = params.map(({ name, type }) => [name, fieldOf(type, name)]);
  return {
    node: fields.length > 0 ? fields.map(([, field]) => field.node) : h('p.dim', 'It takes no arguments.'),
    read: () => ({ args: [], kwargs: Object.fromEntries(fields.map(([name, field]) => [name, field.read()])) }),
    write({ args, kwargs }) {
      if (args.length > fields.length || Object.keys(kwargs).some((name) => !params.some((param) => param.name === name))) throw unfit();
      fields.forEach(([name, field], at) => {
        const value = at < args.length ? args[at] : kwargs[name];
        if (value !== undefined) field.write(value);
      });
    },
  };
}

/** All arguments as JSON: for those who have them so, and for functions whose types are not known. */
function jsonArguments() {
  const field = jsonField('arguments', 'array or object');
  field.write({});
  return {
    node: field.node,
    read() {
      const value = field.read();
      if (Array.isArray(value)) return { args: value, kwargs: {} };
      if (value !== null && typeof value === 'object' && !(value instanceof Digits)) return { args: [], kwargs: value };
      throw new FieldError('an array (by position) or an object (by name)', field.node.querySelector('textarea'));
    },
    write({ args, kwargs }) {
      if (args.length > 0 && Object.keys(kwargs).length > 0) throw unfit();
      field.write(args.length > 0 ? args : kwargs);
    },
  };
}

/**
 * The arguments of a function, as fields or, by a switch, as JSON; what was entered goes along.
 * `given` is { args, kwargs } to begin with. Without `func` there is only JSON.
 */
export class ArgumentsForm {
  node = h('div.arguments');

  constructor(func, given) {
    this.func = func;
    this.use(func ? 'fields' : 'json', given);
  }

  use(mode, given) {
    let form = mode === 'fields' ? paramFields(this.func) : jsonArguments();
    try {
      if (given) form.write(given);
    } catch {
      // What does not fit the types can still be seen and mended as JSON.
      [mode, form] = ['json', jsonArguments()];
      form.write(given);
    }
    this.form = form;
    const other = mode === 'fields' ? 'json' : 'fields';
    const swap = this.func && h('button.quiet.small', { type: 'button', onclick: () => this.swap(other) }, other === 'json' ? 'Write them as JSON' : 'Fill in fields');
    replace(this.node, form.node, swap);
  }

  swap(mode) {
    try {
      this.use(mode, this.form.read());
    } catch (error) {
      if (!(error instanceof FieldError)) throw error;
      complain(error);
    }
  }

  read() {
    return this.form.read();
  }
}

/** What fields say; undefined after showing what is wrong with one. */
export function readFields(read) {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof FieldError)) throw error;
    complain(error);
    return undefined;
  }
}

/** What a form does that is sent: reads its fields and, if they are right, sends what they say. */
export function sending({ button, slot, read, send }) {
  return async (event) => {
    event.preventDefault();
    await busy(button, async () => {
      const given = readFields(read);
      if (given !== undefined) await send(given);
    }, slot);
  };
}

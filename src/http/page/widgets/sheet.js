// The permission sheet of a plugin: what it asks for, what it has, what is missing; and the form that
// grants. What can do harm comes first, what cannot is folded away.

import * as api from '../api.js';
import { code, h, newId } from '../dom.js';
import { icon } from '../icons.js';
import { exactBytes } from '../words.js';
import { ProblemSlot, toast } from './feedback.js';
import { FieldError, labelled, sending } from './form.js';

/** How much a directory may hold, as the API writes it. */
const QUOTA = /:(\d+)$/;

/** The kinds of grants, the most dangerous first. `of` lists what is granted. */
const KINDS = [
  {
    capability: 'secrets',
    title: 'Secrets',
    risk: 'It can read the secrets that are named, or have them sent to one host without seeing them.',
    of: (grants) => grants.secrets ?? [],
  },
  {
    capability: 'files',
    title: 'Directories of this machine',
    risk: 'It can read the directories that are named, and write where it says rw.',
    of: (grants) => (grants.dirs ?? []).map((dir) => dir.replace(QUOTA, (_, number) => `:${exactBytes(number).replace(/(?=[KMG]?i?B$)/, ' ')}`)),
    asked: (imported) => imported.some(({ name }) => name.startsWith('wasi:filesystem/')),
  },
  {
    capability: 'http',
    title: 'Outgoing HTTP',
    risk: 'It can send what it knows to the hosts that are named, and only to those.',
    of: (grants) => grants.http ?? [],
  },
  {
    capability: 'env',
    title: 'Environment variables',
    risk: 'It can read the variables that are named.',
    of: (grants) => Object.entries(grants.env ?? {}).map(([name, value]) => `${name}=${value}`),
    asked: (imported) => imported.some(({ name }) => name.startsWith('wasi:cli/environment')),
  },
  {
    capability: 'state',
    title: 'A state of its own',
    risk: 'It can keep keys and values from run to run, each job its own.',
    of: (grants) => (grants.state ? ['for each job'] : []),
  },
];

/** What one version asks for, and what stands in the way of its jobs. */
export function missingOf(version) {
  if (version.audit) return [];
  const needed = new Set(version.imports.map(({ needs }) => needs).filter(Boolean));
  return KINDS.filter(({ capability, of }) => needed.has(capability) && of(version.grants ?? {}).length === 0).map(({ capability }) => capability);
}

const isNeeded = (kind, version) => version.imports.some(({ needs }) => needs === kind.capability);

/** Whether a version can use grants of this kind, or has some. */
const concerns = (kind, version) => isNeeded(kind, version) || Boolean(kind.asked?.(version.imports)) || kind.of(version.grants ?? {}).length > 0;

function permission(kind, version) {
  if (!concerns(kind, version)) return null;
  const granted = kind.of(version.grants ?? {});
  const needed = isNeeded(kind, version);
  const state = granted.length > 0 ? ['granted', 'warn'] : needed ? (version.audit ? ['watched, denied', 'none'] : ['missing', 'bad']) : ['none granted', 'none'];
  return h(
    'li.permission',
    h('div.row.between', h('h3', kind.title), h('span.badge', { 'data-tone': state[1] }, h('span.mark', { 'data-grant': state[0], 'aria-hidden': 'true' }), state[0])),
    h('p.dim', kind.risk),
    granted.length > 0 && h('ul.plain', granted.map((one) => h('li', code(one)))),
    state[0] === 'missing' && h('p', 'It asks for this, and cannot be scheduled before it is granted.'),
    state[0] === 'none granted' && h('p.dim', 'It can ask, and finds nothing there.'),
  );
}

/** The sheet of one version. */
export function sheet(version) {
  const harmful = KINDS.map((kind) => permission(kind, version)).filter(Boolean);
  const harmless = new Map();
  for (const { name, asks_for: words, needs } of version.imports) {
    if (needs || /^(environment|files|arguments; env)/.test(words)) continue;
    harmless.set(words, [...(harmless.get(words) ?? []), name]);
  }
  return h(
    'div.sheet',
    harmful.length > 0 ? h('ul.plain.permissions', harmful) : h('p.note.ok', 'It asks for nothing that could do harm.'),
    harmless.size > 0 &&
      h(
        'details',
        h('summary', `Harmless, and given to every plugin (${harmless.size})`),
        h('ul.plain.harmless', [...harmless].map(([words, names]) => h('li', words, ' ', h('span.dim', names.map((name) => [code(name), ' ']))))),
      ),
  );
}

const lines = (text) => text.split('\n').map((line) => line.trim()).filter(Boolean);

function list(label, values, hint) {
  const input = h('textarea.mono', { rows: Math.max(2, values.length + 1), spellcheck: 'false', value: values.join('\n') });
  return { input, node: labelled(label, input, { hint }) };
}

/** The form that says what a version is granted from now on. `done` hears what the API answers. */
export function grantForm(name, version, done) {
  const grants = version.grants ?? {};
  const secrets = list('Secrets', grants.secrets ?? [], 'One a line: NAME to be read, NAME@HOST to be sent to that host unseen');
  const dirs = list('Directories', (grants.dirs ?? []).map((dir) => dir.replace(QUOTA, (_, number) => `:${exactBytes(number)}`)), 'One a line: /host/dir:/guest/dir, read-only unless :rw follows; :100MiB limits it');
  const http = list('Outgoing HTTP', grants.http ?? [], 'One host a line: api.example.org, or HOST:PORT; inner addresses as HOST:PORT@10.0.0.0/8');
  const env = list('Environment variables', Object.entries(grants.env ?? {}).map((pair) => pair.join('=')), 'One a line: NAME=VALUE');
  const state = h('input', { type: 'checkbox', checked: Boolean(grants.state) });
  const audit = h('input', { type: 'checkbox', checked: Boolean(version.audit) });
  const slot = new ProblemSlot();
  const save = h('button.primary', { type: 'submit' }, 'Grant this, and no more');

  const read = () => {
    const pairs = lines(env.input.value).map((line) => {
      const at = line.indexOf('=');
      if (at < 1) throw new FieldError(`\`${line}\` has no \`=\``, env.input);
      return [line.slice(0, at), line.slice(at + 1)];
    });
    return {
      grants: {
        http: lines(http.input.value),
        env: Object.fromEntries(pairs),
        dirs: lines(dirs.input.value),
        state: state.checked,
        secrets: lines(secrets.input.value),
      },
      add: false,
      digest: version.digest,
      audit: audit.checked,
    };
  };
  const send = async (spec) => {
    const added = await api.put(api.url`/v1/plugins/${name}/grants`, spec);
    toast(`Granted to \`${name}\`.`);
    done(added);
  };
  const submit = sending({ button: save, slot, read, send });
  const heading = newId('grants');
  const fields = { secrets: secrets.node, files: dirs.node, http: http.node, env: env.node, state: h('label.check', state, h('span', 'A state of its own, for each job')) };
  // What it cannot use is out of the way; a secret may be sent along with its requests.
  const usable = KINDS.filter((kind) => concerns(kind, version) || (kind.capability === 'secrets' && concerns(KINDS.find(({ capability }) => capability === 'http'), version)));
  const others = KINDS.filter((kind) => !usable.includes(kind));
  return h(
    'form.card',
    { onsubmit: submit, 'aria-labelledby': heading },
    h('h3', { id: heading }, icon('secrets'), ' Grant'),
    usable.toReversed().map(({ capability }) => fields[capability]),
    others.length > 0 && h('details', h('summary', 'What it does not ask for'), h('div.stack', others.map(({ capability }) => fields[capability]))),
    h('label.check', audit, h('span', 'Watch it (audit): what is not granted is denied when it is used, and recorded, instead of refused at once')),
    slot.node,
    h('div.row.end', save),
  );
}

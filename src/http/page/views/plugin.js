// One plugin: what it may do, what it offers, its versions; and a call of a function, once.

import * as api from '../api.js';
import { code, h, newId, replace, withCode } from '../dom.js';
import { icon } from '../icons.js';
import { pretty } from '../json.js';
import * as live from '../live.js';
import { may } from '../session.js';
import { duration, timeTag } from '../time.js';
import { adviceOn, brief, bytes, count, kindWords, reasonOf, toneOf } from '../words.js';
import { ProblemSlot, actionButton, confirm, toast } from '../widgets/feedback.js';
import { ArgumentsForm, sending } from '../widgets/form.js';
import { Logs } from '../widgets/logs.js';
import { grantForm, missingOf, sheet } from '../widgets/sheet.js';
import { mark } from '../widgets/strip.js';
import { facts, table } from '../widgets/table.js';
import { currentOf, grantBadge } from './plugins.js';

/** How a single call ended. */
function executed(answer) {
  const { outcome } = answer;
  const logs = new Logs();
  logs.show(answer);
  const kind = outcome.kind;
  return h(
    'div.outcome.result',
    { 'data-tone': toneOf(kind) },
    h('div.row', mark(kind), h('strong', kindWords(kind))),
    reasonOf(outcome) && h('p.reason', withCode(reasonOf(outcome))),
    kind === 'succeeded' && h('pre.value', { tabindex: 0, 'aria-label': 'Returned value' }, pretty(outcome.value ?? null)),
    adviceOn(kind) && h('p.advice', adviceOn(kind)),
    outcome.backtrace?.length > 0 && h('details', h('summary', 'Backtrace'), h('ol.backtrace', outcome.backtrace.map((frame) => h('li', code(frame))))),
    facts(
      ['Took', duration(answer.duration)],
      (answer.fuel_used ?? null) !== null && ['Fuel', h('span', { title: count(answer.fuel_used) }, brief(answer.fuel_used))],
      (answer.memory_peak ?? null) !== null && ['Memory', bytes(answer.memory_peak)],
      answer.uses?.length > 0 && ['Reached for', answer.uses.map(({ what, denied }) => [code(what), denied ? ' (denied) ' : ' '])],
    ),
    logs.node,
  );
}

/** The form that calls a function once. */
function callOnce(func) {
  const form = new ArgumentsForm(func);
  const slot = new ProblemSlot();
  const result = h('div', { 'aria-live': 'polite' });
  const submission = new api.Submission();
  const go = h('button.primary', { type: 'submit' }, icon('play'), 'Call it');
  const send = async (args) => {
    replace(result, h('p.dim', 'It runs …'));
    try {
      replace(result, executed(await submission.post('/v1/exec', { func: func.func, ...args })));
    } catch (problem) {
      replace(result);
      throw problem;
    }
  };
  const submit = sending({ button: go, slot, read: () => form.read(), send });
  return h('form.call', { onsubmit: submit, novalidate: true }, form.node, slot.node, h('div.row', go, h('span.dim', 'with the default limits, without a record')), result);
}

function functionItem(func) {
  const id = newId('call');
  const place = h('div', { id });
  const toggle = h('button.small', { type: 'button', 'aria-expanded': 'false', 'aria-controls': id, 'aria-label': `Call once: ${func.func}` }, icon('play'), 'Call once');
  toggle.addEventListener('click', () => {
    const open = toggle.getAttribute('aria-expanded') !== 'true';
    toggle.setAttribute('aria-expanded', String(open));
    if (open && place.firstChild === null) place.append(callOnce(func));
    place.hidden = !open;
    if (open) place.querySelector('input, textarea, select, button')?.focus();
  });
  const schedule = h('a.button.small', { href: api.withQuery('#/add-job', { func: func.scheduled }), 'aria-label': `Schedule ${func.func}` }, icon('add'), 'Schedule');
  return h('li.function', h('div.row.between', h('div', h('strong.mono', func.func), h('p.signature', code(func.signature))), may('operate') && h('div.row.tight', toggle, schedule)), place);
}

const VERSION_COLUMNS = [{ label: 'Version', style: 'main' }, { label: 'Added' }, { label: 'Size', style: 'number' }, { label: 'Grants' }];

function versionsTable(plugin) {
  const { node, body, row } = table('Versions', VERSION_COLUMNS, 'cards');
  const current = currentOf(plugin);
  for (const version of plugin.versions.toReversed()) {
    body.append(
      row(
        [h('strong', version.label ?? version.digest.slice(0, 12)), version === current && [' ', h('span.tag', 'current')], h('div.dim.small.mono', { title: version.digest }, `sha256 ${version.digest.slice(0, 24)}…`)],
        timeTag(version.added),
        bytes(version.size),
        grantBadge(version),
      ),
    );
  }
  return node;
}

/** The functions with their types; without types from a server that does not tell them. */
async function functionsOf(plugin, signal) {
  const short = (name) => name.split('#').at(-1);
  const version = currentOf(plugin);
  const schedule = (name) => {
    const same = version.exports.filter((other) => short(other.name) === short(name)).length;
    return `${plugin.name}:${same === 1 ? short(name) : name}`;
  };
  const { items } = await api.get(api.url`/v1/plugins/${plugin.name}/functions`, { signal }).catch(() => ({ items: [] }));
  return items.map((item) => ({ ...item, scheduled: schedule(item.func.slice(item.func.indexOf(':') + 1)) }));
}

export async function show(page, name) {
  const { signal, root } = page;
  page.title(name);
  let plugin = await api.get(api.url`/v1/plugins/${name}`, { signal });
  let shown = null;
  const slot = new ProblemSlot();
  const permissions = h('section.card');
  const versions = h('div');
  const functions = h('ul.plain.functions');

  const remove = actionButton({
    label: 'Remove',
    iconName: 'remove',
    style: 'quiet',
    slot,
    act: async () => {
      const sure = await confirm({ title: 'Remove this plugin?', text: `All ${plugin.versions.length} versions of \`${name}\` go, and what they were granted.`, verb: 'Remove it' });
      if (!sure) return;
      await api.remove(api.url`/v1/plugins/${name}`);
      toast(`Removed \`${name}\`.`);
      page.go('#/plugins');
    },
  });

  const render = async () => {
    const text = JSON.stringify(plugin);
    if (text === shown) return;
    shown = text;
    const newest = plugin.versions.at(-1);
    const missing = missingOf(newest);
    const waits = missing.length > 0 && plugin.versions.length > 1 && newest !== currentOf(plugin);
    const form = may('grant') && h('details', { open: missing.length > 0 }, h('summary', missing.length > 0 ? 'Grant what is missing' : 'Change what it is granted'), grantForm(name, newest, load));
    replace(
      permissions,
      h('div.row.between', h('h2', 'Permissions'), grantBadge(newest)),
      waits && h('p.note.warn', 'The newest version asks for more than it has; jobs stay with the one before it until it is granted that.'),
      sheet(newest),
      form,
    );
    replace(versions, versionsTable(plugin));
    const list = await functionsOf(plugin, signal);
    replace(functions, list.length > 0 ? list.map(functionItem) : newest.exports.map((one) => h('li.function', h('strong.mono', one.name), h('p.signature', code(one.signature)))));
  };
  const load = async () => {
    plugin = await api.get(api.url`/v1/plugins/${name}`, { signal });
    await render();
  };
  await render();
  replace(
    root,
    h('nav.crumbs', { 'aria-label': 'Where this is' }, h('a', { href: '#/plugins' }, 'Plugins')),
    h(
      'header.top',
      h('h1', name),
      h('div.row.verbs', h('a.button', { href: api.withQuery('#/jobs', { plugin: name }) }, 'Its jobs'), may('grant') && [h('a.button', { href: api.withQuery('#/add-plugin', { name }) }, icon('upload'), 'New version'), remove]),
    ),
    slot.node,
    h('div.columns', permissions, h('section.card', h('h2', 'Functions'), functions)),
    h('section', h('h2', 'Versions'), versions),
  );
  live.refetch({ signal, wants: (event) => event.kind.startsWith('PLUGIN_') && (event.detail ?? '').includes(name), load });
}

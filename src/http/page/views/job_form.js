// The form that adds a job, or changes one.

import * as api from '../api.js';
import { code, h, newId, replace } from '../dom.js';
import { Digits } from '../json.js';
import { exactBytes, parseBytes, plural } from '../words.js';
import { ProblemSlot, busy, command, empty, toast } from '../widgets/feedback.js';
import { ArgumentsForm, FieldError, labelled, reach, readFields, select } from '../widgets/form.js';
import { TriggerField } from '../widgets/trigger.js';
import { functionOf } from './job.js';

/** A text that is left out when it is empty, or `null` where a change brings the default back. */
function textInput(label, value, { hint, check = () => null, mode = 'text' } = {}) {
  const input = h('input', { type: 'text', inputmode: mode, value: value ?? '', autocomplete: 'off', spellcheck: 'false' });
  const node = labelled(label, input, { hint });
  const read = () => {
    const text = input.value.trim();
    if (text === '') return null;
    const wrong = check(text);
    if (wrong) throw new FieldError(wrong, input);
    return text;
  };
  return { node, input, read };
}

function numberInput(label, value, { hint, least = 1 } = {}) {
  const check = (text) => (/^-?\d[\d_\s]*$/.test(text) && Number(text.replace(/[_\s]/g, '')) >= least ? null : `a whole number from ${least} on`);
  const field = textInput(label, value, { hint, check, mode: 'numeric' });
  return { ...field, read: () => (field.read() === null ? null : new Digits(field.read().replace(/[_\s]/g, ''))) };
}

function sizeInput(label, value, hint) {
  const field = textInput(label, value === undefined ? '' : exactBytes(value), { hint, check: (text) => (parseBytes(text) === null ? 'a number with a unit, such as 64MiB' : null) });
  return { ...field, read: () => (field.read() === null ? null : parseBytes(field.read())) };
}

const DURATION = /^(\d+(\.\d+)?\s*(ms|s|m|h|d|w|sec|min|hours?|minutes?|seconds?|days?)?\s*)+$/;

/** A duration: a number of seconds, or text that the API reads. */
function spanInput(label, value, hint) {
  const field = textInput(label, (value ?? null) === null ? '' : `${value}s`, { hint, check: (text) => (DURATION.test(text) ? null : 'such as 30s, 5m or 1h30m') });
  const read = () => {
    const text = field.read();
    return text !== null && /^\d+(\.\d+)?s?$/.test(text) ? Number.parseFloat(text) : text;
  };
  return { ...field, read };
}

function choice(label, options, value, hint) {
  const input = select(options, value);
  return { node: labelled(label, input, { hint }), read: () => input.value };
}

function tagsInput(tags) {
  const text = Object.entries(tags).map((pair) => pair.join('=')).join(', ');
  const field = textInput('Tags', text, { hint: 'key=value, joined by commas' });
  const read = () => {
    const pairs = (field.read() ?? '').split(',').map((tag) => tag.trim()).filter(Boolean).map((tag) => tag.split('='));
    const wrong = pairs.find((pair) => pair.length < 2 || pair[0] === '');
    if (wrong) throw new FieldError(`\`${wrong.join('=')}\` is not key=value`, field.input);
    return Object.fromEntries(pairs.map(([key, ...value]) => [key.trim(), value.join('=').trim()]));
  };
  return { ...field, read };
}

/** Limits and policies; `read` gives all fields, null where they are left at their defaults. */
function policyFields(job) {
  const { limits = {}, retry = {} } = job;
  const fields = {
    name: textInput('Name', job.name === job.func ? '' : job.name, { hint: 'Default: the function' }),
    tags: tagsInput(job.tags ?? {}),
    fuel: numberInput('Fuel', limits.fuel, { hint: 'About one for each instruction. Default 10 000 000 000' }),
    memory: sizeInput('Memory', limits.memory, 'Default 64MiB'),
    timeout: spanInput('Timeout', limits.timeout, 'Default 30s'),
    output: sizeInput('Output kept', limits.output, 'Default 256KiB'),
    attempts: numberInput('Attempts', retry.max_attempts, { hint: '1 means no retry' }),
    wait: spanInput('Wait before the second', retry.first, 'Doubles each time. Default 1s'),
    instances: numberInput('Runs at one time', job.max_instances, { hint: 'Default 1' }),
    overlap: choice('When more are due', [['skip', 'skip them'], ['queue', 'queue them'], ['cancel', 'cancel the oldest']], job.overlap ?? 'skip'),
    grace: spanInput('Missed when later than', job.misfire_grace_time, 'Default: never too late'),
    coalesce: choice('Fire times that were missed', [['latest', 'one run, for the latest'], ['earliest', 'one run, for the earliest'], ['all', 'a run for each']], job.coalesce ?? 'latest'),
    interrupted: choice('When its process dies', [['fail', 'that run has failed'], ['rerun', 'run it again']], job.on_interrupted ?? 'fail'),
    pauseAfter: numberInput('Pause after failures', job.pause_after, { hint: 'In a row. Default never' }),
    priority: numberInput('Priority', job.priority, { hint: '-100 to 100. Default 0', least: -100 }),
  };
  const groups = [
    ['Called', 'name', 'tags'],
    ['Limits of a run', 'fuel', 'memory', 'timeout', 'output'],
    ['Retries', 'attempts', 'wait'],
    ['Overlap and lateness', 'instances', 'overlap', 'grace', 'coalesce', 'interrupted'],
    ['Order', 'pauseAfter', 'priority'],
  ];
  const node = h('details.more', h('summary', 'More: limits, retries, overlap, tags'), groups.map(([title, ...names]) => h('fieldset', h('legend', title), h('div.grid', names.map((name) => fields[name].node)))));
  const read = () => {
    const value = Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.read()]));
    return {
      name: value.name,
      tags: value.tags,
      limits: { fuel: value.fuel, memory: value.memory, timeout: value.timeout, output: value.output },
      retry: { max_attempts: value.attempts, first: value.wait },
      max_instances: value.instances,
      overlap: value.overlap,
      misfire_grace_time: value.grace,
      coalesce: value.coalesce,
      on_interrupted: value.interrupted,
      pause_after: value.pauseAfter,
      priority: value.priority,
    };
  };
  return { node, read, fields };
}

/** A place for what the API refuses, which also goes to the field that it speaks of, if it is known. */
class FormSlot extends ProblemSlot {
  constructor(inputs) {
    super();
    this.inputs = inputs;
  }
  show(problem) {
    super.show(problem);
    const [, input] = this.inputs.find(([about]) => about.test(problem.message)) ?? [];
    const field = typeof input === 'function' ? input() : input;
    if (!field) return;
    field.setAttribute('aria-invalid', 'true');
    reach(field);
  }
}

/** Which message speaks of which input. */
function inputsOf({ id, trigger, policies, form }) {
  const { fields } = policies;
  return [
    [/^a job `[^`]*` exists already|^invalid job id/, id?.input],
    [/^invalid (trigger|interval|jitter|cron|calendar|time|spread|start date|except)/, trigger.input],
    [/^invalid tag/, fields.tags.input],
    [/^invalid limits\.fuel/, fields.fuel.input],
    [/^invalid limits\.memory/, fields.memory.input],
    [/^invalid limits\.timeout/, fields.timeout.input],
    [/^invalid limits\.output/, fields.output.input],
    [/^invalid retry\.max_attempts/, fields.attempts.input],
    [/^invalid retry\.first/, fields.wait.input],
    [/^invalid max_instances/, fields.instances.input],
    [/^invalid pause_after/, fields.pauseAfter.input],
    [/^invalid priority/, fields.priority.input],
    [/^invalid argument/, () => form().node.querySelector('input, textarea, select')],
  ];
}

/** Without what is null: an addition has no defaults to bring back. */
function given(value) {
  if (value === null || typeof value !== 'object' || Array.isArray(value) || value instanceof Digits) return value;
  const kept = Object.entries(value).filter(([, field]) => field !== null && field !== undefined);
  return Object.fromEntries(kept.map(([name, field]) => [name, given(field)]));
}

function layout(title, intro, parts, slot, save, submit, cancel) {
  const id = newId('form');
  const changed = () => slot.clear();
  return [
    h('nav.crumbs', { 'aria-label': 'Where this is' }, h('a', { href: '#/jobs' }, 'Jobs')),
    h('header.top', h('h1', { id }, title)),
    h('form.sheet-form', { onsubmit: submit, oninput: changed, onchange: changed, novalidate: true, 'aria-labelledby': id }, intro, parts, h('div.sticky', slot.node, h('div.row.end', h('a.button', { href: cancel }, 'Cancel'), save))),
  ];
}

/** Functions that can be scheduled, by plugin. */
function funcOptions(plugins) {
  return plugins.flatMap(({ name, versions }) => {
    const version = versions.at(-1);
    return (version?.exports ?? []).map((one) => {
      const short = one.name.split('#').at(-1);
      const unique = version.exports.filter((other) => other.name.split('#').at(-1) === short).length === 1;
      return [`${name}:${unique ? short : one.name}`, one.signature];
    });
  });
}

export async function add(page) {
  const { signal, root, query } = page;
  const items = await api.all('/v1/plugins', { signal });
  const options = funcOptions(items);
  if (options.length === 0) {
    return replace(root, h('header.top', h('h1', 'Add a job')), empty('There is nothing to call yet', 'A job calls a function of a plugin. Register one first:', command('sandclock plugin add hello.wasm'), h('a.button.primary', { href: '#/add-plugin' }, 'Add a plugin')));
  }
  const chosen = options.some(([func]) => func === query.get('func')) ? query.get('func') : options[0][0];
  const func = select(options.map(([name]) => [name, name]), chosen);
  const signature = h('p.signature');
  const argumentsPlace = h('div');
  const id = textInput('Id', '', { hint: 'Letters, digits, dots, dashes. Default: one is made', check: (text) => (/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(text) ? null : 'letters, digits, `.`, `_` and `-`; at most 128') });
  const trigger = new TriggerField({ signal, text: query.get('trigger') ?? '', jobId: () => (/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(id.input.value) ? id.input.value : null) });
  const paused = h('input', { type: 'checkbox' });
  const policies = policyFields({});
  const slot = new FormSlot(inputsOf({ id, trigger, policies, form: () => form }));
  const submission = new api.Submission();
  const save = h('button.primary', { type: 'submit' }, 'Add job');
  let form = null;

  const choose = async () => {
    const asked = func.value;
    const known = await functionOf(asked, signal);
    if (func.value !== asked) return;
    replace(signature, code(options.find(([name]) => name === asked)[1]));
    form = new ArgumentsForm(known);
    replace(argumentsPlace, form.node);
  };
  func.addEventListener('change', choose);
  const submit = async (event) => {
    event.preventDefault();
    const spec = readFields(() => ({ func: func.value, id: id.read(), ...form.read(), trigger: trigger.read(), paused: paused.checked, ...policies.read() }));
    if (spec === undefined) return;
    await busy(save, async () => {
      // Arguments may be null where a type says so.
      const job = await submission.post('/v1/jobs', { ...given(spec), args: spec.args, kwargs: spec.kwargs });
      toast(`Added \`${job.id}\`.`);
      page.go(`#/jobs/${encodeURIComponent(job.id)}`);
    }, slot);
  };
  await choose();
  const parts = [
    h('section.card', h('h2', 'What to call'), labelled('Function', func), signature, h('h3', 'Arguments'), argumentsPlace),
    h('section.card', h('h2', 'When'), trigger.node),
    h('section.card', h('h2', 'More'), id.node, h('label.check', paused, h('span', 'Paused at first')), policies.node),
  ];
  replace(root, ...layout('Add a job', null, parts, slot, save, submit, '#/jobs'));
}

export async function edit(page, id) {
  const { signal, root } = page;
  page.title(`Edit ${id}`);
  const job = await api.get(api.url`/v1/jobs/${id}`, { signal });
  const form = new ArgumentsForm(await functionOf(job.func, signal), { args: job.args, kwargs: job.kwargs });
  const trigger = new TriggerField({ signal, text: job.trigger_text, jobId: () => id, optional: false });
  const policies = policyFields(job);
  policies.node.open = true;
  const slot = new FormSlot(inputsOf({ trigger, policies, form: () => form }));
  const save = h('button.primary', { type: 'submit' }, 'Save');
  const back = `#/jobs/${encodeURIComponent(id)}`;
  const submit = async (event) => {
    event.preventDefault();
    const changed = readFields(() => ({ ...form.read(), ...(trigger.read() === job.trigger_text ? {} : { trigger: trigger.read() }), ...policies.read() }));
    if (changed === undefined) return;
    // Tags are merged, so those that are gone are named.
    for (const key of Object.keys(job.tags)) changed.tags[key] ??= null;
    await busy(save, async () => {
      await api.patch(api.url`/v1/jobs/${id}`, changed);
      toast(`Changed \`${id}\`.`);
      page.go(back);
    }, slot);
  };
  const parts = [
    h('section.card', h('h2', 'Arguments'), h('p.signature', code(job.func)), form.node),
    h('section.card', h('h2', 'When'), trigger.node),
    h('section.card', h('h2', 'More'), policies.node),
  ];
  replace(root, ...layout(`Edit ${id}`, job.running > 0 && h('p.dim', `It has ${plural(job.running, 'run')} going on, which go on as they began.`), parts, slot, save, submit, back));
}

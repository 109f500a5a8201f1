// One job: when it runs, how it fared, and its verbs.

import * as api from '../api.js';
import { code, h, newId, replace, withCode } from '../dom.js';
import { icon } from '../icons.js';
import { pretty } from '../json.js';
import * as live from '../live.js';
import { may } from '../session.js';
import { duration, instant, timeTag } from '../time.js';
import { brief, bytes, count, kindOf, moduleOf, plural, reasonOf, titleOf } from '../words.js';
import { chart } from '../widgets/chart.js';
import { ProblemSlot, actionButton, empty, problemNote, toast } from '../widgets/feedback.js';
import { ArgumentsForm, sending } from '../widgets/form.js';
import { badge, jobBadges } from '../widgets/strip.js';
import { Rows, facts, table } from '../widgets/table.js';
import { TriggerField, explanation, triggerWords } from '../widgets/trigger.js';
import { nextRun, removeJob, runNow, setPaused } from './jobs.js';

const CHARTED = 200;
const HISTORY = 50;
/** The same on a phone, and the fire times there. */
const HISTORY_NARROW = 10;
const TIMES_NARROW = 3;

const narrow = matchMedia('(max-width: 700px)');

/** The function of a plugin that a func calls, with its types; null where nothing is known of them. */
export async function functionOf(func, signal) {
  const { items } = await api.get(api.url`/v1/plugins/${moduleOf(func)}/functions`, { signal }).catch(() => ({ items: [] }));
  const exported = (name) => String(name).replace(/^[^:@]+(@sha256:[^:]*|@[^:]*)?:/, '');
  const wanted = exported(func);
  // Short when only one interface has it.
  const short = items.filter((item) => item.func.endsWith(`#${wanted}`));
  return items.find((item) => exported(item.func) === wanted) ?? (short.length === 1 ? short[0] : null);
}

export const tookSeconds = (run) => (run.started && run.ended ? Math.max(instant(run.ended) - instant(run.started), 0) / 1000 : null);

const HISTORY_COLUMNS = [
  { label: 'Outcome', style: 'state' },
  { label: 'Fire time', style: 'main' },
  { label: 'Took', style: 'number' },
  { label: 'Fuel', style: 'number' },
  { label: 'Memory', style: 'number' },
  { label: 'Said', style: 'said' },
];

const said = (run) => reasonOf(run.outcome) || (run.outcome?.kind === 'succeeded' && (run.outcome.value ?? null) !== null ? pretty(run.outcome.value) : '');

/** The table of a job's runs, newest first, page by page. */
function history(page, id) {
  const { node, body, row } = table('Runs', HISTORY_COLUMNS, 'cards runs');
  const make = (run) => {
    const cells = HISTORY_COLUMNS.map(() => h('div'));
    const update = (run) => {
      const took = tookSeconds(run);
      const notes = [run.attempt > 1 && `attempt ${run.attempt}`, run.origin !== 'trigger' && run.origin, run.coalesced > 0 && `stands for ${run.coalesced + 1}`].filter(Boolean);
      replace(cells[0], badge(kindOf(run)));
      replace(cells[1], h('a', { href: `#/runs/${encodeURIComponent(run.id)}`, 'data-item': true }, timeTag(run.scheduled_time)), notes.length > 0 && h('div.dim.small', notes.join(', ')));
      replace(cells[2], took === null ? '–' : duration(took));
      replace(cells[3], (run.fuel_used ?? null) === null ? '–' : h('span', { title: count(run.fuel_used) }, brief(run.fuel_used)));
      replace(cells[4], (run.memory_peak ?? null) === null ? '–' : bytes(run.memory_peak));
      replace(cells[5], h('div.clip', withCode(said(run))));
    };
    update(run);
    return { node: row(...cells), update };
  };
  const rows = new Rows(body, (run) => run.id, make);
  let newest = [];
  let older = [];
  let next = null;
  const step = narrow.matches ? HISTORY_NARROW : HISTORY;
  let most = step;
  const fetch = (after, limit) => api.get(api.withQuery('/v1/runs', { job: id, limit, after }), { signal: page.signal });
  const more = actionButton({
    label: 'Older runs',
    act: async () => {
      most += step;
      if (next !== null && newest.length + older.length < most) {
        const list = await fetch(next, HISTORY);
        older.push(...list.items);
        next = list.next ?? null;
      }
      show();
    },
  });
  const none = h('p.dim', 'It has not run yet.');
  const show = () => {
    const known = new Set();
    const runs = [...newest, ...older].filter((run) => !known.has(run.id) && known.add(run.id));
    rows.show(runs.slice(0, most));
    none.hidden = runs.length > 0;
    node.hidden = runs.length === 0;
    more.hidden = next === null && runs.length <= most;
  };
  const load = async () => {
    const list = await fetch(undefined, CHARTED);
    if (older.length === 0) next = list.next ?? null;
    // What newer runs have pushed off the first page stays shown.
    const had = new Set(list.items.map((run) => run.id));
    if (older.length > 0) older = [...newest.filter((run) => !had.has(run.id)), ...older];
    newest = list.items;
    show();
    return list.items;
  };
  return { node: h('div', none, node, h('div.row.center', more)), load };
}

function limitsFacts({ limits, retry }) {
  return [
    ['Fuel', h('span', { title: count(limits.fuel) }, brief(limits.fuel))],
    ['Memory', bytes(limits.memory)],
    ['Timeout', duration(limits.timeout)],
    ['Output kept', bytes(limits.output)],
    retry.max_attempts > 1 && ['Retries', `${retry.max_attempts} attempts, first after ${duration(retry.first)}`],
  ];
}

const OVERLAPS = { skip: 'what is due then is skipped', queue: 'what is due then waits', cancel: 'the oldest makes way' };
const COALESCED = { latest: 'of several, the latest', earliest: 'of several, the earliest', all: 'each of several' };

function policies(job) {
  return facts(
    ['Function', h('a', { href: `#/plugins/${encodeURIComponent(moduleOf(job.func))}` }, code(job.func))],
    job.name !== job.func && ['Name', job.name],
    ...limitsFacts(job),
    ['At one time', `${plural(job.max_instances, 'run')}; ${OVERLAPS[job.overlap]}`],
    ['When late', `${job.misfire_grace_time ? `missed after ${duration(job.misfire_grace_time)}` : 'it runs all the same'}; ${COALESCED[job.coalesce]}`],
    job.on_interrupted === 'rerun' && ['Interrupted', 'run again'],
    job.pause_after && ['Pauses', `after ${plural(job.pause_after, 'failure')}`],
    job.priority !== 0 && ['Priority', job.priority],
    job.grants && ['Narrowed to', job.grants.length > 0 ? job.grants.map((pick) => [code(pick), ' ']) : 'nothing'],
    job.expect && ['Expected', `every ${duration(job.expect.period)}`],
    (job.started ?? null) !== null && ['Started', `${job.started} of its greatest number of runs`],
    Object.keys(job.tags).length > 0 && ['Tags', Object.entries(job.tags).map(([key, value]) => [h('span.tag', value ? `${key}=${value}` : key), ' '])],
  );
}

/** Run now with arguments of one's own. */
function runWith(job, func) {
  const form = new ArgumentsForm(func, { args: job.args, kwargs: job.kwargs });
  const slot = new ProblemSlot();
  const submission = new api.Submission();
  const go = h('button.primary', { type: 'submit' }, icon('play'), 'Run now with these');
  const submit = sending({ button: go, slot, read: () => form.read(), send: (args) => runNow(job, submission, args) });
  return h('form', { onsubmit: submit, novalidate: true }, form.node, slot.node, h('div.row.end', go));
}

function editTrigger(job, signal, done, cancel) {
  const field = new TriggerField({ text: job.trigger_text, signal, jobId: () => job.id, optional: false });
  const slot = new ProblemSlot();
  const save = h('button.primary', { type: 'submit' }, 'Save trigger');
  const send = async (trigger) => {
    done(await api.patch(api.url`/v1/jobs/${job.id}`, { trigger }));
    toast(`\`${job.id}\` has another trigger.`);
  };
  const submit = sending({ button: save, slot, read: () => field.read(), send });
  const node = h('form', { onsubmit: submit, novalidate: true }, field.node, slot.node, h('div.row.end', h('button', { type: 'button', onclick: cancel }, 'Leave it'), save));
  return { node, focus: () => field.input.focus() };
}

export async function show(page, id) {
  const { signal, root } = page;
  let job = null;
  let shownTrigger = null;
  let gone = false;
  page.title(id);

  const slot = new ProblemSlot();
  const heading = h('h1', id);
  const state = h('div.row');
  const quarantine = h('div');
  const next = h('p.next');
  const words = h('div');
  const times = h('div.explained');
  const details = h('div');
  const argumentsPlace = h('div');
  const charts = h('div.charts');
  const runs = history(page, id);
  const waiting = h('div');

  const run = actionButton({ label: 'Run now', iconName: 'play', style: 'primary', slot, act: () => runNow(job) });
  const pause = actionButton({ label: 'Pause', iconName: 'pause', slot, act: async () => update(await setPaused(job, job.state !== 'paused')) });
  const edit = h('a.button', { href: `#/edit-job/${encodeURIComponent(id)}` }, icon('edit'), 'Edit');
  const remove = actionButton({ label: 'Remove', iconName: 'remove', style: 'quiet', slot, act: async () => (await removeJob(job)) && page.go('#/jobs') });
  const verbs = h('div.row.verbs', run, pause, edit, remove);
  verbs.hidden = !may('operate');
  const changeTrigger = h('button.quiet.small', { type: 'button', onclick: () => openTrigger() }, icon('edit'), 'Edit trigger');
  changeTrigger.hidden = !may('operate');

  const preview = async () => {
    if (job.trigger_text === shownTrigger) return;
    shownTrigger = job.trigger_text;
    try {
      const { description, ...explained } = await api.post('/v1/triggers/preview', { job: id, count: 10 }, { signal });
      replace(times, explanation({ ...explained, description: '' }, narrow.matches ? TIMES_NARROW : undefined).slice(1));
    } catch (problem) {
      if (problem.name !== 'AbortError') replace(times, h('p.dim', problem.message));
    }
  };
  const openTrigger = () => {
    const close = () => {
      form.node.remove();
      [words, times, changeTrigger].forEach((part) => (part.hidden = false));
      changeTrigger.focus();
    };
    const form = editTrigger(job, signal, (newer) => (close(), update(newer)), close);
    [words, times, changeTrigger].forEach((part) => (part.hidden = true));
    words.before(form.node);
    form.focus();
  };
  const update = (newer) => {
    job = newer;
    const called = titleOf(job);
    page.title(called.title);
    replace(heading, called.title, called.id && h('div.dim.small.mono', called.id));
    replace(state, jobBadges(job), job.late && h('span.badge', { 'data-tone': 'bad' }, 'late'), job.failures > 0 && h('span.dim', { 'aria-hidden': 'true' }, plural(job.failures, 'failure'), ' in a row'));
    if (job.running > 0) replace(next, 'running', job.next_run_time && ['; next ', timeTag(job.next_run_time, { due: true })]);
    else replace(next, h('span.dim', 'Next run '), nextRun(job));
    replace(quarantine, job.quarantine && problemNote({ message: `It is quarantined: ${job.quarantine}` }));
    const paused = job.state === 'paused';
    pause.relabel(paused ? 'Resume' : 'Pause', paused ? 'resume' : 'pause');
    if (job.func === undefined) return;
    replace(words, triggerWords(job));
    replace(details, policies(job));
    const pending = job.pending.map((one) => h('li', h('a', { href: `#/runs/${encodeURIComponent(one.id)}` }, `${one.origin}, attempt ${one.attempt}`), ' ', timeTag(one.due, { due: true })));
    replace(waiting, pending.length > 0 && [h('h2', 'Waiting'), h('ul.plain', pending)]);
    preview();
  };
  let drawn = null;
  const draw = (list) => {
    const ended = list.filter((run) => run.state === 'ended').slice(0, CHARTED).reverse();
    const text = ended.map((run) => run.id).join();
    if (text === drawn || charts.contains(document.activeElement)) return;
    drawn = text;
    const within = page.scope('charts');
    if (ended.length < 2) return replace(charts);
    replace(
      charts,
      chart({ title: 'Duration', runs: ended, value: tookSeconds, format: duration, signal: within }),
      chart({ title: 'Fuel', runs: ended, value: (run) => run.fuel_used ?? null, format: brief, signal: within }),
    );
  };
  const load = async () => {
    const loaded = api.get(api.url`/v1/jobs/${id}`, { signal }).then(update, (problem) => {
      if (problem.status !== 404) throw problem;
      gone = true;
      verbs.hidden = true;
      changeTrigger.hidden = true;
      replace(state, h('span.badge', { 'data-tone': 'none' }, 'finished and gone'));
      replace(next, h('span.dim', 'Its trigger has no further fire time, or it was removed.'));
    });
    const [, list] = await Promise.all([loaded, runs.load()]);
    draw(list);
    return list;
  };

  const historyId = newId('history');
  const list = await load();
  if (gone && list.length === 0) {
    return replace(root, h('header.top', h('h1', id)), empty('No such job', 'It has finished and was removed, or it never was.', h('a.button', { href: '#/jobs' }, 'All jobs')));
  }
  replace(
    root,
    h('nav.crumbs', { 'aria-label': 'Where this is' }, h('a', { href: '#/jobs' }, 'Jobs')),
    h('header.top', heading, state, verbs),
    slot.node,
    quarantine,
    next,
    !gone &&
      h(
        'div.columns',
        h('section.card', h('div.row.between', h('h2', 'Trigger'), changeTrigger), words, times),
        h('section.card', h('h2', 'What it does'), details, h('h3', 'Arguments'), argumentsPlace, waiting),
      ),
    charts,
    h('section', { 'aria-labelledby': historyId }, h('h2', { id: historyId }, 'History'), runs.node),
  );
  live.refetch({ signal, wants: (event) => event.job_id === id, load });
  if (gone || job.func === undefined) return;
  const given = job.args.length > 0 ? job.args : job.kwargs;
  replace(argumentsPlace, Object.keys(given).length > 0 ? h('pre.value', pretty(given)) : h('p.dim', 'none'));
  if (!may('operate')) return;
  const func = await functionOf(job.func, signal);
  const other = h('details', h('summary', 'Run now with other arguments'));
  other.addEventListener('toggle', () => other.children.length === 1 && other.append(runWith(job, func)));
  argumentsPlace.append(other);
}

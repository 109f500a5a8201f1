// All jobs: what they do next, and how they fared.

import * as api from '../api.js';
import { code, h, replace, setText, withCode } from '../dom.js';
import { icon } from '../icons.js';
import * as live from '../live.js';
import { may } from '../session.js';
import { timeTag } from '../time.js';
import { plural, shortTrigger, titleOf } from '../words.js';
import { ProblemSlot, actionButton, command, confirm, empty, problemNote, toast } from '../widgets/feedback.js';
import { badge, jobBadges, strip } from '../widgets/strip.js';
import { Rows, table } from '../widgets/table.js';

const PAGE = 100;
const RECENT = 12;
/** Jobs that a filter by text looks through before one asks for more. */
const SEARCHED_MOST = 1000;
/** Pages fetched again at one time. */
const REFETCHED_MOST = 2;
/** `failing` is no state of the API: it is looked for among the jobs that are loaded. */
const STATES = ['', 'active', 'paused', 'quarantined', 'failing'];

const COLUMNS = [
  { label: 'State', style: 'state' },
  { label: 'Job', style: 'main' },
  { label: 'When', style: 'trigger' },
  { label: 'Next run', style: 'next' },
  { label: 'Last outcomes', style: 'outcomes' },
  { label: 'Actions', style: 'actions' },
];

const jobLink = (job) => `#/jobs/${encodeURIComponent(job.id)}`;

/** Runs a job now, and says where to look. */
export async function runNow(job, submission = new api.Submission(), args) {
  const { run_id: run } = await submission.post(api.url`/v1/jobs/${job.id}/run`, args);
  toast(`Asked for a run of \`${job.id}\`.`, { href: `#/runs/${encodeURIComponent(run)}`, text: 'Watch it' });
  return run;
}

/** Removes a job, if that is meant. */
export async function removeJob(job) {
  const sure = await confirm({ title: 'Remove this job?', text: `\`${job.id}\` will not run again; runs that go on end first. Its history stays, and belongs to the id: a new job with this id has it too.`, verb: 'Remove it' });
  if (!sure) return false;
  await api.remove(api.url`/v1/jobs/${job.id}`);
  toast(`Removed \`${job.id}\`.`);
  return true;
}

export const setPaused = (job, paused) => api.post(paused ? api.url`/v1/jobs/${job.id}/pause` : api.url`/v1/jobs/${job.id}/resume`);

/** What comes next for a job, in its state. */
export function nextRun(job) {
  if (job.running > 0) return [badge('running'), ' ', job.next_run_time && h('span.dim', 'next ', timeTag(job.next_run_time, { due: true }))];
  if (job.next_run_time) return timeTag(job.next_start_time ?? job.next_run_time, { due: true });
  const waiting = job.pending?.[0];
  if (waiting) return [h('span.dim', 'again '), timeTag(waiting.due, { due: true })];
  return h('span.dim', job.state === 'active' ? 'when asked' : '–');
}

/** One job as a row; `changed(job)` hears what a verb made of it, null if it is gone. */
function jobRow(makeRow, job, changed) {
  let given = null;
  let shown = null;
  const slot = new ProblemSlot();
  const cells = [h('div'), h('div'), h('div'), h('div'), h('div'), h('div.row.tight')];
  const [state, name, trigger, next, outcomes, actions] = cells;
  const button = (label, iconName, act) => actionButton({ label, iconName, style: 'quiet round', iconOnly: true, act, slot });
  const run = button('Run now', 'play', () => runNow(job));
  const pause = button('Pause', 'pause', async () => changed(await setPaused(job, job.state !== 'paused')));
  const remove = button('Remove', 'remove', async () => (await removeJob(job)) && changed(null));
  if (may('operate')) actions.append(run, pause, remove);
  const node = makeRow(...cells);
  const update = (newer) => {
    if (newer === given) return;
    given = newer;
    job = { ...newer, recent: newer.recent ?? job.recent };
    const text = JSON.stringify(job);
    if (text === shown) return;
    shown = text;
    replace(state, jobBadges(job));
    if (name.firstChild === null) {
      replace(name, h('a.strong', { href: jobLink(job), 'data-item': true }), h('div.dim.small.clip'), h('div.tags'), slot.node);
      for (const [one, word] of [[run, 'Run now'], [pause, ''], [remove, 'Remove']]) if (word) one.setAttribute('aria-label', `${word} ${job.id}`);
    }
    const { title, id } = titleOf(job);
    setText(name.children[0], title);
    const others = [job.name !== job.func && job.name, job.func ?? 'cannot be read', id];
    setText(name.children[1], others.filter((one) => one && one !== title).join(' · '));
    replace(name.children[2], Object.entries(job.tags ?? {}).map(([key, value]) => h('span.tag', value ? `${key}=${value}` : key)));
    const words = job.trigger_description ?? '–';
    replace(trigger, h('span', { title: shortTrigger(words) === words ? null : words.replaceAll('`', '') }, withCode(shortTrigger(words))), job.quarantine && h('div.bad.small', job.quarantine), job.late && h('div.bad.small', 'late: no success in the time that is expected'));
    replace(next, nextRun(job));
    replace(outcomes, strip(job.recent));
    const paused = job.state === 'paused';
    pause.relabel(paused ? 'Resume' : 'Pause', paused ? 'resume' : 'pause');
    pause.setAttribute('aria-label', `${paused ? 'Resume' : 'Pause'} ${job.id}`);
  };
  update(job);
  return { node, update };
}

/** The loaded pages of the list, and which of them are out of date. */
class Pages {
  constructor(query, signal) {
    Object.assign(this, { query, signal, pages: [], next: null, stale: new Set() });
  }

  fetch(after) {
    return api.get(api.withQuery('/v1/jobs', { ...this.query, limit: PAGE, after, recent: RECENT }), { signal: this.signal });
  }

  async more() {
    const after = this.next;
    const list = await this.fetch(after);
    this.pages.push({ after, items: list.items });
    this.next = list.next ?? null;
  }

  get jobs() {
    return this.pages.flatMap(({ items }) => items);
  }

  /** Notes what an event is about. Whether there is something to fetch. */
  hear(event) {
    if (event.lagged || event.kind === 'ALL_JOBS_REMOVED' || event.kind?.startsWith('PLUGIN_')) this.pages.forEach((page) => this.stale.add(page));
    else if (event.job_id) {
      // Lists are in the order of ids, and the last page is where new jobs beyond it come in.
      const page = this.pages.find(({ items }) => items.length > 0 && event.job_id <= items.at(-1).id) ?? (this.next ? null : this.pages.at(-1));
      if (page) this.stale.add(page);
    }
    return this.stale.size > 0;
  }

  async refresh() {
    const stale = [...this.stale].slice(0, REFETCHED_MOST);
    for (const page of stale) {
      this.stale.delete(page);
      const list = await this.fetch(page.after);
      page.items = list.items;
      // A page that grew pushes its last jobs onto the next one.
      const following = this.pages[this.pages.indexOf(page) + 1];
      if (!following) this.next = list.next ?? null;
      else if ((list.next ?? null) !== following.after) {
        following.after = list.next ?? null;
        this.stale.add(following);
      }
    }
    return this.stale.size > 0;
  }

  change(id, job) {
    for (const page of this.pages) page.items = page.items.flatMap((old) => (old.id !== id ? [old] : job ? [{ ...job, recent: job.recent ?? old.recent }] : []));
  }
}

function matches(job, words) {
  const text = [job.id, job.name, job.func, job.trigger_description, ...Object.entries(job.tags ?? {}).map((tag) => tag.join('='))].join(' ').toLowerCase();
  return words.every((word) => text.includes(word));
}

async function teach() {
  const plugins = await api.get('/v1/plugins?limit=1').catch(() => ({ items: [] }));
  if (plugins.items.length === 0) {
    return empty(
      'First a plugin, then a job',
      'A job calls a function of a plugin. Register a WebAssembly component, here or on the command line:',
      command('sandclock plugin add hello.wasm'),
      may('grant') && h('a.button.primary', { href: '#/add-plugin' }, icon('upload'), 'Add a plugin'),
    );
  }
  const { name, versions } = plugins.items[0];
  const func = `${name}:${versions.at(-1)?.exports[0]?.name ?? 'run'}`;
  return empty(
    'No jobs yet',
    'A job calls a function at its fire times. Add one here or on the command line:',
    command(`sandclock job add ${func} --every 1m`),
    may('operate') && h('a.button.primary', { href: '#/add-job' }, icon('add'), 'Add a job'),
  );
}

export async function show(page) {
  const { signal, query, root } = page;
  const plugin = query.get('plugin') ?? '';
  let state = STATES.includes(query.get('state')) ? query.get('state') : '';
  const asked = () => ({ state: state === 'failing' ? '' : state, plugin });
  let pages = new Pages(asked(), signal);

  const filter = h('input', { type: 'search', placeholder: 'Filter: text, or tag=value', 'aria-label': 'Filter jobs', 'data-filter': true, value: query.get('text') ?? '' });
  const states = h('div.segments', { role: 'group', 'aria-label': 'State' });
  const summary = h('p.dim', { role: 'status' });
  const { node, body, row } = table('Jobs', COLUMNS, 'cards jobs');
  const more = actionButton({ label: 'More jobs', act: async () => (await pages.more(), render()) });
  const place = h('div');
  const listed = h('div', node, h('div.row.center', more));
  node.hidden = true;
  more.hidden = true;
  const rows = new Rows(body, (job) => job.id, (job) => jobRow(row, job, (newer) => (pages.change(job.id, newer), render())));

  const words = () => filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const narrowed = () => words().length > 0 || state === 'failing';
  const render = async () => {
    const wanted = words();
    const found = pages.jobs.filter((job) => (state !== 'failing' || job.failures > 0) && matches(job, wanted));
    const visible = new Set(found);
    rows.show(pages.jobs, (job) => visible.has(job));
    node.hidden = found.length === 0;
    more.hidden = pages.next === null;
    const loaded = pages.jobs.length;
    setText(summary, narrowed() ? `${found.length} of ${plural(loaded, 'job')}${pages.next ? ' looked at' : ''}` : `${plural(loaded, 'job')}${pages.next ? ' shown, there are more' : ''}`);
    if (loaded === 0 && !state && !plugin) replace(place, await teach());
    else replace(place, found.length === 0 && empty('Nothing here', wanted.length > 0 ? 'No job matches this filter.' : state === 'failing' ? 'No job is failing.' : 'No job is in this state.'));
  };
  const search = async () => {
    history.replaceState(null, '', api.withQuery('#/jobs', { state, plugin, text: filter.value }));
    await render();
    while (narrowed() && pages.next !== null && pages.jobs.length < SEARCHED_MOST && !signal.aborted) {
      await pages.more();
      await render();
    }
  };
  const load = async () => {
    const fresh = new Pages(asked(), signal);
    await fresh.more();
    pages = fresh;
    await search();
  };
  const choose = (chosen) => {
    state = chosen;
    for (const button of states.children) button.setAttribute('aria-pressed', String(button.value === state));
    load().catch((problem) => problem.name !== 'AbortError' && replace(place, problemNote(problem)));
  };
  for (const one of STATES) states.append(h('button', { type: 'button', value: one, 'aria-pressed': String(one === state), onclick: () => choose(one) }, one === '' ? 'all' : one));
  filter.addEventListener('input', search);

  replace(
    root,
    h('header.top', h('h1', 'Jobs'), may('operate') && h('a.button.primary', { href: '#/add-job' }, icon('add'), 'Add job')),
    h('div.toolbar', h('div.search', icon('search'), filter), states, plugin && h('a.button.small', { href: '#/jobs', title: 'Show the jobs of all plugins' }, 'of ', code(plugin), icon('close')), summary),
    place,
    listed,
  );
  await load();
  const plan = live.refetch({
    signal,
    wants: (event) => pages.hear(event),
    async load() {
      const left = await pages.refresh();
      await render();
      if (left) plan();
    },
  });
}

// Events as they happen.

import * as api from '../api.js';
import { code, h, replace, setText, withCode } from '../dom.js';
import { icon } from '../icons.js';
import * as live from '../live.js';
import { clock, exact } from '../time.js';
import { kindWords, plural, reasonOf, shortId } from '../words.js';
import { pretty } from '../json.js';
import { command, empty } from '../widgets/feedback.js';
import { labelled, select } from '../widgets/form.js';

const STORED = 100;
const SHOWN_MOST = 500;

const GROUPS = {
  all: ['everything', () => true],
  runs: ['runs', (kind) => ['JOB_SUBMITTED', 'JOB_STARTED', 'JOB_EXECUTED', 'JOB_ERROR', 'JOB_RETRY', 'JOB_CANCELLED', 'JOB_INTERRUPTED', 'JOB_MISSED', 'JOB_SKIPPED', 'JOB_MAX_INSTANCES'].includes(kind)],
  troubles: ['what went wrong', (kind) => toneOf(kind) === 'bad' || toneOf(kind) === 'warn'],
  jobs: ['changes of jobs', (kind) => /^(JOB_(ADDED|REMOVED|MODIFIED|PAUSED|RESUMED|QUARANTINED|LATE)|ALL_JOBS_REMOVED)$/.test(kind)],
  plugins: ['plugins', (kind) => kind.startsWith('PLUGIN_')],
  scheduler: ['the scheduler', (kind) => /^(SCHEDULER|EXECUTOR|JOBSTORE|STORE)_/.test(kind)],
};

function toneOf(kind) {
  if (/ERROR|QUARANTINED|LATE/.test(kind)) return 'bad';
  if (/MISSED|SKIPPED|MAX_INSTANCES|INTERRUPTED|RETRY|CANCELLED/.test(kind)) return 'warn';
  return kind === 'JOB_EXECUTED' ? 'ok' : kind === 'JOB_STARTED' ? 'live' : 'none';
}

function sentence({ run, reason, detail }) {
  const outcome = run?.outcome;
  const value = outcome?.kind === 'succeeded' && (outcome.value ?? null) !== null ? pretty(outcome.value) : '';
  return [outcome && kindWords(outcome.kind), reasonOf(outcome), value, reason, detail].filter(Boolean).join(': ');
}

function eventItem(event) {
  if (event.lagged) return h('li.event.gap', 'Some events came too fast to be shown here.');
  const at = new Date(event.time);
  const link = (href, text) => h('a', { href, 'data-item': event.run_id ? true : null }, text);
  return h(
    'li.event',
    { 'data-tone': toneOf(event.kind) },
    h('time.mono', { datetime: event.time, title: exact(event.time) }, `${clock(at)}:${String(at.getSeconds()).padStart(2, '0')}`),
    h('span.kind', event.kind.toLowerCase().replaceAll('_', ' ')),
    h('span.what', event.job_id && h('a', { href: `#/jobs/${encodeURIComponent(event.job_id)}` }, event.job_id), event.run_id && [' ', link(`#/runs/${encodeURIComponent(event.run_id)}`, code(shortId(event.run_id)))], ' ', h('span.dim', withCode(sentence(event)))),
  );
}

export async function show(page) {
  const { signal, root, query } = page;
  let group = query.get('show') in GROUPS ? query.get('show') : 'all';
  let paused = false;
  let held = 0;
  let events = [];
  const list = h('ol.events', { tabindex: 0, 'aria-label': 'Events, newest first' });
  const place = h('div');
  const note = h('p.dim', { role: 'status' });
  const text = h('input', { type: 'search', placeholder: 'Filter: job, text', 'aria-label': 'Filter events', 'data-filter': true });
  const kinds = select(Object.entries(GROUPS).map(([name, [words]]) => [name, words]), group);
  const pause = h('button', { type: 'button' });

  const wanted = (event) => {
    if (event.lagged) return true;
    const word = text.value.trim().toLowerCase();
    return GROUPS[group][1](event.kind) && (word === '' || [event.kind, event.job_id, event.run_id, sentence(event)].join(' ').toLowerCase().includes(word));
  };
  const say = () => {
    const lost = live.connection === 'lost' ? 'The connection is lost; it is tried again, and what was missed comes after. ' : '';
    setText(note, lost + (paused ? `Held back: ${plural(held, 'event')}.` : live.connection === 'live' ? 'They come in as they happen.' : ''));
    replace(pause, icon(paused ? 'play' : 'pause'), paused ? 'Go on' : 'Pause');
  };
  const render = () => {
    const found = events.filter(wanted);
    replace(list, found.map(eventItem));
    list.hidden = found.length === 0;
    replace(place, found.length === 0 && empty('Quiet', 'Nothing of this kind has happened lately. On the command line the same is:', command('sandclock events --follow')));
    say();
  };
  let drawing = null;
  const hear = (event) => {
    events.unshift(event);
    events.length = Math.min(events.length, SHOWN_MOST);
    if (paused) {
      held += 1;
      return say();
    }
    // Many at once are drawn once.
    drawing ??= requestAnimationFrame(() => {
      drawing = null;
      render();
    });
  };
  pause.addEventListener('click', () => {
    [paused, held] = [!paused, 0];
    render();
  });
  kinds.addEventListener('change', () => {
    group = kinds.value;
    history.replaceState(null, '', api.withQuery('#/events', { show: group === 'all' ? '' : group }));
    render();
  });
  text.addEventListener('input', render);

  live.onEvent(hear, signal);
  live.onConnection(say, signal);
  signal.addEventListener('abort', () => cancelAnimationFrame(drawing));
  const { last_event: last } = await api.get('/v1/status', { signal });
  const stored = await api.get(api.withQuery('/v1/events', { since: Math.max(last - STORED, 0), limit: STORED * 2 }), { signal });
  const heard = new Set(events.map(({ seq }) => seq));
  events = [...events, ...stored.items.filter(({ seq }) => !heard.has(seq)).reverse()];
  replace(root, h('header.top', h('h1', 'Events'), pause), h('div.toolbar', h('div.search', icon('search'), text), labelled('Show', kinds), note), place, list);
  render();
}

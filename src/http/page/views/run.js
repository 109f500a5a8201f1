// One run: how it ended and what to do, what it used, what it wrote.

import * as api from '../api.js';
import { code, h, replace, withCode } from '../dom.js';
import { pretty } from '../json.js';
import * as live from '../live.js';
import { may } from '../session.js';
import { duration, timeBoth } from '../time.js';
import { adviceOn, brief, bytes, count, kindOf, kindWords, moduleOf, reasonOf, shortId, toneOf } from '../words.js';
import { ProblemSlot, actionButton, confirm, toast } from '../widgets/feedback.js';
import { Logs } from '../widgets/logs.js';
import { mark } from '../widgets/strip.js';
import { facts } from '../widgets/table.js';
import { tookSeconds } from './job.js';

const jobLink = (id) => `#/jobs/${encodeURIComponent(id)}`;

/** How much of a limit was used. */
function meter(name, used, limit, format) {
  if (used === null || used === undefined) return null;
  const share = limit ? Math.min(used / limit, 1) : 0;
  const bar = h('div.fill');
  bar.style.width = `${share * 100}%`;
  return h(
    'div.meter',
    { 'data-tone': share >= 0.9 ? 'warn' : 'ok' },
    h('div.row.between', h('span', name), h('span', { title: count(used) }, format(used), limit && h('span.dim', ` of ${format(limit)}`))),
    limit && h('div.track', { role: 'meter', 'aria-label': name, 'aria-valuemin': 0, 'aria-valuemax': 100, 'aria-valuenow': Math.round(share * 100), 'aria-valuetext': `${format(used)} of ${format(limit)}` }, bar),
  );
}

/** What of the outcome's advice can be done at once. */
function remedies(run, job) {
  const kind = kindOf(run);
  const plugin = moduleOf(run.func);
  if (kind === 'denied') return h('a.button.small', { href: `#/plugins/${encodeURIComponent(plugin)}` }, `Grants of ${plugin}`);
  if (/^(out_of_|timed_out)/.test(kind) && job && may('operate')) return h('a.button.small', { href: `#/edit-job/${encodeURIComponent(run.job_id)}` }, 'Change its limits');
  return null;
}

function outcome(run, job) {
  const kind = kindOf(run);
  const { value, trap, capability, backtrace } = run.outcome ?? {};
  const what = kind === 'trapped' ? trap : kind === 'denied' ? capability : null;
  const reason = reasonOf(run.outcome);
  return h(
    'section.card.outcome',
    { 'data-tone': toneOf(kind) },
    h('div.row', mark(kind), h('h2', kindWords(kind)), what && code(what)),
    reason && h('p.reason', withCode(reason)),
    kind === 'succeeded' && value !== null && value !== undefined && h('pre.value', { tabindex: 0, 'aria-label': 'Returned value' }, pretty(value)),
    kind === 'running' && h('p.dim', 'It goes on; this page follows it.'),
    kind === 'claimed' && h('p.dim', 'It waits for a slot.'),
    adviceOn(kind) && h('p.advice', adviceOn(kind)),
    h('div.row', remedies(run, job)),
    backtrace?.length > 0 && h('details', { open: true }, h('summary', 'Backtrace'), h('ol.backtrace', { tabindex: 0, 'aria-label': 'Backtrace' }, backtrace.map((frame) => h('li', code(frame))))),
  );
}

function uses(run) {
  const list = run.uses ?? [];
  if (list.length === 0) return null;
  const item = ({ what, denied }) => h('li', h('span.badge', { 'data-tone': denied ? 'bad' : 'none' }, h('span.mark', { 'data-grant': denied ? 'missing' : 'granted', 'aria-hidden': 'true' }), denied ? 'denied' : 'used'), ' ', code(what));
  return h('section.card', h('h2', 'What it reached for'), h('ul.plain', list.map(item)));
}

export async function show(page, id) {
  const { signal, root } = page;
  page.title(`Run ${shortId(id)}`);
  let run = await api.get(api.url`/v1/runs/${id}`, { signal });
  // A job that has finished is gone, and its limits with it.
  const job = await api.get(api.url`/v1/jobs/${run.job_id}`, { signal }).catch(() => null);
  const limits = job?.limits ?? {};

  const logs = new Logs();
  const slot = new ProblemSlot();
  const head = h('div');
  const used = h('div.card');
  const reached = h('div');
  const about = h('div.card');
  const cancel = actionButton({
    label: 'Cancel run',
    iconName: 'close',
    style: 'danger',
    slot,
    act: async () => {
      const sure = await confirm({ title: 'Cancel this run?', text: `It is a run of \`${run.job_id}\`; it ends at once, wherever it is.`, verb: 'Cancel run' });
      if (!sure) return;
      await api.post(api.url`/v1/runs/${id}/cancel`);
      toast('Asked for its end.');
    },
  });

  const renderUsed = () => {
    const took = tookSeconds(run) ?? (run.started ? Math.max(Date.now() - Date.parse(run.started), 0) / 1000 : null);
    const meters = [meter('Time', took, limits.timeout, duration), meter('Fuel', run.fuel_used, limits.fuel, brief), meter('Memory', run.memory_peak, limits.memory, bytes)].filter(Boolean);
    replace(used, h('h2', 'Used'), meters.length > 0 ? meters : h('p.dim', 'Nothing was measured.'));
  };
  const render = () => {
    replace(head, outcome(run, job));
    renderUsed();
    replace(reached, uses(run));
    replace(
      about,
      h('h2', 'About'),
      facts(
        ['Job', h('a', { href: jobLink(run.job_id) }, run.job_id)],
        ['Function', code(run.func)],
        ['Fire time', timeBoth(run.scheduled_time)],
        run.started && ['Started', timeBoth(run.started)],
        run.ended && ['Ended', timeBoth(run.ended)],
        ['Asked for by', { trigger: 'its trigger', manual: 'somebody', backfill: 'a backfill' }[run.origin] ?? run.origin],
        ['Attempt', run.attempt],
        run.coalesced > 0 && ['Stands for', `${run.coalesced + 1} fire times`],
        run.arguments && ['Arguments of its own', h('pre.value', pretty(run.arguments.args?.length > 0 ? run.arguments.args : run.arguments.kwargs))],
        run.plugin_digest && ['Component', h('code', { title: run.plugin_digest }, run.plugin_digest.slice(0, 16))],
        run.fingerprint && ['Failures like it', h('a', { href: '#/failures' }, code(run.fingerprint))],
        ['Node', run.node],
        ['Run', code(run.id)],
      ),
    );
    cancel.hidden = run.state === 'ended' || !may('operate');
  };
  const showLogs = async () => logs.show(await api.get(api.url`/v1/runs/${id}/logs`, { signal }));
  let following = false;
  const follow = () => {
    if (following || run.state !== 'running') return;
    following = true;
    logs.follow(id, () => {
      following = false;
      load();
    }, signal);
  };
  const load = async () => {
    const before = run.state;
    run = await api.get(api.url`/v1/runs/${id}`, { signal });
    render();
    if (run.state === 'ended' && before !== 'ended') await showLogs();
    follow();
  };

  render();
  replace(
    root,
    h('nav.crumbs', { 'aria-label': 'Where this is' }, h('a', { href: '#/jobs' }, 'Jobs'), h('a', { href: jobLink(run.job_id) }, run.job_id)),
    h('header.top', h('h1', 'Run ', h('span.mono', shortId(id))), h('div.row.verbs', cancel)),
    slot.node,
    head,
    h('div.columns', h('div', used, reached), about),
    h('section', h('h2', 'What it wrote'), logs.node),
  );
  if (run.state === 'running') follow();
  else await showLogs();
  live.refetch({ signal, wants: (event) => event.run_id === id, load });
  const timer = setInterval(() => run.state === 'running' && !document.hidden && renderUsed(), 1000);
  signal.addEventListener('abort', () => clearInterval(timer));
}

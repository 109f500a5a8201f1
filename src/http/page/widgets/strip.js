// Outcomes at a glance: a shape and a colour for each, and words for those who see neither.

import { h } from '../dom.js';
import { exact } from '../time.js';
import { STATE_TONES, kindOf, kindWords, plural, toneOf } from '../words.js';

const SHOWN = 16;

/** One outcome as a mark and its word. */
export const badge = (kind) => h('span.badge', { 'data-tone': toneOf(kind) }, mark(kind), h('span', kindWords(kind)));

export const mark = (kind) => h('span.mark', { 'data-kind': kind, 'data-tone': toneOf(kind), 'aria-hidden': 'true' });

/** The state of a job. */
export function stateBadge(state) {
  return h('span.badge', { 'data-tone': STATE_TONES[state] ?? 'none' }, h('span.mark', { 'data-state': state, 'aria-hidden': 'true' }), h('span', state));
}

/** The state of a job, and that its last runs failed. */
export function jobBadges(job) {
  if (!(job.failures > 0)) return stateBadge(job.state);
  const words = `${plural(job.failures, 'failure')} in a row`;
  const failing = h('span.badge', { 'data-tone': job.failures < 3 ? 'warn' : 'bad', title: words }, h('span.mark', { 'data-kind': 'failed', 'aria-hidden': 'true' }), h('span', 'failing', h('span.visually-hidden', `, ${words}`)));
  return h('span.badges', stateBadge(job.state), failing);
}

function summary(runs) {
  const counts = new Map();
  for (const run of runs) {
    const words = kindWords(kindOf(run)).toLowerCase();
    counts.set(words, (counts.get(words) ?? 0) + 1);
  }
  const parts = [...counts].map(([words, count]) => `${count} ${words}`);
  return `last ${runs.length}: ${parts.join(', ')}; the newest ${kindWords(kindOf(runs[0])).toLowerCase()}`;
}

/** The last runs, oldest first as one reads; a click leads to the run. */
export function strip(recent) {
  const runs = (recent ?? []).slice(0, SHOWN);
  if (runs.length === 0) return h('span.dim', 'no runs yet');
  const cells = runs.map((run) => {
    const cell = mark(kindOf(run));
    cell.dataset.run = run.id;
    cell.title = `${kindWords(kindOf(run))}, ${exact(run.scheduled_time)}`;
    return cell;
  });
  const open = (event) => {
    const run = event.target.dataset?.run;
    if (run) location.hash = `#/runs/${encodeURIComponent(run)}`;
  };
  return h('span.strip', { role: 'img', 'aria-label': summary(runs), onclick: open }, cells.reverse());
}

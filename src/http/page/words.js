// What states, outcomes and amounts are called.

/** How an outcome is told: its tone (colour), its words, and what to do about it. */
const OUTCOMES = {
  succeeded: ['ok', 'Succeeded', ''],
  failed: [
    'bad',
    'Failed',
    'The plugin itself returned an error. Its message and its log say why; run it again when the cause is gone, or give the job retries.',
  ],
  trapped: [
    'bad',
    'Trapped',
    'The plugin crashed inside its sandbox; nothing else was touched. The backtrace names the functions, with source lines if the component was built with them.',
  ],
  out_of_fuel: [
    'warn',
    'Out of fuel',
    'It computed more than its limit. If it needs that much, raise the fuel limit of the job; if not, look for a loop without an end.',
  ],
  out_of_memory: ['warn', 'Out of memory', 'It wanted more memory than its limit. If it needs that much, raise the memory limit of the job.'],
  timed_out: ['warn', 'Timed out', 'It took longer than its limit. If it needs that long, raise the timeout of the job.'],
  denied: ['warn', 'Denied', 'It used something that it is not granted. If it should have it, grant it on the page of the plugin.'],
  cancelled: ['none', 'Cancelled', 'Somebody ended it, or a newer run took its place.'],
  interrupted: [
    'warn',
    'Interrupted',
    'Its process died while it ran, so nobody knows how far it came. The job says whether it is then run again (on interrupted: rerun).',
  ],
  missed: ['none', 'Missed', 'It could not start within the grace time of its job, so it did not start at all.'],
  skipped: ['none', 'Skipped', 'Its fire time came and it was not started, for the reason given.'],
  invalid: ['bad', 'Invalid', 'It could not be started as its job says: the plugin, the function or the arguments no longer fit.'],
  internal: ['bad', 'Internal', 'The host failed, not the plugin. The log of the daemon has the cause; `sandclock doctor` looks for more.'],
};

const SKIPS = {
  max_instances: 'as many runs as the job may have at one time were still going on',
  catchup_limit: 'more fire times were missed than one catch-up may start',
  paused: 'the job was paused',
};

/** The kind of a run's outcome, or the state that it is in: `running`, `claimed`. */
export const kindOf = (run) => (run.state === 'ended' ? (run.outcome?.kind ?? run.kind ?? 'internal') : run.state);

export function kindWords(kind) {
  if (kind === 'claimed') return 'Waiting';
  if (kind === 'running') return 'Running';
  return OUTCOMES[kind]?.[1] ?? kind;
}

export function toneOf(kind) {
  return kind === 'claimed' || kind === 'running' ? 'live' : (OUTCOMES[kind]?.[0] ?? 'none');
}

export const adviceOn = (kind) => OUTCOMES[kind]?.[2] ?? '';

/** What a run's outcome says beyond its kind. */
export const reasonOf = (outcome) => outcome?.error ?? (outcome?.reason ? (SKIPS[outcome.reason] ?? outcome.reason) : '');

/** The tone of a job's state. */
export const STATE_TONES = { active: 'ok', paused: 'none', quarantined: 'bad', finished: 'none' };

/** `1 234 567`: groups are apart by a thin space that does not break. */
export const count = (number) => String(number).replace(/\B(?=(\d{3})+(?!\d))/g, '\u202f');

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** `12.3 M`: an amount at a glance; the exact one belongs into a title. */
export function brief(number) {
  const unit = ['', 'k', 'M', 'G', 'T', 'P'];
  let at = 0;
  let value = Number(number);
  while (value >= 1000 && at < unit.length - 1) [value, at] = [value / 1000, at + 1];
  return `${Number(value.toPrecision(3))}${at > 0 ? ` ${unit[at]}` : ''}`;
}

export function bytes(number) {
  const unit = ['B', 'KiB', 'MiB', 'GiB'];
  let at = 0;
  let value = Number(number);
  while (value >= 1024 && at < unit.length - 1) [value, at] = [value / 1024, at + 1];
  return `${Number(value.toPrecision(3))} ${unit[at]}`;
}

/** The same without rounding, as one types it: `64MiB`. */
export function exactBytes(number) {
  const [factor, unit] = [[2 ** 30, 'GiB'], [2 ** 20, 'MiB'], [2 ** 10, 'KiB']].find(([factor]) => number > 0 && number % factor === 0) ?? [1, 'B'];
  return `${number / factor}${unit}`;
}

/** Bytes from `64MiB`; null if it is none. */
export function parseBytes(text) {
  const [, number, unit] = /^\s*(\d+)\s*(B|KiB|MiB|GiB|K|M|G)?\s*$/.exec(text) ?? [];
  if (!number) return null;
  return Number(number) * 1024 ** (' KMG'.indexOf((unit ?? ' ')[0]) > 0 ? ' KMG'.indexOf(unit[0]) : 0);
}

/** An id that was made, not chosen: nobody knows a job by it. */
const isMade = (id) => /^[a-z0-9]{26}$/.test(id);

/** What a job is called at the top of what is shown of it; `id` is null where the title is the id. */
export function titleOf({ id, name, func }) {
  return isMade(id) && (name || func) ? { title: name || func, id } : { title: id, id: null };
}

/** A trigger's sentence where there is little room: what an interval is counted from is left out. */
export const shortTrigger = (text) => text.split(', counted from')[0];

/** The module of a func, `hello` of `hello@1.2:greet`. */
export const moduleOf = (func) => String(func).split(/[:@]/, 1)[0];

export const shortId = (id) => (String(id).length > 12 ? `${String(id).slice(0, 10)}…` : id);

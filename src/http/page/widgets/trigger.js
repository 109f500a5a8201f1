// A trigger as text, with what it means beside it while one types.

import * as api from '../api.js';
import { code, h, replace, setText, withCode } from '../dom.js';
import { asWritten, localZone, timeTag } from '../time.js';
import { FieldError, labelled } from './form.js';
import { problemNote } from './feedback.js';

const TYPING_MS = 300;
const EXAMPLES = ['every 5 minutes', 'every weekday at 9', 'on the last friday of each month at 17:00', 'cron 30 2 * * *'];

/** What a trigger means: in words, its next times, and what may surprise. `explained` is of the API;
 * beyond `most` times one asks for the others. */
export function explanation(explained, most = Infinity) {
  const changes = explained.clock_changes.map((change) => {
    const what = change.twice ? 'comes twice' : 'does not exist';
    return h('p.note.warn', `${change.civil.replace('T', ' ')} ${what} in ${change.timezone}: ${change.runs.length > 0 ? `it runs at ${change.runs.map(asWritten).join(' and ')}` : 'it does not run'}`);
  });
  const times = explained.times.map((time, at) => h('li', { hidden: at >= most }, h('time', { datetime: time }, asWritten(time)), ' ', h('span.dim', timeTag(time))));
  const more = h('button.quiet.small', { type: 'button', hidden: times.length <= most }, 'More times');
  more.addEventListener('click', () => {
    times.forEach((time) => (time.hidden = false));
    more.hidden = true;
  });
  return [
    h('p.sentence', withCode(explained.description)),
    explained.notes.map((note) => h('p.note', withCode(note))),
    changes,
    h('ol.times', times),
    times.length > most && h('div', more),
  ];
}

/** An input for a trigger with a live preview. `jobId()` is what `~` is spread by. */
export class TriggerField {
  constructor({ text = '', signal, jobId = () => null, optional = true }) {
    this.optional = optional;
    this.input = h('input.mono', { type: 'text', value: text, autocomplete: 'off', spellcheck: 'false' });
    this.preview = h('div.preview');
    // Said once; the times in the preview change every second.
    this.spoken = h('p.visually-hidden', { role: 'status' });
    const zone = localZone();
    const example = (example) => h('button.chip', { type: 'button', onclick: () => this.write(example) }, example);
    const here = h('button.chip', { type: 'button', title: 'Times of day are in this zone', onclick: () => this.write(this.inZone(zone)) }, `in ${zone}`);
    this.node = h(
      'div',
      labelled('Trigger', this.input, { hint: optional ? 'Plain English, a crontab line, or the text form. Without one it runs once, now.' : 'Plain English, a crontab line, or the text form.' }),
      h('div.row.chips', h('span.dim', 'such as'), EXAMPLES.map(example), zone !== 'UTC' && here),
      this.preview,
      this.spoken,
    );
    this.jobId = jobId;
    this.signal = signal;
    this.input.addEventListener('input', () => this.later());
    signal.addEventListener('abort', () => clearTimeout(this.timer));
    this.look();
  }

  inZone(zone) {
    return `${this.input.value.replace(/\s+in\s+[A-Za-z_]+(\/[A-Za-z_+-]+)*\s*$/, '').trim() || EXAMPLES[1]} in ${zone}`;
  }

  write(text) {
    this.input.value = text;
    this.input.complain('');
    this.input.focus();
    this.look();
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), TYPING_MS);
  }

  async look() {
    clearTimeout(this.timer);
    this.asking?.abort();
    const trigger = this.input.value.trim();
    if (trigger === '') return replace(this.preview, this.optional && h('p.sentence', 'once, now'));
    const asking = (this.asking = new AbortController());
    try {
      const job = this.jobId() || undefined;
      const explained = await api.post('/v1/triggers/preview', { trigger, count: 5, job }, { signal: asking.signal });
      if (asking.signal.aborted) return;
      replace(this.preview, explanation(explained));
      setText(this.spoken, explained.description.replaceAll('`', ''));
    } catch (problem) {
      if (problem.name !== 'AbortError' && !this.signal.aborted) replace(this.preview, problemNote(problem));
    }
  }

  read() {
    const text = this.input.value.trim();
    if (text === '' && !this.optional) throw new FieldError('say when, please', this.input);
    return text === '' ? undefined : text;
  }
}

/** A job's trigger: its sentence, and as it is written. */
export const triggerWords = (job) => h('div', h('p.sentence', withCode(job.trigger_description)), h('p.dim', code(job.trigger_text)));

// What a run wrote: stdout, stderr and its log; of one that goes on, as it writes.

import { url } from '../api.js';
import { clean, h, newId } from '../dom.js';

/** Characters shown of each stream; of more, the end. */
const SHOWN_MOST = 200_000;
const LINES_MOST = 2000;
/** How long to wait where a stream was refused, as when there are too many. */
const REFUSED_MS = 3000;

/** A stream of text that grows at its end, and stays at its end while one looks there. */
class Pane {
  text = '';

  constructor(title) {
    const id = newId('pane');
    this.pre = h('pre.log', { tabindex: 0, role: 'region', 'aria-labelledby': id });
    this.note = h('span.dim');
    this.node = h('section.pane', h('h3', { id }, title, ' ', this.note), this.pre);
    this.node.hidden = true;
  }

  append(text) {
    const atEnd = this.pre.scrollTop + this.pre.clientHeight >= this.pre.scrollHeight - 8;
    this.text += text;
    const cut = this.text.length > SHOWN_MOST;
    if (cut) this.text = this.text.slice(-SHOWN_MOST);
    this.note.textContent = cut ? '(its end)' : '';
    this.pre.textContent = clean(this.text, { lines: true, most: SHOWN_MOST });
    this.node.hidden = this.text === '';
    if (atEnd) this.pre.scrollTop = this.pre.scrollHeight;
  }

  clear() {
    this.text = '';
    this.append('');
  }
}

class Lines {
  constructor() {
    const id = newId('pane');
    this.list = h('ol.log', { tabindex: 0, 'aria-labelledby': id });
    this.node = h('section.pane', h('h3', { id }, 'Log'), this.list);
    this.node.hidden = true;
  }

  append({ level, message }) {
    const atEnd = this.list.scrollTop + this.list.clientHeight >= this.list.scrollHeight - 8;
    const text = clean(message, { lines: true });
    this.list.append(h('li', { 'data-level': level }, h('span.level', level), ' ', Object.assign(h('span'), { textContent: text })));
    if (this.list.children.length > LINES_MOST) this.list.firstElementChild.remove();
    this.node.hidden = false;
    if (atEnd) this.list.scrollTop = this.list.scrollHeight;
  }

  clear() {
    this.list.replaceChildren();
    this.node.hidden = true;
  }
}

/** Shows { stdout, stderr, log }, at once or piece by piece. */
export class Logs {
  stdout = new Pane('stdout');
  stderr = new Pane('stderr');
  lines = new Lines();
  none = h('p.dim', 'It has written nothing.');
  node = h('div.logs', this.lines.node, this.stdout.node, this.stderr.node, this.none);

  show({ stdout = '', stderr = '', log = [] }) {
    this.clear();
    this.stdout.append(stdout);
    this.stderr.append(stderr);
    log.forEach((line) => this.lines.append(line));
    this.look();
  }

  clear() {
    for (const part of [this.stdout, this.stderr, this.lines]) part.clear();
    this.look();
  }

  look() {
    this.none.hidden = [this.stdout, this.stderr, this.lines].some((part) => !part.node.hidden);
  }

  /** Follows a run until it has ended; then `ended` is called. */
  follow(runId, ended, signal) {
    const source = new EventSource(url`/v1/runs/${runId}/logs`);
    const close = () => source.close();
    const on = (name, hear) =>
      source.addEventListener(name, (message) => {
        hear(JSON.parse(message.data || '{}'));
        this.look();
      });
    // Each connection tells all of it from the beginning.
    source.onopen = () => this.clear();
    on('stdout', ({ text }) => this.stdout.append(text));
    on('stderr', ({ text }) => this.stderr.append(text));
    on('log', (line) => this.lines.append(line));
    on('end', () => {
      close();
      ended();
    });
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) setTimeout(() => signal.aborted || ended(), REFUSED_MS);
    };
    signal.addEventListener('abort', close);
  }
}

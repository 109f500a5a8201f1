// The API under /v1: requests, and what went wrong with them.

import { parse, stringify } from './json.js';

/** An error as the API says it (RFC 9457), or the absence of an answer as status 0. */
export class Problem extends Error {
  constructor({ status, code, detail }) {
    super(detail);
    Object.assign(this, { status, code, detail });
  }
}

/** A path whose inserted parts are escaped: url`/v1/jobs/${id}`. */
export function url(parts, ...values) {
  return parts.reduce((path, part, at) => path + encodeURIComponent(values[at - 1]) + part);
}

/** A path with the parameters that are given; null, undefined and '' are left out. */
export function withQuery(path, params) {
  const query = new URLSearchParams(Object.entries(params).filter(([, value]) => (value ?? '') !== ''));
  return query.size === 0 ? path : `${path}?${query}`;
}

/** Told when the session has ended. */
export const session = new EventTarget();

/** What the answer with this status and text means. */
export function problemOf(status, text) {
  let said = {};
  try {
    said = JSON.parse(text) ?? {};
  } catch {
    // An answer that is not the API's own, such as a proxy's.
  }
  const forbidden = status === 403 && said.code === 'forbidden';
  // What is previewed is in sight; that it is a preview need not be said.
  const words = said.detail?.replace(/^invalid preview: /, '');
  const detail = forbidden
    ? `your token may not do this${words ? `: ${words}` : ''}`
    : words || said.title || `the server answered with status ${status}`;
  return new Problem({ status, code: said.code ?? 'unknown', detail });
}

export const offline = () =>
  new Problem({ status: 0, code: 'offline', detail: 'the server does not answer (is `sandclock serve` running?)' });

async function request(method, path, { body, key, signal } = {}) {
  const headers = { Accept: 'application/json' };
  if (method !== 'GET' && method !== 'DELETE') headers['Content-Type'] = 'application/json';
  if (key) headers['Idempotency-Key'] = key;
  const sent = body === undefined ? undefined : stringify(body);
  let status, text;
  try {
    const answer = await fetch(path, { method, headers, body: sent, signal, credentials: 'same-origin' });
    status = answer.status;
    text = await answer.text();
  } catch (error) {
    throw error.name === 'AbortError' ? error : offline();
  }
  if (status >= 200 && status < 300) return text === '' ? null : parse(text);
  const problem = problemOf(status, text);
  if (status === 401 && !path.startsWith('/v1/session')) session.dispatchEvent(new Event('lost'));
  throw problem;
}

export const get = (path, options) => request('GET', path, options);
export const post = (path, body, options) => request('POST', path, { ...options, body });
export const put = (path, body) => request('PUT', path, { body });
export const patch = (path, body) => request('PATCH', path, { body });
export const remove = (path) => request('DELETE', path);

function randomKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** A form's POSTs: the same body again has the same Idempotency-Key, until it has succeeded. */
export class Submission {
  async post(path, body) {
    const text = path + stringify(body);
    if (this.text !== text) Object.assign(this, { text, key: randomKey() });
    const answer = await post(path, body, { key: this.key });
    this.text = null;
    return answer;
  }
}

/** All items of a list that is not long, page by page. */
export async function all(path, { signal, most = 1000 } = {}) {
  const items = [];
  let after;
  do {
    const list = await get(withQuery(path, { after, limit: 200 }), { signal });
    items.push(...list.items);
    after = list.next;
  } while (after && items.length < most);
  return items;
}

/**
 * Sends a component. `tell` hears { sent, total } and { stage } while it goes on. Resolves to what was
 * added; the answer is lines of JSON, or one object from a server that reports no progress.
 */
export function upload(path, file, tell) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    let read = 0;
    let last = null;
    const lines = (final) => {
      const text = xhr.responseText;
      for (let end; (end = text.indexOf('\n', read)) >= 0 || (final && read < text.length); ) {
        const line = text.slice(read, end < 0 ? text.length : end);
        read = end < 0 ? text.length : end + 1;
        if (line.trim() === '') continue;
        last = parse(line);
        if (last.progress) tell(last.progress);
      }
    };
    xhr.open('PUT', path);
    xhr.setRequestHeader('Content-Type', 'application/wasm');
    xhr.setRequestHeader('Accept', 'application/x-ndjson');
    xhr.upload.onprogress = (event) => tell({ stage: 'sending', sent: event.loaded, total: event.total });
    xhr.upload.onload = () => tell({ stage: 'received' });
    xhr.onprogress = () => xhr.status < 300 && lines(false);
    xhr.onerror = () => reject(offline());
    xhr.onload = () => {
      if (xhr.status >= 300) {
        if (xhr.status === 401) session.dispatchEvent(new Event('lost'));
        reject(problemOf(xhr.status, xhr.responseText));
        return;
      }
      try {
        lines(true);
      } catch {
        reject(new Problem({ status: xhr.status, code: 'unknown', detail: 'the answer broke off' }));
        return;
      }
      if (last?.problem) reject(problemOf(last.problem.status, JSON.stringify(last.problem)));
      else if (last?.added || last?.name) resolve(last.added ?? last);
      else reject(new Problem({ status: xhr.status, code: 'unknown', detail: 'the answer broke off' }));
    };
    xhr.send(file);
  });
}

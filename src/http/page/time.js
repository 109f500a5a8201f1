// Times and durations as people read them; always the exact one too.

import { h } from './dom.js';

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** Milliseconds since 1970, with the microseconds that a Date would drop. */
export function instant(iso) {
  const fraction = /\.\d{3}(\d+)/.exec(iso);
  return Date.parse(iso) + (fraction ? Number(`0.${fraction[1]}`) : 0);
}

const two = (number) => String(number).padStart(2, '0');

/** `14:05` in the reader's zone. */
export const clock = (at) => `${two(at.getHours())}:${two(at.getMinutes())}`;

const DAYS = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'];
export const weekday = (at) => DAYS[at.getDay()];

/** `Sun 2026-11-22 18:48:08 +01:00`, in the reader's zone. */
export function exact(iso) {
  const at = new Date(iso);
  if (Number.isNaN(at.getTime())) return String(iso);
  const offset = -at.getTimezoneOffset();
  const zone = `${offset < 0 ? '-' : '+'}${two(Math.floor(Math.abs(offset) / 60))}:${two(Math.abs(offset) % 60)}`;
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${weekday(at)} ${day} ${clock(at)}:${two(at.getSeconds())} ${zone}`;
}

/** `02:30:00` and a date, as an RFC 3339 text with an offset has them: the zone of a trigger. */
export function asWritten(iso) {
  const [, date, time, offset] = /^(\d{4,}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(.*)$/.exec(iso) ?? [];
  if (!date) return String(iso);
  return `${DAYS[new Date(`${date}T12:00:00Z`).getUTCDay()]} ${date} ${time} ${offset === 'Z' ? '+00:00' : offset}`;
}

/** A number of seconds: `340 ms`, `12.3 s`, `4 min 12 s`, `3 h 20 min`. */
export function duration(seconds) {
  const ms = seconds * 1000;
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < SECOND) return `${Math.round(ms)} ms`;
  if (ms < MINUTE) return `${Number((ms / SECOND).toFixed(ms < 10 * SECOND ? 2 : 1))} s`;
  return long(ms);
}

function long(ms) {
  const pair = (big, bigUnit, small, smallUnit) => {
    const rest = Math.floor((ms % big) / small);
    return `${Math.floor(ms / big)} ${bigUnit}${rest > 0 ? ` ${rest} ${smallUnit}` : ''}`;
  };
  if (ms < HOUR) return pair(MINUTE, 'min', SECOND, 's');
  if (ms < DAY) return pair(HOUR, 'h', MINUTE, 'min');
  return pair(DAY, 'd', HOUR, 'h');
}

/** `in 4 min 12 s`, `now`, `3 h 20 min ago`; brief, the first unit alone. */
export function relative(iso, now = Date.now(), { brief = false } = {}) {
  const ms = instant(iso) - now;
  if (!Number.isFinite(ms)) return '';
  if (Math.abs(ms) < SECOND) return 'now';
  const full = Math.abs(ms) < MINUTE ? `${Math.floor(Math.abs(ms) / SECOND)} s` : long(Math.abs(ms));
  const whole = brief ? full.split(' ', 2).join(' ') : full;
  return ms > 0 ? `in ${whole}` : `${whole} ago`;
}

/** A time that keeps its relative text true; the exact one is its title. */
export function timeTag(iso, { due = false, brief = false } = {}) {
  if (!iso) return h('span.dim', '–');
  const tag = h('time', { datetime: iso, title: exact(iso), 'data-tick': due ? 'due' : brief ? 'brief' : 'ago' });
  tick(tag, Date.now());
  return tag;
}

/** The exact time and the relative one beside it. */
export const timeBoth = (iso) =>
  iso ? h('span.when', h('time', { datetime: iso }, exact(iso)), ' ', h('span.dim', '(', timeTag(iso), ')')) : h('span.dim', '–');

function tick(tag, now) {
  const iso = tag.getAttribute('datetime');
  // A countdown that has run out stands at its end until the list says what comes next.
  const text = tag.dataset.tick === 'due' && instant(iso) <= now ? 'due now' : relative(iso, now, { brief: tag.dataset.tick === 'brief' });
  if (tag.textContent !== text) tag.textContent = text;
}

/** Every relative time on the page, once a second, while anybody looks. */
export function startTicking() {
  setInterval(() => {
    if (document.hidden) return;
    const now = Date.now();
    for (const tag of document.querySelectorAll('time[data-tick]')) tick(tag, now);
  }, SECOND);
}

/** The reader's zone, such as `Europe/Berlin`. */
export const localZone = () => Intl.DateTimeFormat().resolvedOptions().timeZone;

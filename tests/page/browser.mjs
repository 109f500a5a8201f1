// The browser, and what every step of the test needs of it.

import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { chromium } from 'playwright-core';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const ARGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const SIZES = { desktop: { width: 1280, height: 800 }, phone: { width: 360, height: 740 } };
const WAIT_MS = 30_000;
/** What no text of the page may have: controls but lines and tabs, and what reorders text. */
const HOSTILE = '[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u202a-\\u202e\\u2066-\\u2069]';

/** `--name value` of the command line. */
export function options(args, names) {
  const given = Object.fromEntries(names.map((name) => [name, args[args.indexOf(`--${name}`) + 1]]).filter(([name]) => args.includes(`--${name}`)));
  const missing = names.find((name) => given[name] === undefined);
  if (missing) throw new Error(`--${missing} is missing; there are ${names.map((name) => `--${name}`).join(' ')}`);
  return given;
}

export function assert(truth, message) {
  if (!truth) throw new Error(message);
}

/** One browser with one page, and a record of what went wrong in it. */
export class Browser {
  /** What the page may complain about in the step that goes on. */
  allowed = [];
  complaints = [];
  shots = 0;

  static async open({ url, size, out }) {
    const browser = new Browser();
    const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
    Object.assign(browser, { url: url.replace(/\/$/, ''), size, out });
    browser.chromium = await chromium.launch({ executablePath, args: ARGS });
    browser.context = await browser.chromium.newContext({ viewport: SIZES[size], colorScheme: 'light', hasTouch: size === 'phone', reducedMotion: 'reduce' });
    browser.context.setDefaultTimeout(WAIT_MS);
    await browser.context.addInitScript(() => {
      window.violations = [];
      document.addEventListener('securitypolicyviolation', (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
    });
    browser.page = await browser.context.newPage();
    browser.page.on('pageerror', (error) => browser.complaints.push(error.stack));
    browser.page.on('console', (message) => message.type() === 'error' && browser.hear(message));
    return browser;
  }

  hear(message) {
    const text = `${message.text()} ${message.location().url ?? ''}`;
    if (!this.allowed.some((allowed) => allowed.test(text))) this.complaints.push(text);
  }

  close() {
    return this.chromium.close();
  }

  async shot(name) {
    this.shots += 1;
    await this.page.screenshot({ path: path.join(this.out, `${String(this.shots).padStart(2, '0')}-${name}-${this.size}.png`) });
  }

  /** Goes to a view by its address, anew if it is shown already, and waits until it shows its heading. */
  async view(hash, heading) {
    await this.page.evaluate((hash) => {
      document.querySelector('.view')?.setAttribute('data-old', '');
      if (location.hash === hash) location.hash = '#/nowhere';
      location.hash = hash;
    }, hash);
    await this.page.locator('main .view:not([data-old]) :is(h1, h2)', { hasText: heading }).first().waitFor();
  }

  button(name, within = this.page) {
    return within.getByRole('button', { name, exact: true });
  }

  link(name, within = this.page) {
    return within.getByRole('link', { name, exact: true });
  }

  field(name, within = this.page) {
    return within.getByLabel(name);
  }

  /** Waits until `text` is shown somewhere. */
  says(text, within = this.page.locator('main')) {
    return within.getByText(text).first().waitFor();
  }

  toast(text) {
    return this.says(text, this.page.locator('#toasts'));
  }

  /** Answers the question that is open. */
  async answer(verb) {
    const dialog = this.page.getByRole('dialog');
    await dialog.waitFor();
    await this.button(verb, dialog).click();
    await dialog.waitFor({ state: 'detached' });
  }

  /** Waits until a function of the page is true. */
  until(what, argument) {
    return this.page.waitForFunction(what, argument);
  }

  /** The API with the page's own session. */
  api(method, path, body) {
    return this.page.evaluate(
      async ([method, path, body]) => {
        const answer = await fetch(path, { method, headers: { 'Content-Type': 'application/json' }, body: body === null ? undefined : JSON.stringify(body) });
        const text = await answer.text();
        return { status: answer.status, body: text ? JSON.parse(text) : null };
      },
      [method, path, body ?? null],
    );
  }

  /** No complaint, no violation of the policy, no script of another, no text that plays tricks. */
  async sound() {
    const { violations, pwned, tricks } = await this.page.evaluate((hostile) => {
      const tricky = new RegExp(hostile);
      const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      const tricks = [];
      while (texts.nextNode()) if (tricky.test(texts.currentNode.data)) tricks.push(texts.currentNode.data.slice(0, 80));
      for (const element of document.querySelectorAll('[title], [aria-label]')) {
        for (const name of ['title', 'aria-label']) if (tricky.test(element.getAttribute(name) ?? '')) tricks.push(element.getAttribute(name).slice(0, 80));
      }
      return { violations: window.violations, pwned: window.pwned, tricks };
    }, HOSTILE);
    assert(pwned === undefined, 'a text of a guest ran as a script');
    assert(violations.length === 0, `the policy was violated: ${violations.join('; ')}`);
    assert(tricks.length === 0, `control characters are shown: ${JSON.stringify(tricks)}`);
    assert(this.complaints.length === 0, `the page complained: ${this.complaints.join('; ')}`);
    if (this.size === 'phone') {
      const over = await this.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert(over <= 0, `it scrolls sideways by ${over} pixels`);
    }
  }

  /** What axe finds that is serious. */
  async accessible() {
    await this.page.evaluate(`if (!window.axe) { ${AXE} }`);
    const found = await this.page.evaluate(async () => {
      const { violations } = await window.axe.run(document, { resultTypes: ['violations'] });
      const grave = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
      return grave.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 4).map(({ html, failureSummary }) => `${html.slice(0, 160)} (${failureSummary.split('\n').slice(1, 3).join(' ').trim()})`).join(' | ')}`);
    });
    assert(found.length === 0, `axe found ${found.join('\n')}`);
  }

  theme() {
    return this.page.evaluate(() => getComputedStyle(document.documentElement).colorScheme);
  }
}

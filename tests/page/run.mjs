// Drives the page of a fresh daemon through everything that it can do.
//
//   node run.mjs --url http://127.0.0.1:7878 --token TOKEN --plugins DIR --out DIR --size desktop|phone --store home|shared
//
// DIR of the plugins has hello.wasm, counter.wasm, unruly.wasm and report.wasm; the token is an operator's.

import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { Browser, assert, options } from './browser.mjs';

const { url, token, plugins, out, size, store } = options(process.argv.slice(2), ['url', 'token', 'plugins', 'out', 'size', 'store']);
mkdirSync(out, { recursive: true });

/** What a guest may try: markup, escapes of terminals, marks that reorder text. */
const PAYLOAD = '<img src=x onerror=window.pwned=1><script>window.pwned=2</script>"><svg onload=window.pwned=3> javascript:window.pwned=4 \u001b[31mred\u001b[0m \u001b]8;;http://evil\u0007link\u001b]8;;\u0007 \u202eevil\u202c \u2066x\u2069\u0000end';
/** What is left of it, and its beginning, where the daemon has marked what it took out of a log or an error. */
const MARKUP = '<img src=x onerror=window.pwned=1><script>window.pwned=2</script>"><svg onload=window.pwned=3> javascript:window.pwned=4';
const SHOWN = `${MARKUP} red link evil xend`;
const LARGE = '18446744073709551615';

const browser = await Browser.open({ url, size, out });
const { page } = browser;
const main = page.locator('main');
const steps = [];
const step = (name, act) => steps.push([name, act]);

async function upload(name) {
  await browser.view('#/add-plugin', 'Add a plugin');
  await page.setInputFiles('#component', path.join(plugins, `${name}.wasm`));
  await browser.says(`${name}.wasm`);
  await browser.button('Add plugin', main).click();
  await main.locator('h1', { hasText: name }).waitFor({ timeout: 60_000 });
}

/** Signs in on the page that asks for it. */
async function signIn(text) {
  await browser.field('Token').fill(text);
  await browser.button('Sign in').click();
}

/** Adds a job through the API, for steps that are about something else. */
async function addJob(spec) {
  const { status, body } = await browser.api('POST', '/v1/jobs', spec);
  assert(status === 201, `adding ${spec.id}: ${JSON.stringify(body)}`);
}

/** Runs a job by its page's own button, and follows it to its run. */
async function runAndWatch(id) {
  await browser.view(`#/jobs/${id}`, id);
  await browser.button('Run now').first().click();
  await page.locator('#toasts').getByRole('link', { name: 'Watch it' }).last().click();
  await main.locator('h1', { hasText: 'Run' }).waitFor();
}

const row = (id) => main.getByRole('row').filter({ has: browser.link(id) });

step('a stranger is asked for a token, and a wrong one is told so', async () => {
  browser.allowed.push(/401/);
  await page.goto(url);
  await browser.field('Token').waitFor();
  await browser.accessible();
  await browser.shot('sign-in');
  await signIn('wrong');
  await browser.says(/token is wrong/);
  assert((await browser.field('Token').inputValue()) === 'wrong', 'what was typed is gone');
});

step('a token signs in', async () => {
  await signIn(token);
  await main.locator('h1', { hasText: 'Jobs' }).waitFor();
  await page.getByText('live', { exact: true }).waitFor();
});

step('an empty page teaches the first command', async () => {
  await browser.says('sandclock plugin add hello.wasm');
  await browser.shot('empty');
  await browser.accessible();
});

step('a plugin is uploaded, and its progress told', async () => {
  await page.evaluate(() => {
    window.stages = [];
    const look = new MutationObserver(() => document.querySelectorAll('[role=status]').forEach((node) => window.stages.push(node.textContent)));
    look.observe(document.getElementById('app'), { subtree: true, childList: true, characterData: true });
  });
  await upload('hello');
  const stages = await page.evaluate(() => window.stages);
  assert(stages.some((stage) => stage.includes('compiling')), `no progress was told: ${[...new Set(stages)]}`);
  await browser.says('complete');
  await browser.says('func(name: string) -> result<string, string>');
});

step('what is no component is refused where it was chosen', async () => {
  browser.allowed.push(/400/);
  await browser.view('#/add-plugin', 'Add a plugin');
  await page.setInputFiles('#component', { name: 'bad.wasm', mimeType: 'application/wasm', buffer: Buffer.from('no component') });
  await browser.button('Add plugin', main).click();
  await browser.says(/plugin refused/);
  assert((await browser.field('Name').inputValue()) === 'bad', 'the name is gone');
});

step('a permission sheet says what is missing, and a form grants it', async () => {
  await upload('counter');
  await browser.says('misses state');
  await browser.says('It asks for this, and cannot be scheduled before it is granted.');
  await browser.shot('permissions');
  await browser.accessible();
  await main.getByText('A state of its own, for each job').click();
  await browser.button('Grant this, and no more').click();
  await browser.toast(/Granted/);
  await browser.says('complete');
});

step('a function is called once, with a form made from its types', async () => {
  await upload('report');
  await browser.button('Call once: report:sample:report/figures#summarise').click();
  const call = main.locator('form.call');
  await browser.button('Add an item', call).first().click();
  await browser.field('name string', call).fill('disk');
  await browser.field('unit enum', call).selectOption('seconds');
  await browser.field('value s64', call).fill('9007199254740993');
  await call.getByText('note: give it').click();
  await browser.field('note string', call).fill(PAYLOAD);
  await browser.field('over variant', call).selectOption('last-days');
  await browser.field('last-days', call).fill('seven');
  await browser.button('Call it', call).click();
  await browser.says('a whole number, please');
  await browser.field('last-days', call).fill('7');
  await call.getByText('names', { exact: true }).click();
  await browser.button('Call it', call).click();
  await browser.says(/"sum": 9007199254740993/);
  await browser.says(/the last 7 days/);
  await browser.shot('called-once');
  await browser.accessible();
});

step('numbers of 64 bits stay what they are', async () => {
  await browser.view('#/plugins/report', 'report');
  await browser.button('Call once: report:sample:report/figures#echo').click();
  await browser.field('number').fill(LARGE);
  await browser.button('Call it').click();
  await browser.says(LARGE, main.locator('.result'));
});

step('arguments can be written as JSON and come back as fields', async () => {
  await browser.button('Write them as JSON').click();
  assert((await browser.field('arguments').inputValue()).includes(LARGE), 'the number was rounded');
  await browser.button('Fill in fields').click();
  assert((await browser.field('number').inputValue()) === LARGE, 'the number was rounded');
});

step('a job is added by its form, with a preview of its trigger', async () => {
  browser.allowed.push(/400/);
  await upload('unruly');
  await browser.view('#/jobs', 'Jobs');
  await browser.link('Add job').click();
  await main.locator('h1', { hasText: 'Add a job' }).waitFor();
  await browser.field('Function').selectOption('hello:greet');
  await browser.field('name string').fill('Ada');
  await browser.field('Trigger').fill('every blue moon');
  await main.locator('.preview .note.bad').waitFor();
  await browser.field('Trigger').fill('every 1s');
  await main.locator('.preview .times li').first().waitFor();
  await browser.field('Id').fill('greeting');
  await main.getByText('More: limits, retries, overlap, tags').click();
  await browser.field('Tags').fill(`team=ops, note=${PAYLOAD.replaceAll('=', '-')}`);
  await browser.field('Timeout').fill('soon');
  await browser.button('Add job').click();
  await browser.says('such as 30s, 5m or 1h30m');
  await browser.field('Timeout').fill('20s');
  await browser.shot('add-job');
  await browser.accessible();
  await browser.button('Add job').click();
  await browser.toast(/Added/);
  await main.locator('h1', { hasText: 'greeting' }).waitFor();
  await browser.says('20 s');
});

step('a refused job leaves the form as it was', async () => {
  await browser.view('#/add-job?func=hello:greet', 'Add a job');
  await browser.field('name string').fill('Eve');
  await browser.field('Id').fill('greeting');
  browser.allowed.push(/409/);
  await browser.button('Add job').click();
  const refusal = main.getByRole('alert').filter({ hasText: 'exists already' });
  await refusal.waitFor();
  const { y, height } = await refusal.boundingBox();
  assert(y >= 0 && y + height <= page.viewportSize().height, 'what is wrong is out of sight');
  await browser.until(() => document.activeElement.getAttribute('aria-invalid') === 'true' && document.activeElement.value === 'greeting');
  await browser.field('Id').fill('greeting-2');
  await refusal.waitFor({ state: 'detached' });
  assert((await browser.field('name string').inputValue()) === 'Eve', 'the argument is gone');
});

step('the list shows it, its countdown and its outcomes, without a reload', async () => {
  await browser.view('#/jobs', 'Jobs');
  await row('greeting').getByRole('img', { name: /succeeded/ }).waitFor();
  await row('greeting').locator('time[data-tick=due]').first().waitFor();
});

step('a job is paused and resumed in the list', async () => {
  await browser.button('Pause greeting').click();
  await row('greeting').getByText('paused', { exact: true }).waitFor();
  await browser.button('Resume greeting').click();
  await row('greeting').getByText('active', { exact: true }).waitFor();
});

step('the filter finds by text, by tag and by state', async () => {
  await addJob({ id: 'idle', func: 'unruly:idle', trigger: 'every day at 9 in Europe/Berlin', paused: true, name: PAYLOAD.slice(0, 120) });
  await row('idle').waitFor();
  await browser.field('Filter jobs').fill('team=ops');
  await row('idle').waitFor({ state: 'detached' });
  await row('greeting').waitFor();
  await browser.field('Filter jobs').fill('');
  await browser.button('paused', main.getByRole('group', { name: 'State' })).click();
  await row('greeting').waitFor({ state: 'detached' });
  await row('idle').waitFor();
  await browser.button('all', main.getByRole('group', { name: 'State' })).click();
});

step('a run is asked for and watched', async () => {
  await runAndWatch('greeting');
  await browser.says('Succeeded');
  await browser.says(/Hello, Ada!/);
  await browser.says('greeting Ada');
  await browser.shot('run');
});

step('a job runs with other arguments', async () => {
  await browser.view('#/jobs/greeting', 'greeting');
  await main.getByText('Run now with other arguments').click();
  await browser.field('name string').fill(PAYLOAD);
  await browser.button('Run now with these').click();
  await page.locator('#toasts').getByRole('link', { name: 'Watch it' }).last().click();
  await browser.says(`greeted ${MARKUP}`);
  await browser.says(`greeting ${SHOWN}`);
});

step('charts tell each run to the keyboard', async () => {
  await browser.view('#/jobs/greeting', 'greeting');
  const slider = page.getByRole('slider', { name: 'Duration, run by run' });
  await slider.waitFor();
  await slider.focus();
  const before = await slider.getAttribute('aria-valuetext');
  await page.keyboard.press('ArrowLeft');
  const after = await slider.getAttribute('aria-valuetext');
  assert(before !== after && /succeeded/.test(after), `it says ${after}`);
  await browser.shot('job');
});

step('its trigger is edited, with what is wrong told at once', async () => {
  browser.allowed.push(/400/);
  await browser.button('Edit trigger').click();
  await browser.field('Trigger').fill('every 0s');
  await main.locator('.preview .note.bad').waitFor();
  await browser.button('Save trigger').click();
  await main.locator('.problem-slot .note.bad').waitFor();
  await browser.field('Trigger').fill('every weekday at 9 in Europe/Berlin');
  await browser.button('Save trigger').click();
  await browser.toast(/another trigger/);
  await browser.says(/09:00, Monday to Friday/);
});

step('its limits are edited', async () => {
  await browser.link('Edit').click();
  await main.locator('h1', { hasText: 'Edit greeting' }).waitFor();
  await browser.field('Memory').fill('32MiB');
  await browser.shot('edit-job');
  await browser.button('Save', main).click();
  await browser.toast(/Changed/);
  await browser.says('32 MiB');
});

step('live logs follow a run, and it is cancelled', async () => {
  await addJob({ id: 'flood', func: 'unruly:flood', args: [4_000_000_000], limits: { timeout: 600, fuel: 10_000_000_000_000 }, trigger: 'every year on january 1 at 0' });
  await runAndWatch('flood');
  await browser.says('Running');
  await browser.says(/line \d+ of many/);
  await browser.shot('live-logs');
  await browser.accessible();
  await browser.button('Cancel run').click();
  await browser.answer('Cancel run');
  await browser.says('Cancelled');
  await browser.says(/line \d+ of many/);
});

step('hostile errors and outputs are shown as text', async () => {
  await addJob({ id: 'fails', func: 'hello:fail', args: [PAYLOAD], trigger: 'every year on january 1 at 0', tags: { note: PAYLOAD.slice(0, 200) } });
  await addJob({ id: 'panics', func: 'unruly:panic', args: [PAYLOAD], trigger: 'every year on january 1 at 0' });
  await runAndWatch('fails');
  await browser.says(MARKUP);
  await browser.sound();
  await runAndWatch('panics');
  await browser.says('Trapped');
  await browser.says('Backtrace');
  await browser.says(/window\.pwned=2/);
});

step('a job whose last run failed says so, and is found', async () => {
  await browser.view('#/jobs', 'Jobs');
  await row('fails').getByText('failing').waitFor();
  await browser.button('failing', main.getByRole('group', { name: 'State' })).click();
  await row('greeting').waitFor({ state: 'detached' });
  await row('fails').waitFor();
});

step('a job without a chosen id is called by its function', async () => {
  const { body } = await browser.api('POST', '/v1/jobs', { func: 'unruly:idle', trigger: 'every 5m' });
  assert(/^[a-z0-9]{26}$/.test(body.id), `the id is ${body.id}`);
  await browser.view('#/jobs', 'Jobs');
  const made = row('unruly:idle');
  await made.getByText(body.id).waitFor();
  assert(!(await made.textContent()).includes('counted from'), 'the list says too much');
  await browser.view(`#/jobs/${body.id}`, 'unruly:idle');
  await browser.says(/counted from/);
  await browser.api('DELETE', `/v1/jobs/${body.id}`);
});

step('failures of a kind are one line', async () => {
  await browser.view('#/failures', 'Failures');
  await main.getByRole('row').filter({ hasText: MARKUP }).first().waitFor();
  await browser.says('Trapped');
});

step('the timeline shows the next day, as a chart and as a table', async () => {
  await addJob({ id: 'often', func: 'unruly:idle', trigger: 'every 7m' });
  await browser.view('#/timeline', 'Next 24 hours');
  const swap = main.getByRole('button', { name: /Show as a/ });
  const first = await swap.textContent();
  assert(first === (size === 'phone' ? 'Show as a chart' : 'Show as a table'), `it offers ${first}`);
  await row('often').waitFor();
  await browser.shot('timeline');
  await swap.click();
  await row('often').waitFor();
  if (size === 'phone') await swap.click();
  await browser.says(/20[5-8] times, next /);
});

step('events come in live, are filtered, and wait while paused', async () => {
  await browser.view('#/events', 'Events');
  const seen = main.locator('.events .event');
  await seen.first().waitFor();
  await browser.api('POST', '/v1/jobs/idle/resume');
  await main.locator('.event', { hasText: 'job resumed' }).filter({ hasText: 'idle' }).first().waitFor();
  await browser.field('Show').selectOption('troubles');
  await main.locator('.event', { hasText: 'job resumed' }).first().waitFor({ state: 'detached' });
  await browser.says('job error');
  await browser.field('Show').selectOption('all');
  await browser.button('Pause', main).click();
  await browser.api('POST', '/v1/jobs/idle/pause');
  await browser.says(/Held back: [1-9]/);
  assert((await main.locator('.event', { hasText: 'job paused' }).filter({ hasText: 'idle' }).count()) === 0, 'it was shown while paused');
  await browser.button('Go on', main).click();
  await main.locator('.event', { hasText: 'job paused' }).filter({ hasText: 'idle' }).first().waitFor();
});

step('a lost connection is told, and comes back by itself', async () => {
  browser.allowed.push(/ERR_/);
  await browser.context.route('**/v1/events?*', (route) => route.abort());
  // A stream that is lost: the page's own is closed by a new one that finds no server.
  await page.reload();
  await page.getByText('disconnected', { exact: true }).waitFor();
  await page.getByText('not known', { exact: true }).waitFor();
  await browser.context.unroute('**/v1/events?*');
  await page.getByText('live', { exact: true }).waitFor({ timeout: 20_000 });
  await page.getByText('scheduling', { exact: true }).waitFor();
});

step('the scheduler is paused and resumed from above', async () => {
  const bar = page.getByRole('group', { name: 'Scheduler' });
  await browser.button('Pause scheduler', bar).click();
  await bar.getByText('paused', { exact: true }).waitFor();
  await browser.button('Resume scheduler', bar).click();
  await bar.getByText('scheduling', { exact: true }).waitFor();
});

step('the nodes that share a store are shown', async () => {
  await browser.view('#/nodes', 'Nodes');
  if (store === 'shared') {
    await main.getByText('this one').waitFor();
    await main.getByText('runs', { exact: true }).waitFor();
    await page.getByRole('navigation', { name: 'Views' }).getByText('Nodes').waitFor();
  } else await browser.says('sandclock serve --store postgres://…');
  await browser.shot('nodes');
});

step('secrets go in and are removed, and a short one is refused', async () => {
  browser.allowed.push(/400/);
  await browser.view('#/secrets', 'Secrets');
  await browser.says('sandclock secret set token < token.txt');
  await browser.field('Name').fill('token');
  await browser.field('Secret', main.locator('form')).fill('short');
  await browser.button('Set secret').click();
  await browser.says(/it must have 8 to/);
  assert((await browser.field('Name').inputValue()) === 'token', 'the name is gone');
  await browser.field('Secret', main.locator('form')).fill('a long enough secret');
  await browser.button('Set secret').click();
  await browser.button('Remove token').waitFor();
  await browser.shot('secrets');
  assert(!(await page.content()).includes('a long enough secret'), 'the secret is in the page');
  await browser.button('Remove token').click();
  await browser.answer('Remove it');
  await browser.button('Remove token').waitFor({ state: 'detached' });
});

step('the keyboard alone goes everywhere', async () => {
  await browser.view('#/jobs', 'Jobs');
  await row('idle').waitFor();
  await page.keyboard.press('/');
  await browser.until(() => document.activeElement.matches('[data-filter]'));
  await page.keyboard.type('idle');
  await row('greeting').waitFor({ state: 'detached' });
  await page.keyboard.press('Enter');
  await browser.until(() => document.activeElement.textContent === 'idle');
  await page.keyboard.press('Enter');
  await main.locator('h1', { hasText: 'idle' }).waitFor();
  await page.keyboard.press('?');
  await page.getByRole('dialog', { name: 'Keyboard shortcuts' }).waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  await page.keyboard.press('g');
  await page.keyboard.press('p');
  await main.locator('h1', { hasText: 'Plugins' }).waitFor();
  for (const [key, name] of [['j', 'counter'], ['j', 'hello'], ['k', 'counter']]) {
    await page.keyboard.press(key);
    await browser.until((name) => document.activeElement.textContent === name, name);
  }
  await page.reload();
  await main.locator('h1', { hasText: 'Plugins' }).waitFor();
  await page.keyboard.press('Tab');
  await browser.until(() => document.activeElement.matches('.skip'));
  await page.keyboard.press('Enter');
  await browser.until(() => document.activeElement.id === 'main');
});

step('every view is sound and accessible in both themes', async () => {
  await browser.view('#/failures', 'Failures');
  const failed = await main.locator('a[href^="#/runs/"]').first().getAttribute('href');
  const views = [
    ['#/jobs', 'Jobs'],
    ['#/jobs/greeting', 'greeting'],
    [failed, 'Run'],
    ['#/add-job?func=report:summarise', 'Add a job'],
    ['#/edit-job/fails', 'Edit fails'],
    ['#/timeline', 'Next 24 hours'],
    ['#/plugins', 'Plugins'],
    ['#/plugins/counter', 'counter'],
    ['#/add-plugin', 'Add a plugin'],
    ['#/events', 'Events'],
    ['#/failures', 'Failures'],
    ['#/nodes', 'Nodes'],
    ['#/secrets', 'Secrets'],
    ['#/nowhere', 'Nothing here'],
  ];
  for (const theme of ['light', 'dark']) {
    if ((await browser.theme()) !== theme && !(theme === 'light' && (await browser.theme()) === 'light dark')) await browser.button('Dark or light').click();
    for (const [hash, heading] of views) {
      await browser.view(hash, heading);
      await browser.accessible().catch((error) => {
        throw new Error(`${hash} (${theme}): ${error.message}`);
      });
      await browser.sound();
      await browser.shot(`${theme}-${heading.toLowerCase().replaceAll(' ', '-')}`);
    }
  }
});

if (size === 'desktop') {
  step('between a phone and a desk nothing is squeezed', async () => {
    const before = page.viewportSize();
    for (const viewport of [{ width: 900, height: 800 }, { width: 768, height: 1024 }, { width: 1024, height: 768 }, { width: 720, height: 800 }]) {
      await page.setViewportSize(viewport);
      const where = `at ${viewport.width} pixels`;
      for (const [hash, heading] of [['#/jobs', 'Jobs'], ['#/timeline', 'Next 24 hours'], ['#/failures', 'Failures'], ['#/jobs/greeting', 'greeting']]) {
        await browser.view(hash, heading);
        const { header, over } = await page.evaluate(() => ({
          header: document.querySelector('header.bar').getBoundingClientRect().height,
          over: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        }));
        assert(header <= 64, `${where} the header of ${hash} is ${header} pixels high`);
        assert(over <= 0, `${where} ${hash} scrolls sideways by ${over} pixels`);
      }
      await browser.view('#/jobs', 'Jobs');
      await row('greeting').waitFor();
      const widths = await main.locator('table.jobs td.main').evaluateAll((cells) => cells.filter((cell) => cell.offsetParent !== null).map((cell) => cell.getBoundingClientRect().width));
      assert(widths.length > 0 && Math.min(...widths) >= 120, `${where} a cell of the job column is ${Math.min(...widths)} pixels wide`);
      await browser.shot(`squeezed-${viewport.width}`);
    }
    await page.setViewportSize(before);
  });
}

step('the chosen theme is remembered', async () => {
  const chosen = await browser.theme();
  await page.reload();
  await main.locator('.view').waitFor();
  assert((await browser.theme()) === chosen, 'it is another');
});

step('a session that ends under a form takes nothing with it', async () => {
  browser.allowed.push(/401/);
  await browser.view('#/add-job?func=hello:greet', 'Add a job');
  await browser.field('name string').fill('Grace');
  await browser.field('Trigger').fill('every day at 9');
  await browser.field('Id').fill('grace');
  const dialog = page.getByRole('dialog', { name: 'Sign in again' });
  const again = async () => {
    await browser.field('Token', dialog).fill(token);
    await browser.button('Sign in', dialog).click();
    await dialog.waitFor({ state: 'detached' });
    assert((await browser.field('name string').inputValue()) === 'Grace', 'the argument is gone');
    assert((await browser.field('Id').inputValue()) === 'grace', 'the id is gone');
  };
  // Nothing is clicked: the stream ends with the session, and the page notices by itself.
  await browser.api('DELETE', '/v1/session');
  await dialog.waitFor({ timeout: 20_000 });
  await browser.accessible();
  await again();
  await page.getByText('live', { exact: true }).waitFor();
  // It is clicked before the page can have noticed.
  await page.evaluate(async () => {
    const add = [...document.querySelectorAll('main button')].find((button) => button.textContent === 'Add job');
    await fetch('/v1/session', { method: 'DELETE' });
    add.click();
  });
  await dialog.waitFor();
  await again();
  await browser.button('Add job').click();
  await main.locator('h1', { hasText: 'grace' }).waitFor();
});

step('a plugin in use is not removed, and the reason is told', async () => {
  browser.allowed.push(/409/);
  await browser.view('#/plugins/unruly', 'unruly');
  await browser.button('Remove', main).click();
  await browser.answer('Remove it');
  await browser.says(/is used by/);
});

step('jobs are removed, after a question', async () => {
  await browser.view('#/jobs', 'Jobs');
  await browser.button('Remove grace').click();
  await browser.answer('Keep it');
  await row('grace').waitFor();
  await browser.button('Remove grace').click();
  await browser.answer('Remove it');
  await row('grace').waitFor({ state: 'detached' });
  await browser.view('#/jobs/greeting', 'greeting');
  await browser.button('Remove', main).click();
  await browser.answer('Remove it');
  await main.locator('h1', { hasText: 'Jobs' }).waitFor();
  await row('greeting').waitFor({ state: 'detached' });
});

step('a plugin is removed', async () => {
  await browser.view('#/plugins/report', 'report');
  await browser.button('Remove', main).click();
  await browser.answer('Remove it');
  await main.locator('h1', { hasText: 'Plugins' }).waitFor();
  await row('report').waitFor({ state: 'detached' });
});

step('signing out ends the session', async () => {
  browser.allowed.push(/401/);
  const { body } = await browser.api('POST', '/v1/tokens', { name: `looker-${size}`, kind: 'read_only' });
  browser.looker = body.text;
  browser.code = (await browser.api('POST', '/v1/session/code')).body.code;
  await browser.button('Account and settings').click();
  await browser.button('Sign out').click();
  await browser.field('Token').waitFor();
  assert((await browser.api('GET', '/v1/jobs')).status === 401, 'the session goes on');
});

step('a code in the address signs in once, and leaves the address', async () => {
  await page.goto('about:blank');
  await page.goto(`${url}/#code=${browser.code}`);
  await main.locator('h1', { hasText: 'Jobs' }).waitFor();
  assert(!page.url().includes('code'), `the address is ${page.url()}`);
  await browser.button('Account and settings').click();
  await browser.button('Sign out').click();
  await browser.field('Token').waitFor();
  await page.goto('about:blank');
  await page.goto(`${url}/#code=${browser.code}`);
  await browser.says(/this address was used already/);
});

step('who comes back after the session has ended is told so', async () => {
  browser.allowed.push(/401/);
  await signIn(browser.looker);
  await main.locator('h1', { hasText: 'Jobs' }).waitFor();
  await browser.context.clearCookies();
  await page.reload();
  await browser.field('Token').waitFor();
  await browser.says(/The session has ended/);
});

step('who may only look sees no verbs', async () => {
  await signIn(browser.looker);
  await main.locator('h1', { hasText: 'Jobs' }).waitFor();
  await row('idle').waitFor();
  assert((await browser.link('Add job').count()) === 0, 'a job can be added');
  assert((await main.getByRole('button', { name: /^(Run now|Pause|Resume|Remove)/ }).count()) === 0, 'there are verbs');
  await browser.view('#/plugins/hello', 'hello');
  assert((await main.getByRole('button', { name: /Call|Remove|Grant/ }).count()) === 0, 'there are verbs');
  await browser.view('#/jobs/idle', 'idle');
  await browser.says(/09:00/);
  assert((await browser.button('Run now').count()) === 0, 'it can be run');
  for (const [hash, heading] of [['#/add-job', 'Add a job'], ['#/edit-job/idle', 'Edit'], ['#/add-plugin', 'Add a plugin']]) {
    await browser.view(hash, heading);
    await browser.says(/only for looking/);
    assert((await main.getByRole('button').count()) === 0, 'there is a form');
  }
});

const began = Date.now();
let failed = 0;
for (const [name, act] of steps) {
  const at = Date.now();
  browser.allowed = [/401 .*\/v1\/session/];
  try {
    await act();
    await browser.sound();
    console.log(`ok ${name} (${Date.now() - at} ms)`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}: ${error.message}`);
    if (browser.complaints.length > 0) console.log(`the page complained: ${browser.complaints.join('; ')}`);
    await browser.shot('failed').catch(() => {});
    break;
  }
}
await browser.close();
console.log(`${steps.length - failed} steps, ${failed} failed, ${((Date.now() - began) / 1000).toFixed(1)} s, ${size}`);
process.exitCode = failed > 0 ? 1 : 0;

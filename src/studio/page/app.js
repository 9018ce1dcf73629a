// The page over the interface. Every text that a model, a job or a user supplies becomes a text node, never markup.
'use strict';

const main = document.getElementById('main');
const said = document.getElementById('said');
const TOKEN = 'tenpak-token';
let leave = () => {};

/** Makes an element: its properties and attributes, then its children. */
function el(name, about = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(about)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else if (key === 'value') made.value = value;
    else made.setAttribute(key === 'className' ? 'class' : key, value === true ? '' : value);
  }
  made.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false)
    .map(child => child instanceof Node ? child : String(child)));
  return made;
}

function say(text) { said.textContent = text; }

function headers(more = {}) {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

/** Asks the interface; a refusal is thrown with what it says. */
async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers(options.headers) });
  const text = await answer.text();
  if (answer.ok) return (answer.headers.get('content-type') || '').includes('json') ? JSON.parse(text) : text;
  let detail = answer.statusText;
  try { detail = JSON.parse(text).detail; } catch { /* No problem details: the status says it. */ }
  const error = new Error(detail);
  error.status = answer.status;
  throw error;
}

const post = (path, body) => ask(path, {
  method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body ?? {}),
});

function bytes(n) {
  if (typeof n !== 'number') return '';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) { n /= 1024; at += 1; }
  return `${at ? n.toFixed(1) : n} ${units[at]}`;
}

const status = state => el('strong', { className: state }, state);
const jobLink = job => el('a', { href: `#/job/${job.id}` }, job.request.name || job.request.model);
const artifactLink = name => el('a', { href: `#/artifact/${encodeURIComponent(name)}` }, name);

function table(caption, columns, rows) {
  return el('div', { className: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption }, el('table', {},
    el('caption', {}, caption),
    el('thead', {}, el('tr', {}, columns.map(name => el('th', { scope: 'col' }, name)))),
    el('tbody', {}, rows.map(row => el('tr', {}, row.map(cell => el('td', {}, cell ?? '')))))));
}

function facts(pairs) {
  return el('dl', {}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== '')
    .flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]));
}

/** A labelled field. */
function field(label, control, hint) {
  return el('label', {}, label, control, hint && el('small', {}, hint));
}

function input(name, about = {}) { return el('input', { name, autocomplete: 'off', spellcheck: 'false', ...about }); }

function choice(name, options) {
  return el('select', { name }, options.map(([value, text]) => el('option', { value }, text)));
}

/** What a form holds, without what is empty. */
function values(form) {
  const all = {};
  for (const control of form.querySelectorAll('[name]')) {
    if (control.closest('[hidden]') || control.value.trim() === '') continue;
    all[control.name] = control.type === 'number' ? Number(control.value) : control.value.trim();
  }
  return all;
}

/** The model that lies in the server's program. */
const SAMPLE = 'sample://austen';

async function submitView() {
  const [{ presets }, { artifacts }, { hardware }, { jobs }, me] = await Promise.all(
    ['/presets', '/artifacts', '/hardware', '/jobs?limit=1', '/me'].map(path => ask(path)));
  const names = artifacts.map(one => one.tag === 'latest' ? one.name : `${one.name}:${one.tag}`);
  const list = el('datalist', { id: 'models' }, [...names, SAMPLE].map(name => el('option', { value: name })));
  const kind = choice('kind', [['compress', 'Compress: quantize a model'],
    ['optimize', 'Optimize: the cheapest form within limits'], ['delta/compress', 'Delta: a fine-tune against its base']]);
  const preset = choice('preset', presets.map(one => [one.preset,
    `${one.preset}: ${one.size_ratio}x smaller${one.calibration ? ', calibrated' : ''}`]));
  const parts = {
    compress: [field('Preset', preset)],
    optimize: [
      field('Most loss of quality', input('max_ppl_delta', { type: 'number', min: 0, step: 'any' }), 'Percent of perplexity'),
      field('Longest latency', input('max_latency_ms', { type: 'number', min: 0, step: 'any' }), 'Milliseconds per token'),
      field('Least compression', input('min_compression', { type: 'number', min: 0, step: 'any' }), 'Times smaller'),
      field('Hardware', choice('hardware', [['', 'this machine'], ...hardware.slice(1).map(one => [one.hardware, one.title])])),
    ],
    'delta/compress': [
      field('Base', input('base', { list: 'models', required: true }), 'The artifact that the model was tuned from'),
      field('Method', choice('method', [['lossless', 'lossless'], ['sparse_int8', 'sparse_int8'], ['uniform', 'uniform']])),
    ],
  };
  const groups = Object.entries(parts).map(([name, fields]) => {
    const group = el('fieldset', { 'data-kind': name }, el('legend', {}, 'How'), fields);
    return group;
  });
  const show = () => groups.forEach(group => {
    const own = group.dataset.kind === kind.value;
    group.hidden = !own;
    group.disabled = !own;
  });
  const problem = el('p', { className: 'error', role: 'alert' });
  const likely = el('p', { className: 'soft', role: 'status', id: 'likely' });
  // What it would take is asked for when whoever fills the form pauses.
  let pause = 0, asked = 0;
  const estimate = () => {
    clearTimeout(pause);
    pause = setTimeout(async () => {
      const { kind: path, ...body } = values(form);
      const number = asked += 1;
      if (!body.model || (path === 'delta/compress' && !body.base)) { likely.textContent = ''; return; }
      try {
        const found = await post('/estimate', { ...body, kind: path.split('/')[0] });
        if (number !== asked) return;
        const parts = [`Reads ${bytes(found.source_bytes)}`];
        if (found.size.raw_bytes) parts.push(`makes about ${bytes(found.size.raw_bytes)}`);
        if (found.similar_jobs > 0) parts.push(`takes about ${found.seconds.likely} s (up to ${found.seconds.high} s), as ${found.similar_jobs} similar jobs did`);
        else parts.push('no similar job has been done yet');
        if (found.cost.likely) parts.push(`costs about ${found.cost.likely} ${found.cost.currency}`);
        likely.textContent = `${parts.join(', ')}.`;
      } catch (error) { if (number === asked) likely.textContent = error.message; }
    }, 500);
  };
  const form = el('form', { onsubmit: async event => {
    event.preventDefault();
    problem.textContent = '';
    const { kind: path, ...body } = values(form);
    try {
      const job = await post(`/${path}`, body);
      say(job.cached ? 'That was made before.' : job.joined ? 'That is under way already.' : 'Submitted.');
      location.hash = `#/job/${job.id}`;
    } catch (error) { problem.textContent = error.message; }
  } },
  field('What', kind), list,
  field('Model', input('model', { list: 'models', required: true }), 'An artifact, hf://org/model, a folder in a bucket or on a web server, upload:ID, or an allowed path'),
  groups, field('Name of the result', input('name'), 'Left out, it is named after the model'), likely,
  el('button', { className: 'main' }, 'Submit'), problem);
  kind.addEventListener('change', show);
  form.addEventListener('input', estimate);
  leave = () => clearTimeout(pause);
  show();
  // Whoever sees no job yet is shown what to do: one click, or a model of their own.
  const sample = () => {
    kind.value = 'compress';
    show();
    form.elements.model.value = SAMPLE;
    preset.value = 'bnb_nf4';
    form.requestSubmit();
  };
  const first = jobs.length === 0 && me.role !== 'viewer' && el('section', { className: 'card', 'aria-label': 'First steps' },
    el('p', {}, 'No jobs yet. See how it works with a model of half a megabyte that comes with this server: a click quantizes it to 4 bits, and shows the job and what it makes.'),
    el('button', { type: 'button', className: 'main', onclick: sample }, 'Try the sample model'),
    el('p', {}, names.length > 0 ? 'Or fill in the form with a model of the store, the Hub or a bucket.'
      : 'Or name a model of the Hub or a bucket in the form, or pack one into the store, which is empty:'),
    names.length === 0 && el('pre', {}, 'tenpak pack MODEL_FOLDER --name org/model'));
  return [el('h2', {}, 'Submit a job'), first, form];
}

async function jobsView() {
  const filter = choice('status', [['', 'every status'], ...['queued', 'running', 'succeeded', 'failed', 'cancelled']
    .map(name => [name, name])]);
  const kinds = choice('kind', [['', 'every kind'], ...['compress', 'optimize', 'delta'].map(name => [name, name])]);
  const place = el('div');
  let cursor = null;
  const more = el('button', { type: 'button', onclick: () => load(true) }, 'Older jobs');
  let shown = [];
  async function load(older) {
    const query = new URLSearchParams({ limit: '50' });
    if (filter.value) query.set('status', filter.value);
    if (kinds.value) query.set('kind', kinds.value);
    if (older && cursor) query.set('cursor', cursor);
    const page = await ask(`/jobs?${query}`);
    cursor = page.next_cursor;
    more.hidden = !cursor;
    shown = older ? [...shown, ...page.jobs] : page.jobs;
    place.replaceChildren(shown.length === 0 ? el('p', {}, 'No jobs yet. ', el('a', { href: '#/new' }, 'Submit one.'))
      : table('Jobs, the newest first', ['Result', 'Kind', 'Status', 'Progress', 'Submitted'], shown.map(job => [
        jobLink(job), job.kind, status(job.status), percent(job), job.created_at])));
  }
  const again = () => load(false).catch(error => say(error.message));
  filter.addEventListener('change', again);
  kinds.addEventListener('change', again);
  await load(false);
  const timer = setInterval(() => { if (shown.length <= 50 && !place.contains(document.activeElement)) again(); }, 2000);
  leave = () => clearInterval(timer);
  return [el('h2', {}, 'Jobs'), el('div', { className: 'row' }, field('Status', filter), field('Kind', kinds)), place, more];
}

function percent(job) {
  const progress = job.progress;
  if (job.status === 'succeeded' || !progress || !progress.total) return '';
  return `${Math.floor(100 * progress.done / progress.total)} %`;
}

/** Follows a job's events to its end, through lost connections. */
function follow(id, onevent) {
  const control = new AbortController();
  let last = 0;
  (async () => {
    while (!control.signal.aborted) {
      try {
        const answer = await fetch(`/jobs/${id}/events`, {
          headers: headers(last ? { 'Last-Event-ID': String(last) } : {}), signal: control.signal });
        if (!answer.ok) return;
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        let text = '';
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          text += value;
          const all = text.split('\n\n');
          text = all.pop();
          for (const one of all) {
            const event = {};
            for (const line of one.split('\n')) {
              const at = line.indexOf(': ');
              if (at > 0) event[line.slice(0, at)] = line.slice(at + 2);
            }
            if (event.id) last = Number(event.id);
            if (event.event) onevent(event.event, JSON.parse(event.data));
            if (event.event === 'end') return;
          }
        }
      } catch { if (control.signal.aborted) return; }
      await new Promise(resolve => setTimeout(resolve, 1000));
    }
  })();
  return () => control.abort();
}

async function jobView(id) {
  let job = await ask(`/jobs/${id}`);
  const top = el('div');
  const bar = el('progress', { max: '1', 'aria-label': 'Progress' });
  const far = el('p', { className: 'soft' });
  const log = el('pre', { tabindex: '0', role: 'log', 'aria-label': 'Log' });
  const result = el('div');
  const act = (what, path) => el('button', { type: 'button', onclick: async () => {
    try {
      const changed = await post(`/jobs/${id}/${path}`);
      say(`${what}: ${changed.status}`);
      if (path === 'retry') location.hash = `#/job/${changed.id}`; else { job = changed; draw(); }
    } catch (error) { say(error.message); }
  } }, what);
  function draw() {
    const active = ['queued', 'running'].includes(job.status);
    const over = ['failed', 'cancelled'].includes(job.status);
    const parts = job.parts || [];
    top.replaceChildren(...[facts([['Status', status(job.status)], ['Kind', job.kind], ['Model', job.request.model],
      ['Base', job.request.base], ['Recipe', job.request.preset || job.request.method], ['Attempt', `${job.attempts} of ${job.max_attempts}`],
      ['Worker', job.worker], ['Submitted', job.created_at], ['Began', job.started_at], ['Ended', job.finished_at],
      ['Tries again', job.retry_of && el('a', { href: `#/job/${job.retry_of}` }, job.retry_of)]]),
    job.error && el('p', { className: 'error' }, job.error),
    parts.length > 0 && table('Parts', ['Part', 'Status', 'Attempts', 'Worker'], parts.map((part, at) => [
      `${at + 1} of ${parts.length}`, status(part.status), part.attempts, part.worker])),
    el('div', { className: 'row' }, active && act('Cancel', 'cancel'), over && act('Retry', 'retry'))].filter(Boolean));
    bar.hidden = far.hidden = !['running', 'cancelling'].includes(job.status) && !(job.status === 'queued' && job.parts);
  }
  function progress(of) {
    if (!of || !of.total) { bar.removeAttribute('value'); return; }
    bar.value = of.done / of.total;
    far.textContent = of.unit === 'bytes' ? `${of.phase}: ${bytes(of.done)} of ${bytes(of.total)}`
      : `${of.phase}: ${of.done} of ${of.total} ${of.unit || ''}`;
  }
  // Candidates as they are found; a later word on one replaces the earlier.
  const found = new Map();
  function candidate(one) {
    found.set(`${one.method} on ${one.hardware}`, one);
    result.replaceChildren(el('h3', {}, 'Candidates so far'), candidates({ candidates: [...found.values()] }));
  }
  async function results() {
    const tried = job.result && Array.isArray(job.result.candidates);
    if (job.status === 'failed' && tried) result.replaceChildren(el('h3', {}, 'What was tried'), candidates(job.result));
    if (job.status !== 'succeeded') return;
    const parts = [el('h3', {}, 'Result')];
    if (tried) parts.push(candidates(job.result));
    try { parts.push(...described(await ask(`/artifact/${id}`))); } catch (error) { parts.push(el('p', { className: 'error' }, error.message)); }
    result.replaceChildren(...parts.filter(Boolean));
  }
  draw();
  progress(job.progress);
  leave = follow(id, async (kind, data) => {
    if (kind === 'progress') {
      progress(data);
      if (data.phase === 'parts') { job = await ask(`/jobs/${id}`); draw(); }
    }
    else if (kind === 'candidate') candidate(data);
    else if (kind === 'log') { log.append(`${data}\n`); log.scrollTop = log.scrollHeight; }
    else if (kind === 'state' || kind === 'end') {
      if (kind === 'state') log.append(`${data.state}${data.error ? `: ${data.error}` : ''}\n`);
      job = await ask(`/jobs/${id}`);
      draw();
      if (kind === 'end') { say(`${job.request.name}: ${job.status}`); await results(); }
    }
  });
  return [el('h2', {}, job.request.name || job.id), top, bar, far, result, el('h3', {}, 'Log'), log];
}

/** What an optimization tried: a plot and a table. */
function candidates(result) {
  const all = result.candidates.filter(one => typeof one === 'object' && one);
  const x = one => Number(one.ppl_delta_percent), y = one => Number(one.cost_per_1m_tokens);
  const known = all.filter(one => Number.isFinite(x(one)) && Number.isFinite(y(one)));
  const winner = result.winner && result.winner.method;
  const plot = [];
  if (known.length > 0) {
    const svg = (name, about, text) => {
      const made = document.createElementNS('http://www.w3.org/2000/svg', name);
      for (const [key, value] of Object.entries(about)) made.setAttribute(key, value);
      if (text) made.textContent = text;
      return made;
    };
    const range = of => { const v = known.map(of); const low = Math.min(...v), high = Math.max(...v); return [low, high - low || 1]; };
    const [x0, dx] = range(x), [y0, dy] = range(y);
    const drawing = svg('svg', { viewBox: '0 0 640 320', role: 'img', 'aria-label': 'Cost against loss of quality; the table has the same' });
    drawing.append(svg('line', { x1: 50, y1: 280, x2: 620, y2: 280 }), svg('line', { x1: 50, y1: 20, x2: 50, y2: 280 }),
      svg('text', { x: 420, y: 305 }, 'loss of quality, percent'), svg('text', { x: 56, y: 18 }, 'cost per 1M tokens'));
    const at = one => [70 + 520 * (x(one) - x0) / dx, 260 - 220 * (y(one) - y0) / dy];
    // What no other candidate beats in both: the front that there is to choose from.
    const front = known.filter(one => !known.some(other => x(other) <= x(one) && y(other) <= y(one)
      && (x(other) < x(one) || y(other) < y(one)))).sort((one, other) => x(one) - x(other));
    drawing.append(svg('polyline', { class: 'front', points: front.map(one => at(one).join(',')).join(' ') }));
    for (const one of known) {
      const [cx, cy] = at(one);
      drawing.append(svg('circle', { cx, cy, r: 6, class: one.method === winner ? 'winner' : one.dropped ? 'dropped' : 'point' }),
        svg('text', { x: cx + 9, y: cy + 4 }, one.method));
    }
    plot.push(drawing);
  }
  return el('div', {}, plot, table('Candidates', ['Method', 'Cost', 'Loss', 'Compression', 'Why not'], all.map(one => [
    one.method, one.cost_per_1m_tokens, one.ppl_delta_percent, one.compression,
    one.method === winner ? 'the winner' : one.dropped || ''])));
}

/** The server's drawing of what an artifact was made from. */
async function lineage(name) {
  const text = await ask(`/lineage/${inPath(name)}`);
  const drawn = new DOMParser().parseFromString(text, 'image/svg+xml').documentElement;
  if (drawn.nodeName !== 'svg') throw new Error('The lineage cannot be drawn.');
  return document.importNode(drawn, true);
}

/** An artifact: lineage, files, tensors. */
function described(shown) {
  const drawing = el('div', { className: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Drawing of the lineage' });
  lineage(shown.artifact).then(drawn => drawing.replaceChildren(drawn), error => drawing.replaceChildren(error.message));
  return [
    facts([['Artifact', artifactLink(shown.artifact)], ['Manifest', el('code', {}, shown.manifest)],
      ['Size', `${bytes(shown.totals.raw_bytes)}, stored as ${bytes(shown.totals.stored_bytes)}`],
      ['Signed by', shown.signed_by.length ? shown.signed_by.join(', ') : 'nobody']]),
    el('h3', {}, 'Lineage'), drawing,
    shown.repeated_bytes ? el('p', { className: 'soft' }, `${bytes(shown.repeated_bytes)} of its tensors are stored once for several.`) : null,
    el('h3', {}, 'Use it'), el('pre', {}, `tenpak load ${shown.artifact}\ntenpak serve ${shown.artifact}`),
    table('Files', ['File', 'Size'], shown.files.map(file => [file.url ? el('a', { href: file.url, download: true,
      onclick: event => { if (sessionStorage.getItem(TOKEN)) { event.preventDefault(); save(file); } } }, file.path) : file.path, bytes(file.bytes)])),
    table('Tensors by layer', ['Name', 'Count', 'Type', 'Shape', 'Size', 'Stored', 'Codecs'], shown.tensors.map(one => [
      one.name, one.count, one.dtype, one.shape.join(' × '), bytes(one.bytes), bytes(one.encoding.stored_bytes),
      Object.entries(one.encoding.codecs).map(([name, n]) => `${name} ${n}`).join(', ')])),
  ];
}

/** Saves a file that needs a token, which a link cannot show. */
async function save(file) {
  try {
    const answer = await fetch(file.url, { headers: headers() });
    if (!answer.ok) throw new Error(answer.statusText);
    const link = el('a', { href: URL.createObjectURL(await answer.blob()), download: file.path.split('/').pop() });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) { say(error.message); }
}

async function artifactsView() {
  const { artifacts } = await ask('/artifacts');
  if (artifacts.length === 0) return [el('h2', {}, 'Artifacts'), el('p', {}, 'The store is empty.')];
  const names = artifacts.map(one => `${one.name}:${one.tag}`);
  const options = names.map(name => [name, name]);
  const compare = el('form', { className: 'row', 'aria-label': 'Compare two artifacts', onsubmit: event => {
    event.preventDefault();
    const { first, second } = values(compare);
    location.hash = `#/diff/${encodeURIComponent(first)}/${encodeURIComponent(second)}`;
  } }, field('Compare', choice('first', options)), field('with', choice('second', options.slice().reverse())), el('button', {}, 'Compare'));
  return [el('h2', {}, 'Artifacts'), compare, table('Artifacts of the store', ['Name', 'Manifest'], artifacts.map(one => [
    artifactLink(`${one.name}:${one.tag}`), el('code', {}, one.manifest.slice(0, 16))]))];
}

const inPath = name => name.split('/').map(encodeURIComponent).join('/');

async function diffView(first, second) {
  const found = await ask(`/artifacts/${inPath(first)}/diff/${inPath(second)}`);
  const changes = (caption, all, count) => all.length === 0 ? el('p', {}, `${caption}: none.`)
    : table(`${caption}: ${count}`, ['Name', 'How'], all.map(one => [one.name, one.change]));
  return [el('h2', {}, `${first} and ${second}`), found.same ? el('p', {}, 'They are the same.') : facts([
    ['In both', `${bytes(found.shared_bytes)} of chunks, ${found.same_files} files, ${found.same_tensors} tensors`],
    ['Only in the first', bytes(found.only_first_bytes)], ['Only in the second', bytes(found.only_second_bytes)]]),
  el('p', {}, artifactLink(first), ' · ', artifactLink(second)),
  changes('Files that differ', found.files, found.changed_files), changes('Tensors that differ', found.tensors, found.changed_tensors)];
}

async function tenantsView() {
  const [{ tenants }, { entries }] = await Promise.all([ask('/tenants'), ask('/audit')]);
  const jobs = one => Object.entries(one.jobs).map(([state, count]) => `${count} ${state}`).join(', ') || 'none';
  const tokens = one => one.tokens.map(token => `${token.name}: ${token.role}, ${token.running} at a time, ${token.active} in all, ${token.daily} a day`).join('; ');
  return [el('h2', {}, 'Tenants'), table('Tenants', ['Tenant', 'Jobs', 'Tokens and quotas'], tenants.map(one => [one.tenant, jobs(one), tokens(one) || 'no token'])),
    el('h3', {}, 'Who did what'), entries.length === 0 ? el('p', {}, 'Nothing yet.')
      : table('The last entries', ['When', 'Tenant', 'Who', 'Did', 'What'], entries.map(one => [one.at, one.tenant, one.who, one.did, one.what]))];
}

async function artifactView(name) {
  return [el('h2', {}, name), ...described(await ask(`/artifacts/${inPath(name)}`))];
}

async function workersView() {
  const { workers } = await ask('/workers');
  return [el('h2', {}, 'Workers'), workers.length === 0 ? el('p', {}, 'No worker was heard of in the last ten minutes.')
    : table('Workers', ['Name', 'Since', 'Last heard of', 'Job'], workers.map(one => [one.name, one.started_at, one.seen_at,
      one.job && el('a', { href: `#/job/${one.job}` }, one.job)]))];
}

function tokenView(why) {
  const given = input('token', { type: 'password', required: true });
  return [el('h2', {}, 'A token, please'), el('p', {}, why), el('form', { onsubmit: event => {
    event.preventDefault();
    sessionStorage.setItem(TOKEN, given.value.trim());
    show();
  } }, field('Token', given, 'Kept until this tab is closed'), el('button', { className: 'main' }, 'Go on'))];
}

const VIEWS = { new: submitView, jobs: jobsView, job: jobView, artifacts: artifactsView, artifact: artifactView, diff: diffView, tenants: tenantsView, workers: workersView };

async function show() {
  leave();
  leave = () => {};
  const [, name = 'jobs', ...rest] = location.hash.split('/').map(decodeURIComponent);
  const hash = location.hash;
  for (const link of document.querySelectorAll('nav a')) {
    if (link.getAttribute('href') === `#/${name}`) link.setAttribute('aria-current', 'page'); else link.removeAttribute('aria-current');
  }
  try {
    const me = await ask('/me');
    document.getElementById('who').textContent = me.tokens ? `${me.name}, ${me.role} of ${me.tenant}` : '';
    for (const link of document.querySelectorAll('.operators')) link.hidden = me.role !== 'operator';
    const made = await (VIEWS[name] || jobsView)(...rest);
    if (hash === location.hash) main.replaceChildren(...made.flat().filter(Boolean));
  } catch (error) {
    main.replaceChildren(...(error.status === 401 ? tokenView(error.message) : [el('h2', {}, 'That did not work'), el('p', { className: 'error', role: 'alert' }, error.message)]));
  }
  document.title = `${(main.querySelector('h2') || {}).textContent || ''} · TenPak Studio`;
}

window.addEventListener('hashchange', () => show().then(() => main.focus()));
document.querySelector('.skip').addEventListener('click', event => { event.preventDefault(); main.focus(); });
if (!location.hash) location.hash = '#/new'; else show();

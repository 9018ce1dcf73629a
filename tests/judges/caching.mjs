// The public suite of tests for HTTP caches, run by its own engine against an edge that relays refs:
//
//     git clone https://github.com/http-tests/cache-tests
//     node tests/judges/caching.mjs cache-tests target/release/tenpak
//
// Prints how many of the required checks apply, and fails if one of those does not pass.
//
// The suite asks for /test/ID; an edge relays only what a store may hold, and of it the bytes: what else
// an origin's head says, but for caching, is nobody's who reads a store. So between suite and edge, on
// both sides, the path becomes that of a ref, and those other headers travel in the body. What decides
// about caching travels as it is, both ways. An edge takes a ref that says nothing for fresh for a while
// (--fresh); here for a second, which is less than the suite waits.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import http from 'node:http'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

// Checks that concern nothing that an edge relays, by the beginning of their names, and why.
const LEFT_OUT = [
  [/^headers-|^other-set-cookie/, 'no header of the origin but those of caching is handed on'],
  [/^304-|^conditional-etag-vary-headers|^cc-resp-must-revalidate-stale|^conditional-304-etag/,
    'stale refs are small and asked for again whole: no 304 comes from an origin'],
  [/^vary-(?!star|syntax)|^other-authorization|^query-args/,
    'every origin is sent the same request whoever asks, without credentials and query: one variant'],
  [/^status-(?!200)|^heuristic-\d|^invalidate-|^interim-|^method-/,
    'a status other than 200 is an error of the store, and nothing but GET reaches an origin'],
  [/^partial-/, 'only whole objects are kept, and cut at the edge'],
  [/^cdn-/, 'CDN-Cache-Control is for those who run the CDN'],
  [/^stale-while-revalidate/, 'a stale ref is never handed out while the origin answers']
]

const REF = '/refs/case/@'
// What an edge answers itself, or hands on, and what is about the connection.
const EDGE = ['cache-control', 'age', 'date', 'etag', 'content-length', 'connection', 'keep-alive', 'transfer-encoding']
const BOTH = ['expires', 'last-modified', 'vary', 'pragma']
const HOP = ['connection', 'keep-alive', 'transfer-encoding', 'content-length']
// What the client last said of itself, by path: the suite's server wants to hear it.
const said = new Map()

const hop = headers => Object.fromEntries(Object.entries(headers).filter(([name]) => ![...HOP, 'host'].includes(name)))

function pairs (raw) {
  return raw.reduce((all, value, at) => { at % 2 ? all.at(-1).push(value) : all.push([value]); return all }, [])
}

function whole (stream) {
  return new Promise((resolve, reject) => {
    const parts = []
    stream.on('data', part => parts.push(part)).on('end', () => resolve(Buffer.concat(parts))).on('error', reject)
  })
}

function ask (port, method, target, headers, body) {
  return new Promise((resolve, reject) => {
    const request = http.request({ host: '127.0.0.1', port, method, path: target, headers, agent: false }, resolve)
    request.on('error', reject)
    request.end(body)
  })
}

function answer (response, status, lines, body) {
  const kept = lines.filter(([name]) => !HOP.includes(name.toLowerCase()))
  response.sendDate = false
  response.writeHead(status, [...kept, ['Content-Length', String(body.length)]].flat())
  response.end(body)
}

// Serves on a free port, or on that one; a failure breaks the connection, as the suite's server may.
async function serve (port, handle) {
  const server = http.createServer((request, response) => handle(request, response).catch(() => response.destroy()))
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  return server
}

const [suite, tenpak] = process.argv.slice(2)
if (!tenpak) throw new Error('usage: node caching.mjs CACHE-TESTS-FOLDER TENPAK')
const load = file => import(pathToFileURL(path.resolve(suite, file)))
const [{ default: tests }, { runTests, getResults }, { testResults }, { determineTestResult, resultTypes }] = await Promise.all(
  ['tests/index.mjs', 'test-engine/client/runner.mjs', 'test-engine/client/test.mjs', 'test-engine/lib/results.mjs'].map(load))

const free = await serve(0, async () => {})
const suitePort = free.address().port
free.close()
const env = { ...process.env, npm_config_protocol: 'http', npm_config_port: suitePort, npm_config_pidfile: '/dev/null' }
const server = spawn('node', ['--no-warnings', path.join(suite, 'test-engine/server/server.mjs')], { env, stdio: ['ignore', 'pipe', 'inherit'] })
await once(server.stdout, 'data')

// The edge's origin: the suite's server.
const back = await serve(0, async (request, response) => {
  const target = request.url.startsWith(REF) ? '/test/' + request.url.slice(REF.length) : request.url
  const headers = { ...hop(request.headers), ...said.get(request.url), host: 'suite' }
  const told = await ask(suitePort, request.method, target, headers)
  const body = await whole(told)
  const lines = pairs(told.rawHeaders)
  const hidden = lines.filter(([name]) => !EDGE.includes(name.toLowerCase()))
  const open = lines.filter(([name]) => [...EDGE, ...BOTH].includes(name.toLowerCase()))
  answer(response, told.statusCode, open, Buffer.concat([Buffer.from(JSON.stringify(hidden) + '\n'), body]))
})
const origin = `http://127.0.0.1:${back.address().port}/`
const edge = spawn(tenpak, ['--json', 'edge', '--origin', origin, '--listen', '127.0.0.1:0', '--fresh', '1'], { stdio: ['ignore', 'pipe', 'inherit'] })
const [line] = await Promise.race([once(edge.stdout, 'data'), once(edge, 'exit')])
const edgePort = new URL(JSON.parse(line).listening).port

// The suite's client: to the edge; its settings straight to the suite's server.
const front = await serve(0, async (request, response) => {
  const body = await whole(request)
  const isTest = request.url.startsWith('/test/')
  const target = isTest ? REF + request.url.slice('/test/'.length) : request.url
  if (isTest) said.set(target.split('?')[0], { 'req-num': request.headers['req-num'], 'test-id': request.headers['test-id'] })
  const headers = { ...hop(request.headers), host: 'suite' }
  if (body.length) headers['content-length'] = body.length
  const told = await ask(isTest ? edgePort : suitePort, request.method, target, headers, body)
  let [bytes, lines] = [await whole(told), pairs(told.rawHeaders)]
  if (isTest && told.statusCode === 200 && bytes.length) {
    const end = bytes.indexOf('\n')
    const hidden = JSON.parse(bytes.subarray(0, end))
    const given = hidden.map(([name]) => name.toLowerCase())
    lines = [...lines.filter(([name]) => !given.includes(name.toLowerCase())), ...hidden]
    bytes = bytes.subarray(end + 1)
  }
  answer(response, told.statusCode, lines, bytes)
})

try {
  const base = `http://127.0.0.1:${front.address().port}`
  await runTests(tests, false, base)
  // On a busy machine an answer may be late, and an edge asks a second time: not what is tested here.
  const isTwice = test => testResults[test.id]?.[1] === 'retry'
  for (let round = 0; round < 3; round += 1) {
    const again = tests.map(suite => ({ ...suite, tests: suite.tests.filter(isTwice) }))
    for (const test of again.flatMap(suite => suite.tests)) delete testResults[test.id]
    await runTests(again, false, base)
  }
  const results = getResults()
  const left = new Map(LEFT_OUT.map(([, why]) => [why, 0]))
  let [required, passed, optional] = [0, 0, 0]
  const failed = []
  for (const test of tests.flatMap(suite => suite.tests).filter(test => !test.browser_only)) {
    const result = determineTestResult(tests, test.id, results)
    const isRequired = (test.kind ?? 'required') === 'required'
    const out = LEFT_OUT.find(([names]) => names.test(test.id))
    if (isRequired) required += 1
    if (isRequired && out) left.set(out[1], left.get(out[1]) + 1)
    else if (isRequired && result === resultTypes.pass) passed += 1
    else if (isRequired) failed.push(`${test.id}: ${result[2]} ${JSON.stringify(results[test.id])}`)
    else if (test.kind === 'optimal' && result === resultTypes.pass) optional += 1
  }
  const applied = passed + failed.length
  console.log(`${required} required checks: ${applied} apply, ${passed} pass, ${failed.length} do not; ${optional} optional ones pass, too`)
  for (const [why, count] of left) if (count) console.log(`  ${count} left out: ${why}`)
  for (const line of failed) console.log(`  FAILED ${line}`)
  process.exitCode = failed.length || applied < 60 ? 1 : 0
} finally {
  for (const one of [front, back]) one.close().closeAllConnections()
  for (const one of [edge, server]) one.kill()
}

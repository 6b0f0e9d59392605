// The ticket's HTTP server around the recipe's client.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { Client, Overloaded } from './client.ts';

const setting = (name: string, start: number) => Number(process.env[name] ?? start);
const DEADLINE = setting('DEADLINE_SECONDS', 5) * 1000;
const MAX_BODY = setting('MAX_BODY_BYTES', 1_048_576);

const partner = new Client(process.env.UPSTREAM_URL ?? '', {
  deadline: DEADLINE,
  attemptTimeout: DEADLINE, // a slow answer is an answer
  attempts: setting('MAX_ATTEMPTS', 3),
  running: setting('MAX_CONCURRENT', 20),
  waiting: setting('MAX_WAITING', 50),
  maxBytes: setting('MAX_RESPONSE_BYTES', 5_242_880),
});

const refused = (status: number, code: string) => Object.assign(new Error(code), { status });

async function read(req: IncomingMessage): Promise<Buffer<ArrayBuffer>> {
  const chunks: Buffer[] = [];
  let size = 0;
  if (Number(req.headers['content-length'] ?? 0) > MAX_BODY) throw refused(413, 'too_large');
  for await (const chunk of req.iterator({ destroyOnReturn: false })) {
    if ((size += chunk.length) > MAX_BODY) throw refused(413, 'too_large');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function send(res: ServerResponse, status: number, value: object) {
  if (res.headersSent || res.destroyed) return;
  if (status === 503) res.setHeader('Retry-After', '1');
  if (status === 413 || stopping) res.setHeader('Connection', 'close');
  res.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(value));
}

async function handle(req: IncomingMessage, res: ServerResponse) {
  const left = new AbortController();
  running.add(res.on('close', () => (running.delete(res), left.abort())));
  try {
    const url = new URL('http://x' + req.url);
    const route = `${req.method} ${url.pathname}`;
    if (route === 'GET /healthz') return send(res, 200, { status: 'ok' });
    if (route !== 'GET /fetch' && route !== 'POST /send') throw refused(404, 'not_found');
    const path = url.searchParams.get('path') ?? '';
    if (!/^\/(?![/\\])[!-"$-~]*$/.test(path)) throw refused(400, 'invalid_path');
    const given = req.headers['x-deadline-ms'];
    if (given !== undefined && !/^0*[1-9]\d*$/.test(String(given))) throw refused(400, 'invalid_deadline');
    const body = route === 'POST /send' ? await read(req) : undefined;
    const headers: Record<string, string> = {};
    for (const name of body ? ['content-type', 'idempotency-key'] : [])
      if (req.headers[name] !== undefined) headers[name] = String(req.headers[name]);
    const deadline = Math.min(DEADLINE, Number(given ?? DEADLINE));
    const answer = await partner.call(path, { method: req.method, headers, body, deadline, signal: left.signal });
    if (answer.status === 429 || answer.status >= 500) throw refused(502, 'upstream_failed');
    const type = answer.headers['content-type'];
    if (stopping) res.setHeader('Connection', 'close');
    res.writeHead(answer.status, type === undefined ? {} : { 'Content-Type': type }).end(answer.body);
  } catch (error: any) {
    if (error.status) send(res, error.status, { error: error.message });
    else if (error.name === 'TimeoutError') send(res, 504, { error: 'deadline' });
    else if (error instanceof Overloaded) send(res, 503, { error: 'busy' });
    else send(res, 502, { error: 'upstream_failed' });
    console.error(req.method, 'failed:', error.message, error.cause?.message ?? '');
  }
}

const running = new Set<ServerResponse>();
let stopping = false;
const server = createServer({ keepAliveTimeout: 65_000 }, handle);
server.listen(setting('PORT', 8080), '127.0.0.1');

process.once('SIGTERM', () => {
  stopping = true;
  server.close();
  setTimeout(() => process.exit(0), setting('DRAIN_SECONDS', 10) * 1000);
  setInterval(() => running.size === 0 && process.exit(0), 50);
});

// The ticket's routes on the recipe node-graceful-shutdown.
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { serve } from './server.ts';

const MAX_BODY = Number(process.env.MAX_BODY_BYTES ?? 104_857_600);

function number(text: string | null, least: number, most: number): number | undefined {
  const value = text !== null && /^\d{1,9}$/.test(text) ? Number(text) : -1;
  return value >= least && value <= most ? value : undefined;
}

function send(res: ServerResponse, status: number, value: object) {
  res.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(value));
}

async function upload(req: IncomingMessage, res: ServerResponse) {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of req) {
    if ((bytes += chunk.length) > MAX_BODY) break;
    hash.update(chunk);
  }
  if (bytes <= MAX_BODY) return send(res, 200, { bytes, sha256: hash.digest('hex') });
  res.setHeader('Connection', 'close'); // nobody reads the rest
  send(res, 413, { error: 'too_large' });
}

async function stream(res: ServerResponse, count: number, ms: number) {
  res.writeHead(200, { 'Content-Type': 'text/plain' });
  const gone = new AbortController();
  res.on('close', () => gone.abort());
  for (let line = 1; line <= count && !res.destroyed; line++) {
    if (!res.write(`line ${line}\n`)) await once(res, 'drain', { signal: gone.signal });
    if (ms) await sleep(ms, undefined, { signal: gone.signal });
  }
  res.end('end\n');
}

async function handle(req: IncomingMessage, res: ServerResponse) {
  const { pathname, searchParams } = new URL('http://x' + req.url);
  const route = `${req.method} ${pathname}`;
  if (route === 'GET /fast') return send(res, 200, { ok: true });
  if (route === 'POST /upload') return upload(req, res);
  if (route === 'GET /slow') {
    const ms = number(searchParams.get('ms'), 0, 60_000);
    if (ms === undefined) return send(res, 400, { error: 'invalid_request' });
    await sleep(ms);
    return send(res, 200, { slept: ms });
  }
  if (route === 'GET /stream') {
    const count = number(searchParams.get('count') ?? '10', 1, 100_000);
    const ms = number(searchParams.get('ms') ?? '100', 0, 60_000);
    if (count === undefined || ms === undefined) return send(res, 400, { error: 'invalid_request' });
    return stream(res, count, ms);
  }
  send(res, 404, { error: 'not_found' });
}

serve(handle, async () => {}, Number(process.env.PORT), '127.0.0.1');

// The recipe node-webhook-receiver (what receives and stores; another worker takes the events from the table).
import { createHmac, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import { Pool } from 'pg';

const setting = (name: string, start: number) => Number(process.env[name] ?? start);
const MAX_BODY = setting('MAX_BODY_BYTES', 262_144);
const TOLERANCE = setting('TOLERANCE_SECONDS', 300); // seconds between the sender's clock and ours
const REQUEST_TIMEOUT = setting('BODY_SECONDS', 10) * 1000; // for head and body together
const DB_TIMEOUT = setting('TIMEOUT_SECONDS', 3) * 500; // a connection takes as long at most, and so does the insert

// HMAC takes an empty key, which anybody has: it may not pass in silence.
const SECRETS = (process.env.WEBHOOK_SECRET ?? '').split(',');
if (SECRETS.some((secret) => secret === '')) throw new Error('WEBHOOK_SECRET is empty or has an empty part');

const pool = new Pool({
  connectionString: process.env.DATABASE_URL,
  max: 10,
  connectionTimeoutMillis: DB_TIMEOUT,
  statement_timeout: DB_TIMEOUT,
  query_timeout: DB_TIMEOUT + 200, // when nothing answers at all: the server's own timeout comes first
});
// Unheard, the loss of a connection ends the process.
pool.on('error', (error) => console.error('idle connection lost:', error.message));
pool.on('connect', (client) => client.on('error', () => {})); // its query fails too, and says why
let stopping = false;

const refused = (status: number, why: string) => Object.assign(new Error(why), { status });

function read(req: IncomingMessage): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    const tooLarge = (bytes: number) => bytes > MAX_BODY && (reject(refused(413, 'too_large')), true);
    if (tooLarge(Number(req.headers['content-length'] ?? 0))) return;
    req.on('data', (chunk: Buffer) => tooLarge((size += chunk.length)) || chunks.push(chunk));
    req.on('end', () => resolve(Buffer.concat(chunks)));
    req.on('error', () => reject(refused(400, 'cut_off'))); // hung up, or REQUEST_TIMEOUT, which Node answers
  });
}

function verify(headers: IncomingHttpHeaders, body: Buffer): void {
  const [, at, hex] = /^t=(\d{1,12}),v1=([0-9a-f]{64})$/.exec(String(headers['x-signature'] ?? '')) ?? [];
  if (!at || !hex || Math.abs(Date.now() / 1000 - Number(at)) > TOLERANCE) throw refused(401, 'invalid_signature');
  const given = Buffer.from(hex, 'hex');
  const genuine = SECRETS.some((secret) => {
    const wanted = createHmac('sha256', secret).update(`${at}.`).update(body).digest();
    return timingSafeEqual(given, wanted);
  });
  if (!genuine) throw refused(401, 'invalid_signature');
}

function parse(body: Buffer): { id: string; type: string; text: string } {
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(body);
    const { id, type } = JSON.parse(text);
    if (typeof id === 'string' && /^[\w-]{1,255}$/.test(id) && typeof type === 'string' && /^[\w.-]{1,255}$/.test(type))
      return { id, type, text };
  } catch {} // as below
  throw refused(400, 'invalid_event');
}

const INSERT = 'INSERT INTO webhook_events (id, type, body) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING';

async function handle(req: IncomingMessage, res: ServerResponse) {
  let status = 200;
  let answer: object = { received: true };
  try {
    if (req.url === '/healthz') answer = { status: 'ok' };
    else if (req.method !== 'POST' || req.url !== '/webhooks') throw refused(404, 'not_found');
    else {
      const body = await read(req);
      verify(req.headers, body);
      const { id, type, text } = parse(body);
      await pool.query(INSERT, [id, type, text]);
    }
  } catch (error: any) {
    status = error.status ?? 503; // stored or not: the sender tries again, and the key decides
    answer = { error: error.status ? error.message : 'unavailable' };
    console.error('not accepted:', status, error.message || error.code);
  }
  if (status !== 200 || stopping) res.setHeader('Connection', 'close'); // the rest of a body may still be coming
  res.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(answer));
}

const timeouts = { requestTimeout: REQUEST_TIMEOUT, headersTimeout: REQUEST_TIMEOUT, connectionsCheckingInterval: 500 };
const server = createServer({ ...timeouts, keepAliveTimeout: 65_000 }, handle);
server.listen(setting('PORT', 8080), '127.0.0.1');
server.maxConnections = 500; // times MAX_BODY is the memory that strangers can take

process.once('SIGTERM', async () => {
  stopping = true;
  setTimeout(() => process.exit(0), setting('DRAIN_SECONDS', 10) * 1000).unref(); // only half requests are left then
  await new Promise((closed) => server.close(closed));
  await pool.end();
  process.exit(0);
});
